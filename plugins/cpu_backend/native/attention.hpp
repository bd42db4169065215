// Keys and values in blocks, and causal attention over them for ragged rows.
//
// A row's keys are taken in chunks of 64 that begin at multiples of 64 of its positions, and the running softmax goes
// through them in order. So a token's result is the same to the last bit whether its prompt came whole or in parts, and
// whatever the size of a block is.

#pragma once

#include <vector>

#include "histrio_cpu.h"
#include "kernels.hpp"
#include "memory.hpp"
#include "pool.hpp"

namespace hc {

struct AttentionShape {
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int window = 0; // 0: every earlier token
  float scale = 1.0f;
  float softcap = 0.0f;
  const float *sinks = nullptr; // [heads]

  int group() const { return num_heads / num_kv_heads; } // query heads that share keys
};

// One layer's keys and values. Keys of a block and head lie as [dimensions][tokens], values as [tokens][dimensions];
// in bfloat16 two neighbours, of the dimensions or the tokens, lie together.
class KvCache {
 public:
  KvCache() = default;
  KvCache(int num_kv_heads, int head_dim, bool is_bf16);

  void allocate(int num_blocks, int block_size);
  std::size_t bytes_per_token() const { return 2 * std::size_t(num_kv_heads_) * std::size_t(head_dim_) * element_bytes(); }
  bool is_bf16() const { return is_bf16_; }

  // Writes one token's key and value of a head.
  void write(const Kernels &kernels, int block, int offset, int kv_head, const float *key, const float *value);
  void copy(int from, int to);

  // Keys of the 16 tokens from `offset` on, and their values.
  const std::byte *keys(int block, int offset, int kv_head) const;
  const std::byte *values(int block, int offset, int kv_head) const;
  std::size_t key_stride() const { return std::size_t(block_size_) * row_unit(); }
  std::size_t value_stride() const { return std::size_t(head_dim_) * row_unit(); }

 private:
  std::size_t element_bytes() const { return is_bf16_ ? 2 : 4; }
  std::size_t row_unit() const { return 4; } // bytes of one float, or of a pair
  std::size_t head_bytes() const { return std::size_t(block_size_) * std::size_t(head_dim_) * element_bytes(); }
  std::size_t head_at(int block, int kv_head) const { return (std::size_t(block) * std::size_t(num_kv_heads_) + std::size_t(kv_head)) * head_bytes(); }

  int num_kv_heads_ = 0;
  int head_dim_ = 0;
  bool is_bf16_ = false;
  int num_blocks_ = 0;
  int block_size_ = 0;
  Array<std::byte> keys_;
  Array<std::byte> values_;
};

// What each thread needs for one piece of work.
class AttentionScratch {
 public:
  AttentionScratch(int num_threads, int max_head_dim);

  static constexpr int kQueries = 48; // most query vectors of a piece of work
  struct Room {
    float *outputs; // [kQueries, head_dim]
    float *queries; // [kQueries, head_dim], float32
    uint16_t *queries_bf16;
    float *scores; // [kTileRows, kChunk]
    uint16_t *weights_bf16; // [kTileRows, kChunk]
    float *largest; // [kQueries]
    float *total;
  };
  Room room(int thread);
  const std::byte *nothing() const { return nothing_.data(); }

 private:
  int max_head_dim_;
  Array<float> floats_;
  Array<uint16_t> halves_;
  Array<std::byte> nothing_; // zeros in place of values that no token has written
};

// A run of a row's query tokens with one head of keys.
struct AttentionWork {
  int row;
  int kv_head;
  int first_token; // of the row's tokens in this step
  int num_tokens;
};

// Cuts a step's rows into pieces of work, the longest contexts first.
void divide(const hc_batch &batch, const AttentionShape &shape, std::vector<AttentionWork> &work);

// `queries` and `outputs` are [tokens, heads * head_dim] with their own strides.
void attend(const Kernels &kernels, Pool &pool, AttentionScratch &scratch, const KvCache &cache, int block_size, const AttentionShape &shape,
            const hc_batch &batch, const std::vector<AttentionWork> &work, const float *queries, std::size_t query_stride, float *outputs,
            std::size_t output_stride);

} // namespace hc
