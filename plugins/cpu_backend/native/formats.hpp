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

// 32 values as integers with a step and a minimum for each half: value = step * integer + minimum, exactly.
struct Integers {
  int16_t values[32]; // from -128 to 127, or from 0 to 255
  float steps[2];
  float minima[2];
};
// Whether the format's minima can differ from 0.
bool has_minima(int32_t format);
// The 32 values from value `first` on, a multiple of 32, of a row that begins at `row`; not of HC_F8_E4M3.
Integers integers_at(int32_t format, const std::byte *row, int64_t first);

// `count` values, a multiple of the format's block.
void dequantize(int32_t format, int64_t count, const std::byte *data, float *values);

} // namespace hc
