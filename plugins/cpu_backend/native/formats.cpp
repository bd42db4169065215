// The block formats of GGUF, as the project ggml defines them, and those of this library: groups of 32 integers with their
// steps and minima, from which the values follow, bit for bit as the `gguf` package of that project computes them.

#include "formats.hpp"

#include <cstring>

namespace hc {
namespace {

uint16_t u16(const std::byte *p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

uint32_t u32(const std::byte *p) {
  uint32_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

float f16(const std::byte *p) { return f16_value(u16(p)); }

float f32(const std::byte *p) {
  float value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

float f8(std::byte b) { return 256.0f * f16_value(uint16_t((uint32_t(b) & 0x80) << 8 | (uint32_t(b) & 0x7f) << 7)); }

int low(std::byte b) { return int(uint8_t(b) & 15); }
int high(std::byte b) { return int(uint8_t(b) >> 4); }

float bf16_value(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

constexpr int kSmall = 32; // values of a plain block
constexpr int kSuper = 256; // values of a block with scales of its own groups

int q3_k_scale(const std::byte *packed, int index) {
  const int low_bits = index < 8 ? low(packed[index]) : high(packed[index - 8]);
  return (low_bits | (uint8_t(packed[8 + index % 4]) >> (2 * (index / 4)) & 3) << 4) - 32;
}

// Scale and minimum, 6 bit each, of group `g` of a Q4_K or Q5_K block.
void scale_and_min(const std::byte *packed, int g, int &scale, int &least) {
  const auto at = [&](int i) { return int(uint8_t(packed[i])); };
  if (g < 4) {
    scale = at(g) & 63;
    least = at(g + 4) & 63;
    return;
  }
  scale = (at(g + 4) & 15) | (at(g - 4) >> 6) << 4;
  least = at(g + 4) >> 4 | (at(g) >> 6) << 4;
}

constexpr int8_t kNonLinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

constexpr int8_t kFp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}; // twice the values of E2M1

// Half of 2^(exponent - 127).
float mxfp4_step(const std::byte *b) {
  const uint32_t exponent = uint8_t(b[0]);
  const uint32_t bits = exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23;
  float step;
  std::memcpy(&step, &bits, sizeof step);
  return step;
}

struct Format {
  int32_t number;
  BlockShape shape;
  bool has_minima;
};

constexpr Format kFormats[] = {
    {HC_F32, {1, 4}, false},         {HC_F16, {1, 2}, false},         {HC_BF16, {1, 2}, false},
    {HC_Q4_0, {kSmall, 18}, false},  {HC_Q4_1, {kSmall, 20}, true},   {HC_Q5_0, {kSmall, 22}, false},
    {HC_Q5_1, {kSmall, 24}, true},   {HC_Q8_0, {kSmall, 34}, false},  {HC_Q2_K, {kSuper, 84}, true},
    {HC_Q3_K, {kSuper, 110}, false}, {HC_Q4_K, {kSuper, 144}, true},  {HC_Q5_K, {kSuper, 176}, true},
    {HC_Q6_K, {kSuper, 210}, false}, {HC_IQ4_NL, {kSmall, 18}, false}, {HC_MXFP4, {kSmall, 17}, false},
    {HC_U4_ZERO, {kSmall, 20}, true}, {HC_U4_WIDE, {kSmall, 24}, true},  {HC_U8_MIN, {kSmall, 36}, true},
    {HC_U8_WIDE, {kSmall, 40}, true}, {HC_I8_WIDE, {kSmall, 36}, false}, {HC_F8_E4M3, {kSmall, 36}, false},
};

const Format *find(int32_t number) {
  for (const Format &format : kFormats)
    if (format.number == number) return &format;
  return nullptr;
}

} // namespace

float f16_value(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent == 0) {
    const float small = float(fraction) * 5.9604644775390625e-8f; // 2^-24
    return sign != 0 ? -small : small;
  }
  const uint32_t wide = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | fraction << 13;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

uint16_t f16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x47800000) return sign | 0x7c00; // 65536 and more
  if (magnitude < 0x33000000) return sign; // less than half of the smallest
  const int shift = magnitude < 0x38800000 ? 126 - int(magnitude >> 23) : 13;
  const uint32_t fraction = magnitude < 0x38800000 ? (magnitude & 0x7fffff) | 0x800000 : magnitude - 0x38000000;
  const uint32_t kept = fraction >> shift, rest = fraction & ((1u << shift) - 1), half = 1u << (shift - 1);
  return uint16_t(sign | (kept + (rest > half || (rest == half && (kept & 1) != 0))));
}

BlockShape block_shape(int32_t format) {
  const Format *found = find(format);
  return found == nullptr ? BlockShape{1, 0} : found->shape;
}

std::size_t row_bytes(int32_t format, int64_t columns) {
  const BlockShape shape = block_shape(format);
  return columns % shape.values == 0 ? std::size_t(columns / shape.values) * std::size_t(shape.bytes) : 0;
}

// ---- integers ---------------------------------------------------------------------------------------------------

bool has_minima(int32_t format) {
  const Format *found = find(format);
  return found != nullptr && found->has_minima;
}

namespace {

// Of a plain block of 32 with one step.
Integers plain(float step, float minimum) { return {{}, {step, step}, {minimum, minimum}}; }

void nibbles(const std::byte *b, int offset, Integers &y) {
  for (int i = 0; i < 16; ++i) {
    y.values[i] = int16_t(low(b[i]) + offset);
    y.values[16 + i] = int16_t(high(b[i]) + offset);
  }
}

void signed_bytes(const std::byte *b, Integers &y) {
  for (int i = 0; i < 32; ++i) y.values[i] = int8_t(b[i]);
}

void unsigned_bytes(const std::byte *b, Integers &y) {
  for (int i = 0; i < 32; ++i) y.values[i] = uint8_t(b[i]);
}

void add_fifth(uint32_t fifth, Integers &y) {
  for (int i = 0; i < 32; ++i) y.values[i] = int16_t(y.values[i] + int(fifth >> i & 1) * 16);
}

Integers of_small_block(int32_t format, const std::byte *b) {
  Integers y = plain(f16(b), 0.0f);
  switch (format) {
    case HC_Q4_0: nibbles(b + 2, -8, y); break;
    case HC_Q4_1:
      y = plain(f16(b), f16(b + 2));
      nibbles(b + 4, 0, y);
      break;
    case HC_Q5_0:
      nibbles(b + 6, -16, y);
      add_fifth(u32(b + 2), y);
      break;
    case HC_Q5_1:
      y = plain(f16(b), f16(b + 2));
      nibbles(b + 8, 0, y);
      add_fifth(u32(b + 4), y);
      break;
    case HC_Q8_0: signed_bytes(b + 2, y); break;
    case HC_IQ4_NL:
      nibbles(b + 2, 0, y);
      for (int16_t &value : y.values) value = kNonLinear[value];
      break;
    case HC_U4_ZERO:
      y = plain(f16(b), -(f16(b) * f16(b + 2)));
      nibbles(b + 4, 0, y);
      break;
    case HC_U4_WIDE:
      y = plain(f32(b), f32(b + 4));
      nibbles(b + 8, 0, y);
      break;
    case HC_U8_MIN:
      y = plain(f16(b), f16(b + 2));
      unsigned_bytes(b + 4, y);
      break;
    case HC_U8_WIDE:
      y = plain(f32(b), f32(b + 4));
      unsigned_bytes(b + 8, y);
      break;
    case HC_I8_WIDE:
      y = plain(f32(b), 0.0f);
      signed_bytes(b + 4, y);
      break;
    default: // MXFP4: the step stands alone in a block of twos
      y = plain(mxfp4_step(b), 0.0f);
      nibbles(b + 1, 0, y);
      for (int16_t &value : y.values) value = kFp4[value];
      break;
  }
  return y;
}

// Group `g` of 32 values of a super block.
Integers of_super_block(int32_t format, const std::byte *b, int g) {
  Integers y{};
  switch (format) {
    case HC_Q2_K:
      for (int part = 0; part < 2; ++part) {
        const std::byte scale = b[g * 2 + part];
        y.steps[part] = f16(b + 80) * float(low(scale));
        y.minima[part] = -(f16(b + 82) * float(high(scale)));
        for (int i = 0; i < 16; ++i) y.values[part * 16 + i] = int16_t(uint8_t(b[16 + g / 4 * 32 + part * 16 + i]) >> (2 * (g % 4)) & 3);
      }
      break;
    case HC_Q3_K:
      for (int part = 0; part < 2; ++part) {
        y.steps[part] = f16(b + 108) * float(q3_k_scale(b + 96, g * 2 + part));
        for (int i = 0; i < 16; ++i) {
          const int at = part * 16 + i, bits = uint8_t(b[32 + g / 4 * 32 + at]) >> (2 * (g % 4)) & 3;
          y.values[at] = int16_t(bits - ((uint8_t(b[at]) >> g & 1) != 0 ? 0 : 4));
        }
      }
      break;
    case HC_Q4_K:
    case HC_Q5_K: {
      int scale, least;
      scale_and_min(b + 4, g, scale, least);
      y = plain(f16(b) * float(scale), -(f16(b + 2) * float(least)));
      const std::byte *quants = b + (format == HC_Q4_K ? 16 : 48) + g / 2 * 32;
      for (int i = 0; i < 32; ++i) {
        const int fifth = format == HC_Q5_K ? int(uint8_t(b[16 + i]) >> g & 1) << 4 : 0;
        y.values[i] = int16_t((g % 2 == 0 ? low(quants[i]) : high(quants[i])) | fifth);
      }
      break;
    }
    default: // Q6_K
      for (int i = 0; i < 32; ++i) {
        const int quarter = g % 4, half = g / 4;
        const std::byte byte = b[half * 64 + quarter % 2 * 32 + i];
        y.values[i] = int16_t(((quarter < 2 ? low(byte) : high(byte)) | (uint8_t(b[128 + half * 32 + i]) >> (2 * quarter) & 3) << 4) - 32);
      }
      for (int part = 0; part < 2; ++part) y.steps[part] = f16(b + 208) * float(int8_t(b[192 + g * 2 + part]));
      break;
  }
  return y;
}

} // namespace

Integers integers_at(int32_t format, const std::byte *row, int64_t first) {
  const BlockShape shape = block_shape(format);
  const std::byte *block = row + first / shape.values * shape.bytes;
  return shape.values == kSmall ? of_small_block(format, block) : of_super_block(format, block, int(first % shape.values / 32));
}

namespace {

float single(int32_t format, const std::byte *p) {
  if (format == HC_F16) return f16(p);
  if (format == HC_BF16) return bf16_value(u16(p));
  return f32(p);
}

} // namespace

void dequantize(int32_t format, int64_t count, const std::byte *data, float *values) {
  const BlockShape shape = block_shape(format);
  if (format == HC_BF16) { // a loop of its own, for vectors
    for (int64_t i = 0; i < count; ++i) values[i] = bf16_value(u16(data + i * 2));
    return;
  }
  if (shape.values == 1) {
    for (int64_t i = 0; i < count; ++i) values[i] = single(format, data + i * shape.bytes);
    return;
  }

  if (format == HC_F8_E4M3) {
    for (int64_t i = 0; i < count; ++i) {
      const std::byte *block = data + i / kSmall * shape.bytes;
      values[i] = f8(block[4 + i % kSmall]) * f32(block);
    }
    return;
  }

  const bool adds_minimum = has_minima(format); // adding zero would turn -0 into 0
  for (int64_t first = 0; first < count; first += kSmall) {
    const Integers group = integers_at(format, data, first);
    for (int i = 0; i < kSmall; ++i) {
      const float value = group.steps[i / 16] * float(group.values[i]);
      values[first + i] = adds_minimum ? value + group.minima[i / 16] : value;
    }
  }
}

} // namespace hc
