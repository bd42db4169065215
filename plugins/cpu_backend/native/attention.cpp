#include "attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace hc {
namespace {

constexpr float kNothingYet = -std::numeric_limits<float>::infinity();

void clear(const Running &running, int num_vectors, int head_dim) {
  std::fill(running.outputs, running.outputs + num_vectors * head_dim, 0.0f);
  std::fill(running.largest, running.largest + num_vectors, kNothingYet);
  std::fill(running.total, running.total + num_vectors, 0.0f);
}

// Goes on with what a later tile found. Where nothing was there before, its result stays as it is to the last bit.
void join(const Running &whole, const Running &tile, int num_vectors, int head_dim) {
  for (int i = 0; i < num_vectors; ++i) {
    if (tile.largest[i] == kNothingYet) continue;
    const float now = std::max(whole.largest[i], tile.largest[i]);
    const float keep = whole.largest[i] == kNothingYet ? 0.0f : std::exp(whole.largest[i] - now), factor = std::exp(tile.largest[i] - now);
    float *sums = whole.outputs + i * head_dim;
    const float *added = tile.outputs + i * head_dim;
    for (int d = 0; d < head_dim; ++d) sums[d] = sums[d] * keep + added[d] * factor;
    whole.total[i] = whole.total[i] * keep + tile.total[i] * factor;
    whole.largest[i] = now;
  }
}

} // namespace

// ---- room -------------------------------------------------------------------------------------------------------

AttentionScratch::AttentionScratch(int num_threads, int max_head_dim)
    : max_head_dim_(max_head_dim),
      num_floats_(3 * kQueries * std::size_t(max_head_dim) + kTileRows * kChunk + 4 * kQueries),
      num_halves_(kQueries * std::size_t(max_head_dim) + kTileRows * kChunk),
      num_bytes_(2 * kChunk * std::size_t(max_head_dim) * sizeof(float)),
      floats_(std::size_t(num_threads) * num_floats_),
      halves_(std::size_t(num_threads) * num_halves_),
      widened_(std::size_t(num_threads) * num_bytes_),
      apart_(kApart),
      nothing_(kPiece * std::size_t(max_head_dim) * 4) {
  std::memset(nothing_.data(), 0, nothing_.size());
}

AttentionScratch::Room AttentionScratch::room(int thread) {
  const std::size_t vectors = kQueries * std::size_t(max_head_dim_);
  float *floats = floats_.data() + std::size_t(thread) * num_floats_, *states = floats + 3 * vectors;
  uint16_t *halves = halves_.data() + std::size_t(thread) * num_halves_;
  std::byte *widened = widened_.data() + std::size_t(thread) * num_bytes_;
  return {{floats, states, states + kQueries},
          {floats + vectors, states + 2 * kQueries, states + 3 * kQueries},
          floats + 2 * vectors,
          states + 4 * kQueries,
          halves,
          halves + vectors,
          widened,
          widened + num_bytes_ / 2};
}

Running AttentionScratch::apart(std::size_t at, int num_vectors, int head_dim) {
  float *outputs = apart_.data() + at, *behind = outputs + num_vectors * head_dim;
  return {outputs, behind, behind + num_vectors};
}

// ---- dividing ---------------------------------------------------------------------------------------------------

namespace {

// All pieces of work of a step, each with all of its tiles.
template <class Take> void each_piece(const hc_batch &batch, const AttentionShape &shape, int tile, Take take) {
  const int most_tokens = std::max(1, AttentionScratch::kQueries / shape.group());
  for (int row = 0; row < batch.num_rows; ++row) {
    const int num_tokens = batch.offsets[row + 1] - batch.offsets[row], start = batch.starts[row];
    for (int part = (num_tokens + most_tokens - 1) / most_tokens - 1; part >= 0; --part) {
      const int first = part * most_tokens, count = std::min(most_tokens, num_tokens - first);
      const int first_key = shape.window > 0 ? std::max(0, start + first + 1 - shape.window) : 0, last_key = start + first + count - 1;
      const int first_tile = first_key / tile, num_tiles = last_key / tile + 1 - first_tile;
      for (int head = 0; head < shape.num_kv_heads; ++head) take(AttentionWork{row, head, first, count, first_tile, num_tiles, AttentionWork::kWhole});
    }
  }
}

} // namespace

void divide(const hc_batch &batch, const AttentionShape &shape, int num_threads, AttentionPlan &plan) {
  plan.tasks.clear();
  plan.joins.clear();
  const auto cost = [](const AttentionWork &work) { return int64_t(work.num_tiles) * work.num_tokens; };
  int64_t all = 0;
  each_piece(batch, shape, plan.tile, [&](const AttentionWork &work) { all += cost(work); });
  std::size_t used = 0;
  each_piece(batch, shape, plan.tile, [&](const AttentionWork &work) {
    const std::size_t room = std::size_t(work.num_tokens * shape.group()) * std::size_t(shape.head_dim + 2);
    const bool is_long = work.num_tiles > 1 && num_threads > 1 && 2 * num_threads * cost(work) > all;
    if (!is_long || used + std::size_t(work.num_tiles) * room > AttentionScratch::kApart) {
      plan.tasks.push_back(work);
      return;
    }
    plan.joins.push_back(work);
    plan.joins.back().apart = used;
    for (int tile = work.first_tile; tile < work.first_tile + work.num_tiles; ++tile, used += room)
      plan.tasks.push_back({work.row, work.kv_head, work.first_token, work.num_tokens, tile, 1, used});
  });
}

// ---- attention --------------------------------------------------------------------------------------------------

namespace {

struct Chunk {
  const std::byte *keys[kChunk / kPiece];
  const std::byte *values[kChunk / kPiece];
  float key_scales[kChunk], value_scales[kChunk]; // of codes
};

// One piece of work: query vectors that share a head of keys, each with a position of its own.
class Piece {
 public:
  Piece(const AttentionCall &call, const AttentionWork &work, const AttentionScratch::Room &room) : call_(call), work_(work), room_(room) {}

  int num_vectors() const { return work_.num_tokens * call_.shape.group(); }

  void take_queries() {
    const int dim = call_.shape.head_dim;
    for (int i = 0; i < num_vectors(); ++i) std::memcpy(room_.queries + i * dim, call_.queries + at(i), std::size_t(dim) * sizeof(float));
    if (call_.is_bf16) call_.kernels.to_bf16(room_.queries, num_vectors() * dim, room_.queries_bf16);
  }

  void begin_whole() {
    clear(room_.whole, num_vectors(), call_.shape.head_dim);
    if (call_.shape.sinks == nullptr) return;
    for (int i = 0; i < num_vectors(); ++i) {
      room_.whole.largest[i] = call_.shape.sinks[work_.kv_head * call_.shape.group() + i % call_.shape.group()];
      room_.whole.total[i] = 1.0f;
    }
  }

  // One tile of keys for all query vectors.
  void run_tile(int index, int tile, const Running &running) {
    clear(running, num_vectors(), call_.shape.head_dim);
    const int first_key = call_.shape.window > 0 ? std::max(0, position(0) + 1 - call_.shape.window) : 0;
    const int begin = std::max(index * tile, first_key / kChunk * kChunk), end = std::min((index + 1) * tile, position(num_vectors() - 1) + 1);
    for (int key = begin; key < end; key += kChunk) {
      find_chunk(key);
      for (int first = 0; first < num_vectors(); first += kTileRows) {
        const int count = std::min(kTileRows, num_vectors() - first);
        // Vectors whose last key came before this chunk would not change.
        if (position(first + count - 1) >= key) take_chunk(first, count, key, running);
      }
    }
  }

  void join_tile(const Running &running) { join(room_.whole, running, num_vectors(), call_.shape.head_dim); }

  void finish() {
    const int dim = call_.shape.head_dim;
    for (int i = 0; i < num_vectors(); ++i) {
      float *output = call_.outputs + at(i);
      const float factor = 1.0f / room_.whole.total[i];
      for (int d = 0; d < dim; ++d) output[d] = room_.whole.outputs[i * dim + d] * factor;
    }
  }

 private:
  int position(int vector) const { return call_.batch.starts[work_.row] + work_.first_token + vector / call_.shape.group(); }

  // Where a vector lies in queries and outputs.
  std::size_t at(int vector) const {
    const int group = call_.shape.group(), dim = call_.shape.head_dim;
    const std::size_t token = std::size_t(call_.batch.offsets[work_.row] + work_.first_token + vector / group);
    return token * call_.stride + std::size_t(work_.kv_head * group + vector % group) * std::size_t(dim);
  }

  // Where the 64 tokens from `key` on lie; what is beyond the row's end is nothing.
  void find_chunk(int key) {
    const hc_batch &batch = call_.batch;
    const int32_t *table = batch.block_tables + std::size_t(work_.row) * std::size_t(batch.table_width);
    const int length = batch.starts[work_.row] + batch.offsets[work_.row + 1] - batch.offsets[work_.row];
    for (int piece = 0; piece < kChunk / kPiece; ++piece) {
      const int token = key + piece * kPiece, block = token < length ? table[token / call_.block_size] : 0, offset = token % call_.block_size;
      if (token >= length) { // Scores of tokens that are not there are left out, so that any keys will do.
        chunk_.keys[piece] = chunk_.keys[0];
        chunk_.values[piece] = call_.scratch.nothing();
        std::fill_n(chunk_.key_scales + piece * kPiece, kPiece, 0.0f);
        std::fill_n(chunk_.value_scales + piece * kPiece, kPiece, 0.0f);
        continue;
      }
      chunk_.keys[piece] = call_.cache.keys(block, offset, work_.kv_head);
      chunk_.values[piece] = call_.cache.values(block, offset, work_.kv_head);
      if (call_.cache.is_widened()) widen(piece, block, offset);
    }
  }

  // A chunk of codes or float16 becomes numbers in the first cache; scales of codes go to scores and weights.
  void widen(int piece, int block, int offset) {
    const KvCache &cache = call_.cache;
    const int dim = call_.shape.head_dim;
    const std::size_t at = std::size_t(piece * kPiece * dim) * (call_.is_bf16 ? sizeof(uint16_t) : sizeof(float));
    chunk_.keys[piece] = number(chunk_.keys[piece], dim, kPiece, cache.key_stride(), room_.keys + at);
    chunk_.values[piece] = number(chunk_.values[piece], kPiece, dim, cache.value_stride(), room_.values + at);
    if (!cache.has_codes()) return;
    std::copy_n(cache.key_scales(block, offset, work_.kv_head), kPiece, chunk_.key_scales + piece * kPiece);
    std::copy_n(cache.value_scales(block, offset, work_.kv_head), kPiece, chunk_.value_scales + piece * kPiece);
  }

  const std::byte *number(const std::byte *stored, int num_rows, int length, std::size_t stride, std::byte *to) const {
    const int8_t *codes = reinterpret_cast<const int8_t *>(stored);
    float *floats = reinterpret_cast<float *>(to);
    if (call_.cache.has_halves()) call_.kernels.widen_f16(reinterpret_cast<const uint16_t *>(stored), num_rows, length, stride / sizeof(uint16_t), floats);
    else if (call_.is_bf16) call_.kernels.widen_bf16(codes, num_rows, length, stride, reinterpret_cast<uint16_t *>(to));
    else call_.kernels.widen_f32(codes, num_rows, length, stride, floats);
    return to;
  }

  // Goes on with `count` query vectors, from `first` on, over the chunk whose first key is at position `key`.
  void take_chunk(int first, int count, int key, const Running &running) {
    const AttentionShape &shape = call_.shape;
    const Kernels &kernels = call_.kernels;
    const bool has_codes = call_.cache.has_codes(), is_widened = call_.cache.is_widened();
    const std::size_t at = std::size_t(first) * std::size_t(shape.head_dim), unit = 4; // bytes of a number, or of a pair
    Scores scores{call_.is_bf16 ? static_cast<const void *>(room_.queries_bf16 + at) : room_.queries + at, shape.head_dim, {},
                  is_widened ? kPiece * unit : call_.cache.key_stride(), room_.scores};
    std::copy(chunk_.keys, chunk_.keys + kChunk / kPiece, scores.pieces);
    (call_.is_bf16 ? kernels.scores_bf16 : kernels.scores_f32)[count - 1](scores);

    float keep[kTileRows];
    for (int i = 0; i < count; ++i) {
      const int last = position(first + i);
      const int to = std::clamp(last + 1 - key, 0, kChunk);
      const int from = shape.window > 0 ? std::clamp(last + 1 - shape.window - key, 0, kChunk) : 0;
      float *row = room_.scores + i * kChunk;
      if (has_codes)
        for (int t = 0; t < kChunk; ++t) row[t] *= chunk_.key_scales[t];
      kernels.softmax(row, from, to, shape.scale, shape.softcap, running.largest + first + i, running.total + first + i, keep + i);
      if (has_codes)
        for (int t = 0; t < kChunk; ++t) row[t] *= chunk_.value_scales[t];
      if (call_.is_bf16) kernels.to_bf16(row, kChunk, room_.weights_bf16 + i * kChunk);
    }

    Mixture mixture{call_.is_bf16 ? static_cast<const void *>(room_.weights_bf16) : room_.scores, {},
                    is_widened ? std::size_t(shape.head_dim) * unit : call_.cache.value_stride(), shape.head_dim, keep, running.outputs + at};
    std::copy(chunk_.values, chunk_.values + kChunk / kPiece, mixture.pieces);
    (call_.is_bf16 ? kernels.mixture_bf16 : kernels.mixture_f32)[count - 1](mixture);
  }

  const AttentionCall &call_;
  const AttentionWork &work_;
  const AttentionScratch::Room room_;
  Chunk chunk_;
};

} // namespace

void attend(const AttentionCall &call, const AttentionPlan &plan) {
  const int dim = call.shape.head_dim;
  call.pool.run(int(plan.tasks.size()), [&](int task, int thread) {
    const AttentionWork &work = plan.tasks[std::size_t(task)];
    Piece piece(call, work, call.scratch.room(thread));
    const AttentionScratch::Room room = call.scratch.room(thread);
    piece.take_queries();
    if (work.apart != AttentionWork::kWhole) {
      piece.run_tile(work.first_tile, plan.tile, call.scratch.apart(work.apart, piece.num_vectors(), dim));
      return;
    }
    piece.begin_whole();
    for (int tile = work.first_tile; tile < work.first_tile + work.num_tiles; ++tile) {
      piece.run_tile(tile, plan.tile, room.tile);
      piece.join_tile(room.tile);
    }
    piece.finish();
  });

  call.pool.run(int(plan.joins.size()), [&](int task, int thread) {
    const AttentionWork &work = plan.joins[std::size_t(task)];
    Piece piece(call, work, call.scratch.room(thread));
    const std::size_t room = std::size_t(piece.num_vectors()) * std::size_t(dim + 2);
    piece.begin_whole();
    for (int tile = 0; tile < work.num_tiles; ++tile) piece.join_tile(call.scratch.apart(work.apart + std::size_t(tile) * room, piece.num_vectors(), dim));
    piece.finish();
  });
}

} // namespace hc
