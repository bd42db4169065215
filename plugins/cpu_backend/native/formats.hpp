// Tensors as checkpoints and GGUF files store them, and their values.

#pragma once

#include <cstddef>
#include <cstdint>

#include "histrio_cpu.h"

namespace hc {

float f16_value(uint16_t bits);
uint16_t f16_bits(float value); // to nearest, ties to even

// Values and bytes of a block; no bytes for an unknown format.
struct BlockShape {
  int values;
  int bytes;
};
BlockShape block_shape(int32_t format);

// Bytes of a row of `columns` values; 0 where the format is unknown or the row is no whole number of blocks.
std::size_t row_bytes(int32_t format, int64_t columns);

// `count` values, a multiple of the format's block.
void dequantize(int32_t format, int64_t count, const std::byte *data, float *values);

} // namespace hc
