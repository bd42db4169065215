// Keys and values in blocks, and causal attention over them for ragged rows.
//
// A row's keys are taken in chunks of 64 that begin at multiples of 64 of its positions, and the running softmax goes
// through them in order. It begins afresh at every multiple of the tile, and the tiles' results are joined in order. So a
// token's result is the same to the last bit whether its prompt came whole or in parts, whatever the size of a block is,
// and however many threads share the tiles of a long context.

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
// in bfloat16 two neighbours, of the dimensions or the tokens, lie together. Of 8 bits they are codes, and each token has
// a scale for its key and one for its value.
class KvCache {
 public:
  KvCache() = default;
  KvCache(int num_kv_heads, int head_dim, hc_kv_format format);

  void allocate(int num_blocks, int block_size);
  std::size_t bytes_per_token() const { return 2 * std::size_t(num_kv_heads_) * (std::size_t(head_dim_) * element_bytes() + scale_bytes()); }
  bool has_codes() const { return format_ == HC_KV_I8; }
  bool has_halves() const { return format_ == HC_KV_F16; } // of float16
  bool is_widened() const { return has_codes() || has_halves(); } // before products

  // Writes one token's key and value of a head.
  void write(const Kernels &kernels, int block, int offset, int kv_head, const float *key, const float *value);
  void copy(int from, int to);

  // Keys of the 16 tokens from `offset` on, their values, and the scales of both.
  const std::byte *keys(int block, int offset, int kv_head) const;
  const std::byte *values(int block, int offset, int kv_head) const;
  const float *key_scales(int block, int offset, int kv_head) const { return key_scales_.data() + scale_at(block, kv_head) + offset; }
  const float *value_scales(int block, int offset, int kv_head) const { return value_scales_.data() + scale_at(block, kv_head) + offset; }
  // One number, whatever the format.
  float key(int block, int offset, int kv_head, int dimension) const;
  float value(int block, int offset, int kv_head, int dimension) const;
  // Bytes from one dimension (or pair) of keys to the next, and from one token (or pair) of values to the next.
  std::size_t key_stride() const { return std::size_t(block_size_) * row_unit(); }
  std::size_t value_stride() const { return std::size_t(head_dim_) * row_unit(); }

 private:
  std::size_t element_bytes() const { return format_ == HC_KV_F32 ? 4 : has_codes() ? 1 : 2; }
  std::size_t row_unit() const { return is_widened() ? element_bytes() : 4; } // bytes of what is widened, of one float, or of a pair
  std::size_t scale_bytes() const { return has_codes() ? sizeof(float) : 0; }
  std::size_t head_bytes() const { return std::size_t(block_size_) * std::size_t(head_dim_) * element_bytes(); }
  std::size_t heads_before(int block, int kv_head) const { return std::size_t(block) * std::size_t(num_kv_heads_) + std::size_t(kv_head); }
  std::size_t head_at(int block, int kv_head) const { return heads_before(block, kv_head) * head_bytes(); }
  std::size_t scale_at(int block, int kv_head) const { return heads_before(block, kv_head) * std::size_t(block_size_); }
  void write_codes(const Kernels &kernels, int block, int offset, int kv_head, const float *key, const float *value);

  int num_kv_heads_ = 0;
  int head_dim_ = 0;
  hc_kv_format format_ = HC_KV_F32;
  int num_blocks_ = 0;
  int block_size_ = 0;
  Array<std::byte> keys_;
  Array<std::byte> values_;
  Array<float> key_scales_, value_scales_; // [blocks, heads, tokens], of codes
};

// The running softmax of some query vectors.
struct Running {
  float *outputs; // [vectors, head_dim], not yet divided by the total
  float *largest; // [vectors]
  float *total;
};

// What each thread needs for one piece of work, and room for tiles that are computed apart.
class AttentionScratch {
 public:
  AttentionScratch(int num_threads, int max_head_dim);

  static constexpr int kQueries = 48; // most query vectors of a piece of work
  static constexpr std::size_t kApart = std::size_t(1) << 21; // floats of all tiles that are computed apart in a step
  struct Room {
    Running tile, whole;
    float *queries; // [kQueries, head_dim], float32
    float *scores; // [kTileRows, kChunk]
    uint16_t *queries_bf16;
    uint16_t *weights_bf16; // [kTileRows, kChunk]
    std::byte *keys, *values; // a chunk of codes or float16, as numbers that products read
  };
  Room room(int thread);
  Running apart(std::size_t at, int num_vectors, int head_dim);
  const std::byte *nothing() const { return nothing_.data(); }

 private:
  int max_head_dim_;
  std::size_t num_floats_, num_halves_, num_bytes_; // of a thread
  Array<float> floats_;
  Array<uint16_t> halves_;
  Array<std::byte> widened_;
  Array<float> apart_;
  Array<std::byte> nothing_; // zeros in place of values that no token has written
};

// A run of a row's query tokens with one head of keys, over some of the tiles.
struct AttentionWork {
  int row;
  int kv_head;
  int first_token; // of the row's tokens in this step
  int num_tokens;
  int first_tile;
  int num_tiles;
  std::size_t apart; // where the tile's result goes, if it is one of several that are computed apart

  static constexpr std::size_t kWhole = ~std::size_t(0); // of `apart`: this work has all tiles
};

// A step's pieces of work. Those of `joins` are whole, and their tiles are in `tasks`.
struct AttentionPlan {
  int tile = 0; // tokens, a multiple of kChunk
  std::vector<AttentionWork> tasks, joins;
};

// Cuts a step's rows into pieces of work, the longest contexts first; what takes longer than its share is cut by tiles.
void divide(const hc_batch &batch, const AttentionShape &shape, int num_threads, AttentionPlan &plan);

// `queries` and `outputs` are [tokens, heads * head_dim] with their own strides. `is_bf16`: products of bfloat16.
struct AttentionCall {
  const Kernels &kernels;
  Pool &pool;
  AttentionScratch &scratch;
  const KvCache &cache;
  int block_size;
  bool is_bf16;
  const AttentionShape &shape;
  const hc_batch &batch;
  const float *queries;
  float *outputs;
  std::size_t stride;
};
void attend(const AttentionCall &call, const AttentionPlan &plan);
// The same without tiles; `scores` is [threads, max_context].
void attend_plain(const AttentionCall &call, float *scores, std::size_t max_context);

} // namespace hc
