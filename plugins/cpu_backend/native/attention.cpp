#include "attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace hc {
namespace {

constexpr int kMostDimensions = 1024;

void put_pair_half(std::byte *pairs, std::size_t index, int half, uint16_t value) { std::memcpy(pairs + index * 4 + std::size_t(half) * 2, &value, 2); }

} // namespace

// ---- blocks -----------------------------------------------------------------------------------------------------

KvCache::KvCache(int num_kv_heads, int head_dim, bool is_bf16) : num_kv_heads_(num_kv_heads), head_dim_(head_dim), is_bf16_(is_bf16) {}

void KvCache::allocate(int num_blocks, int block_size) {
  if (num_blocks == num_blocks_ && block_size == block_size_) return;
  keys_ = {};
  values_ = {};
  num_blocks_ = num_blocks;
  block_size_ = block_size;
  const std::size_t bytes = std::size_t(num_blocks) * std::size_t(num_kv_heads_) * head_bytes();
  keys_ = Array<std::byte>(bytes);
  values_ = Array<std::byte>(bytes);
}

const std::byte *KvCache::keys(int block, int offset, int kv_head) const {
  return keys_.data() + head_at(block, kv_head) + std::size_t(offset) * row_unit();
}

const std::byte *KvCache::values(int block, int offset, int kv_head) const {
  return values_.data() + head_at(block, kv_head) + std::size_t(offset) * std::size_t(head_dim_) * element_bytes();
}

void KvCache::write(const Kernels &kernels, int block, int offset, int kv_head, const float *key, const float *value) {
  std::byte *keys = keys_.data() + head_at(block, kv_head), *values = values_.data() + head_at(block, kv_head);
  const std::size_t size = std::size_t(block_size_), at = std::size_t(offset);
  // What other sequences left behind it could be no numbers, and zero times that is no number.
  if (offset % kPiece == 0) std::memset(values + at * std::size_t(head_dim_) * element_bytes(), 0, kPiece * std::size_t(head_dim_) * element_bytes());

  if (!is_bf16_) {
    for (int d = 0; d < head_dim_; ++d) std::memcpy(keys + (std::size_t(d) * size + at) * 4, key + d, 4);
    std::memcpy(values + at * std::size_t(head_dim_) * 4, value, std::size_t(head_dim_) * 4);
    return;
  }

  uint16_t rounded[kMostDimensions];
  kernels.to_bf16(key, head_dim_, rounded);
  for (int d = 0; d < head_dim_; d += 2) std::memcpy(keys + (std::size_t(d / 2) * size + at) * 4, rounded + d, 4);
  kernels.to_bf16(value, head_dim_, rounded);
  std::byte *pairs = values + at / 2 * std::size_t(head_dim_) * 4;
  for (int d = 0; d < head_dim_; ++d) put_pair_half(pairs, std::size_t(d), offset % 2, rounded[d]);
}

void KvCache::copy(int from, int to) {
  const std::size_t bytes = std::size_t(num_kv_heads_) * head_bytes();
  std::memcpy(keys_.data() + std::size_t(to) * bytes, keys_.data() + std::size_t(from) * bytes, bytes);
  std::memcpy(values_.data() + std::size_t(to) * bytes, values_.data() + std::size_t(from) * bytes, bytes);
}

// ---- attention --------------------------------------------------------------------------------------------------

AttentionScratch::AttentionScratch(int num_threads, int max_head_dim)
    : max_head_dim_(max_head_dim),
      floats_(std::size_t(num_threads) * (2 * kQueries * std::size_t(max_head_dim) + kTileRows * kChunk + 2 * kQueries)),
      halves_(std::size_t(num_threads) * (kQueries * std::size_t(max_head_dim) + kTileRows * kChunk)),
      nothing_(kPiece * std::size_t(max_head_dim) * 4) {
  std::memset(nothing_.data(), 0, nothing_.size());
}

AttentionScratch::Room AttentionScratch::room(int thread) {
  const std::size_t vectors = kQueries * std::size_t(max_head_dim_), scores = kTileRows * kChunk;
  float *floats = floats_.data() + std::size_t(thread) * (2 * vectors + scores + 2 * kQueries);
  uint16_t *halves = halves_.data() + std::size_t(thread) * (vectors + scores);
  float *behind = floats + 2 * vectors + scores;
  return {floats, floats + vectors, halves, floats + 2 * vectors, halves + vectors, behind, behind + kQueries};
}

void divide(const hc_batch &batch, const AttentionShape &shape, std::vector<AttentionWork> &work) {
  work.clear();
  const int most_tokens = std::max(1, AttentionScratch::kQueries / shape.group());
  for (int row = 0; row < batch.num_rows; ++row) {
    const int num_tokens = batch.offsets[row + 1] - batch.offsets[row];
    const int num_parts = (num_tokens + most_tokens - 1) / most_tokens;
    for (int part = num_parts - 1; part >= 0; --part) {
      const int first = part * most_tokens;
      for (int head = 0; head < shape.num_kv_heads; ++head) work.push_back({row, head, first, std::min(most_tokens, num_tokens - first)});
    }
  }
}

namespace {

struct Chunk {
  const std::byte *keys[kChunk / kPiece];
  const std::byte *values[kChunk / kPiece];
};

// Where the 64 tokens from `position` on lie; what is beyond the row's end is nothing.
Chunk find_chunk(const KvCache &cache, int block_size, const int32_t *table, int position, int length, int kv_head, const std::byte *nothing) {
  Chunk chunk;
  for (int piece = 0; piece < kChunk / kPiece; ++piece) {
    const int at = position + piece * kPiece;
    // Scores of tokens that are not there are left out, so that any keys will do.
    const int known = at < length ? at : position;
    chunk.keys[piece] = cache.keys(table[known / block_size], known % block_size, kv_head);
    chunk.values[piece] = at < length ? cache.values(table[at / block_size], at % block_size, kv_head) : nothing;
  }
  return chunk;
}

struct Head {
  const Kernels &kernels;
  const AttentionShape &shape;
  bool is_bf16;
  std::size_t key_stride, value_stride;
  AttentionScratch::Room room;

  // Goes on with `count` query vectors, from `first` on, over one chunk; vector i belongs to position `positions + i / group`.
  void take(const Chunk &chunk, int first, int count, int chunk_position, int first_position) {
    const std::size_t at = std::size_t(first) * std::size_t(shape.head_dim);
    Scores scores{is_bf16 ? static_cast<const void *>(room.queries_bf16 + at) : room.queries + at, shape.head_dim, {}, key_stride, room.scores};
    std::copy(chunk.keys, chunk.keys + kChunk / kPiece, scores.pieces);
    (is_bf16 ? kernels.scores_bf16 : kernels.scores_f32)[count - 1](scores);

    float keep[kTileRows];
    for (int i = 0; i < count; ++i) {
      const int position = first_position + (first + i) / shape.group();
      const int to = std::clamp(position + 1 - chunk_position, 0, kChunk);
      const int from = shape.window > 0 ? std::clamp(position + 1 - shape.window - chunk_position, 0, kChunk) : 0;
      float *row = room.scores + i * kChunk;
      kernels.softmax(row, from, to, shape.scale, shape.softcap, room.largest + first + i, room.total + first + i, keep + i);
      if (is_bf16) kernels.to_bf16(row, kChunk, room.weights_bf16 + i * kChunk);
    }

    Mixture mixture{is_bf16 ? static_cast<const void *>(room.weights_bf16) : room.scores, {}, value_stride, shape.head_dim, keep, room.outputs + at};
    std::copy(chunk.values, chunk.values + kChunk / kPiece, mixture.pieces);
    (is_bf16 ? kernels.mixture_bf16 : kernels.mixture_f32)[count - 1](mixture);
  }
};

} // namespace

void attend(const Kernels &kernels, Pool &pool, AttentionScratch &scratch, const KvCache &cache, int block_size, const AttentionShape &shape,
            const hc_batch &batch, const std::vector<AttentionWork> &work, const float *queries, std::size_t query_stride, float *outputs,
            std::size_t output_stride) {
  const int dim = shape.head_dim, group = shape.group();
  const std::size_t vector_bytes = std::size_t(dim) * sizeof(float);
  pool.run(int(work.size()), [&](int task, int thread) {
    const AttentionWork &piece = work[std::size_t(task)];
    Head head{kernels, shape, cache.is_bf16(), cache.key_stride(), cache.value_stride(), scratch.room(thread)};
    const int num_vectors = piece.num_tokens * group;
    const std::size_t token = std::size_t(batch.offsets[piece.row] + piece.first_token), heads_at = std::size_t(piece.kv_head * group) * std::size_t(dim);
    for (int i = 0; i < num_vectors; ++i) {
      const float *query = queries + (token + std::size_t(i / group)) * query_stride + heads_at + std::size_t(i % group * dim);
      std::memcpy(head.room.queries + i * dim, query, vector_bytes);
      const float *sink = shape.sinks == nullptr ? nullptr : shape.sinks + piece.kv_head * group + i % group;
      head.room.largest[i] = sink == nullptr ? -std::numeric_limits<float>::infinity() : *sink;
      head.room.total[i] = sink == nullptr ? 0.0f : 1.0f;
    }
    if (head.is_bf16) kernels.to_bf16(head.room.queries, num_vectors * dim, head.room.queries_bf16);
    std::fill(head.room.outputs, head.room.outputs + num_vectors * dim, 0.0f);

    const int first_position = batch.starts[piece.row] + piece.first_token, last_position = first_position + piece.num_tokens - 1;
    const int length = batch.starts[piece.row] + batch.offsets[piece.row + 1] - batch.offsets[piece.row];
    const int begin = shape.window > 0 ? std::max(0, first_position + 1 - shape.window) / kChunk * kChunk : 0;
    const int32_t *table = batch.block_tables + std::size_t(piece.row) * std::size_t(batch.table_width);
    for (int position = begin; position <= last_position; position += kChunk) {
      const Chunk chunk = find_chunk(cache, block_size, table, position, length, piece.kv_head, scratch.nothing());
      for (int first = 0; first < num_vectors; first += kTileRows) {
        const int count = std::min(kTileRows, num_vectors - first);
        // Vectors whose last key came before this chunk would not change.
        if (first_position + (first + count - 1) / group >= position) head.take(chunk, first, count, position, first_position);
      }
    }

    for (int i = 0; i < num_vectors; ++i) {
      float *output = outputs + (token + std::size_t(i / group)) * output_stride + heads_at + std::size_t(i % group * dim);
      const float factor = 1.0f / head.room.total[i];
      for (int d = 0; d < dim; ++d) output[d] = head.room.outputs[i * dim + d] * factor;
    }
  });
}

} // namespace hc
