#include <bit>
#include <cstring>

#include "attention.hpp"
#include "formats.hpp"

namespace hc {
namespace {

constexpr int kMostDimensions = 1024;

float bf16_value(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }

void put_pair_half(std::byte *pairs, std::size_t index, int half, uint16_t value) { std::memcpy(pairs + index * 4 + std::size_t(half) * 2, &value, 2); }

} // namespace

KvCache::KvCache(int num_kv_heads, int head_dim, hc_kv_format format) : num_kv_heads_(num_kv_heads), head_dim_(head_dim), format_(format) {}

void KvCache::allocate(int num_blocks, int block_size) {
  if (num_blocks == num_blocks_ && block_size == block_size_) return;
  keys_ = {};
  values_ = {};
  key_scales_ = {};
  value_scales_ = {};
  num_blocks_ = num_blocks;
  block_size_ = block_size;
  const std::size_t num_heads = std::size_t(num_blocks) * std::size_t(num_kv_heads_);
  keys_ = Array<std::byte>(num_heads * head_bytes());
  values_ = Array<std::byte>(num_heads * head_bytes());
  if (!has_codes()) return;
  key_scales_ = Array<float>(num_heads * std::size_t(block_size));
  value_scales_ = Array<float>(num_heads * std::size_t(block_size));
}

const std::byte *KvCache::keys(int block, int offset, int kv_head) const {
  return keys_.data() + head_at(block, kv_head) + std::size_t(offset) * row_unit();
}

const std::byte *KvCache::values(int block, int offset, int kv_head) const {
  return values_.data() + head_at(block, kv_head) + std::size_t(offset) * std::size_t(head_dim_) * element_bytes();
}

void KvCache::write(const Kernels &kernels, int block, int offset, int kv_head, const float *key, const float *value) {
  if (has_codes()) {
    write_codes(kernels, block, offset, kv_head, key, value);
    return;
  }

  std::byte *keys = keys_.data() + head_at(block, kv_head), *values = values_.data() + head_at(block, kv_head);
  const std::size_t size = std::size_t(block_size_), at = std::size_t(offset);
  // What other sequences left behind it could be no numbers, and zero times that is no number.
  if (offset % kPiece == 0) std::memset(values + at * std::size_t(head_dim_) * element_bytes(), 0, kPiece * std::size_t(head_dim_) * element_bytes());

  if (format_ == HC_KV_F32) {
    for (int d = 0; d < head_dim_; ++d) std::memcpy(keys + (std::size_t(d) * size + at) * 4, key + d, 4);
    std::memcpy(values + at * std::size_t(head_dim_) * 4, value, std::size_t(head_dim_) * 4);
    return;
  }

  if (has_halves()) {
    uint16_t *row = reinterpret_cast<uint16_t *>(values) + at * std::size_t(head_dim_);
    for (int d = 0; d < head_dim_; ++d) {
      reinterpret_cast<uint16_t *>(keys)[std::size_t(d) * size + at] = f16_bits(key[d]);
      row[d] = f16_bits(value[d]);
    }
    return;
  }

  uint16_t rounded[kMostDimensions];
  kernels.to_bf16(key, head_dim_, rounded);
  for (int d = 0; d < head_dim_; d += 2) std::memcpy(keys + (std::size_t(d / 2) * size + at) * 4, rounded + d, 4);
  kernels.to_bf16(value, head_dim_, rounded);
  std::byte *pairs = values + at / 2 * std::size_t(head_dim_) * 4;
  for (int d = 0; d < head_dim_; ++d) put_pair_half(pairs, std::size_t(d), offset % 2, rounded[d]);
}

void KvCache::write_codes(const Kernels &kernels, int block, int offset, int kv_head, const float *key, const float *value) {
  int8_t *keys = reinterpret_cast<int8_t *>(keys_.data() + head_at(block, kv_head)) + offset;
  int8_t *values = reinterpret_cast<int8_t *>(values_.data() + head_at(block, kv_head)) + std::size_t(offset) * std::size_t(head_dim_);
  float *key_scales = key_scales_.data() + scale_at(block, kv_head) + offset, *value_scales = value_scales_.data() + scale_at(block, kv_head) + offset;
  // Codes are always numbers, but scales need not be.
  if (offset % kPiece == 0) std::memset(value_scales, 0, kPiece * sizeof(float));
  int8_t codes[kMostDimensions];
  *key_scales = kernels.to_codes(key, head_dim_, codes);
  for (int d = 0; d < head_dim_; ++d) keys[std::size_t(d) * std::size_t(block_size_)] = codes[d];
  *value_scales = kernels.to_codes(value, head_dim_, values);
}

float KvCache::key(int block, int offset, int kv_head, int dimension) const {
  const std::byte *keys = keys_.data() + head_at(block, kv_head);
  const std::size_t d = std::size_t(dimension), at = std::size_t(offset), size = std::size_t(block_size_);
  switch (format_) {
    case HC_KV_F32: return reinterpret_cast<const float *>(keys)[d * size + at];
    case HC_KV_BF16: return bf16_value(reinterpret_cast<const uint16_t *>(keys)[(d / 2 * size + at) * 2 + d % 2]);
    case HC_KV_F16: return f16_value(reinterpret_cast<const uint16_t *>(keys)[d * size + at]);
    default: return float(reinterpret_cast<const int8_t *>(keys)[d * size + at]) * *key_scales(block, offset, kv_head);
  }
}

float KvCache::value(int block, int offset, int kv_head, int dimension) const {
  const std::byte *values = values_.data() + head_at(block, kv_head);
  const std::size_t d = std::size_t(dimension), at = std::size_t(offset), dim = std::size_t(head_dim_);
  switch (format_) {
    case HC_KV_F32: return reinterpret_cast<const float *>(values)[at * dim + d];
    case HC_KV_BF16: return bf16_value(reinterpret_cast<const uint16_t *>(values)[(at / 2 * dim + d) * 2 + at % 2]);
    case HC_KV_F16: return f16_value(reinterpret_cast<const uint16_t *>(values)[at * dim + d]);
    default: return float(reinterpret_cast<const int8_t *>(values)[at * dim + d]) * *value_scales(block, offset, kv_head);
  }
}

void KvCache::copy(int from, int to) {
  const auto copy_heads = [&](auto &array, std::size_t per_head) {
    if (array.size() == 0) return;
    const std::size_t count = std::size_t(num_kv_heads_) * per_head;
    std::memcpy(array.data() + std::size_t(to) * count, array.data() + std::size_t(from) * count, count * sizeof(*array.data()));
  };
  copy_heads(keys_, head_bytes());
  copy_heads(values_, head_bytes());
  copy_heads(key_scales_, std::size_t(block_size_));
  copy_heads(value_scales_, std::size_t(block_size_));
}

} // namespace hc
