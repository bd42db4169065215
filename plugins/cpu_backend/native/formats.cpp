// The block formats of GGUF, as the project ggml defines them: each function turns blocks into float32, bit for bit as
// the `gguf` package of that project does. Products are rounded in the order that it uses.

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

void q4_0(const std::byte *b, float *y) {
  const float d = f16(b);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * float(low(b[2 + i]) - 8);
    y[16 + i] = d * float(high(b[2 + i]) - 8);
  }
}

void q4_1(const std::byte *b, float *y) {
  const float d = f16(b), m = f16(b + 2);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * float(low(b[4 + i])) + m;
    y[16 + i] = d * float(high(b[4 + i])) + m;
  }
}

void q5_0(const std::byte *b, float *y) {
  const float d = f16(b);
  const uint32_t fifth = u32(b + 2);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * float((low(b[6 + i]) | int(fifth >> i & 1) << 4) - 16);
    y[16 + i] = d * float((high(b[6 + i]) | int(fifth >> (16 + i) & 1) << 4) - 16);
  }
}

void q5_1(const std::byte *b, float *y) {
  const float d = f16(b), m = f16(b + 2);
  const uint32_t fifth = u32(b + 4);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * float(low(b[8 + i]) | int(fifth >> i & 1) << 4) + m;
    y[16 + i] = d * float(high(b[8 + i]) | int(fifth >> (16 + i) & 1) << 4) + m;
  }
}

void q8_0(const std::byte *b, float *y) {
  const float d = f16(b);
  for (int i = 0; i < kSmall; ++i) y[i] = d * float(int8_t(b[2 + i]));
}

void q2_k(const std::byte *b, float *y) {
  const std::byte *scales = b, *quants = b + 16;
  const float d = f16(b + 80), dmin = f16(b + 82);
  for (int half = 0; half < 2; ++half)
    for (int shift = 0; shift < 4; ++shift)
      for (int part = 0; part < 2; ++part) {
        const std::byte scale = scales[half * 8 + shift * 2 + part];
        const float step = d * float(low(scale)), least = dmin * float(high(scale));
        for (int i = 0; i < 16; ++i)
          *y++ = step * float(uint8_t(quants[half * 32 + part * 16 + i]) >> (2 * shift) & 3) - least;
      }
}

int q3_k_scale(const std::byte *packed, int index) {
  const int low_bits = index < 8 ? low(packed[index]) : high(packed[index - 8]);
  return (low_bits | (uint8_t(packed[8 + index % 4]) >> (2 * (index / 4)) & 3) << 4) - 32;
}

void q3_k(const std::byte *b, float *y) {
  const std::byte *third = b, *quants = b + 32, *packed = b + 96;
  const float d = f16(b + 108);
  for (int half = 0; half < 2; ++half)
    for (int shift = 0; shift < 4; ++shift)
      for (int part = 0; part < 2; ++part) {
        const int index = half * 8 + shift * 2 + part;
        const float step = d * float(q3_k_scale(packed, index));
        for (int i = 0; i < 16; ++i) {
          const int at = part * 16 + i;
          const int bits = uint8_t(quants[half * 32 + at]) >> (2 * shift) & 3;
          const bool has_third = uint8_t(third[at]) >> (half * 4 + shift) & 1;
          *y++ = step * float(bits - (has_third ? 0 : 4));
        }
      }
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

void q4_k(const std::byte *b, float *y) {
  const float d = f16(b), dmin = f16(b + 2);
  const std::byte *quants = b + 16;
  for (int g = 0; g < 8; ++g) {
    int scale, least;
    scale_and_min(b + 4, g, scale, least);
    const float step = d * float(scale), offset = dmin * float(least);
    for (int i = 0; i < 32; ++i) {
      const std::byte byte = quants[g / 2 * 32 + i];
      *y++ = step * float(g % 2 == 0 ? low(byte) : high(byte)) - offset;
    }
  }
}

void q5_k(const std::byte *b, float *y) {
  const float d = f16(b), dmin = f16(b + 2);
  const std::byte *fifth = b + 16, *quants = b + 48;
  for (int g = 0; g < 8; ++g) {
    int scale, least;
    scale_and_min(b + 4, g, scale, least);
    const float step = d * float(scale), offset = dmin * float(least);
    for (int i = 0; i < 32; ++i) {
      const std::byte byte = quants[g / 2 * 32 + i];
      const int bits = (g % 2 == 0 ? low(byte) : high(byte)) | int(uint8_t(fifth[i]) >> g & 1) << 4;
      *y++ = step * float(bits) - offset;
    }
  }
}

void q6_k(const std::byte *b, float *y) {
  const std::byte *lower = b, *upper = b + 128, *scales = b + 192;
  const float d = f16(b + 208);
  for (int half = 0; half < 2; ++half)
    for (int quarter = 0; quarter < 4; ++quarter)
      for (int i = 0; i < 32; ++i) {
        const std::byte byte = lower[half * 64 + quarter % 2 * 32 + i];
        const int bits = (quarter < 2 ? low(byte) : high(byte)) | (uint8_t(upper[half * 32 + i]) >> (2 * quarter) & 3) << 4;
        const float step = d * float(int8_t(scales[half * 8 + quarter * 2 + i / 16]));
        *y++ = step * float(bits - 32);
      }
}

constexpr int8_t kNonLinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void iq4_nl(const std::byte *b, float *y) {
  const float d = f16(b);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * float(kNonLinear[low(b[2 + i])]);
    y[16 + i] = d * float(kNonLinear[high(b[2 + i])]);
  }
}

constexpr int8_t kFp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}; // twice the values of E2M1

// Half of 2^(exponent - 127).
float mxfp4_step(const std::byte *b) {
  const uint32_t exponent = uint8_t(b[0]);
  const uint32_t bits = exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23;
  float step;
  std::memcpy(&step, &bits, sizeof step);
  return step;
}

void mxfp4(const std::byte *b, float *y) {
  const float d = mxfp4_step(b);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * float(kFp4[low(b[1 + i])]);
    y[16 + i] = d * float(kFp4[high(b[1 + i])]);
  }
}

struct Format {
  int32_t number;
  BlockShape shape;
  void (*dequantize)(const std::byte *, float *);
};

constexpr Format kFormats[] = {
    {HC_F32, {1, 4}, [](const std::byte *b, float *y) { std::memcpy(y, b, 4); }},
    {HC_F16, {1, 2}, [](const std::byte *b, float *y) { *y = f16(b); }},
    {HC_BF16, {1, 2}, [](const std::byte *b, float *y) { *y = bf16_value(u16(b)); }},
    {HC_Q4_0, {kSmall, 18}, q4_0},
    {HC_Q4_1, {kSmall, 20}, q4_1},
    {HC_Q5_0, {kSmall, 22}, q5_0},
    {HC_Q5_1, {kSmall, 24}, q5_1},
    {HC_Q8_0, {kSmall, 34}, q8_0},
    {HC_Q2_K, {kSuper, 84}, q2_k},
    {HC_Q3_K, {kSuper, 110}, q3_k},
    {HC_Q4_K, {kSuper, 144}, q4_k},
    {HC_Q5_K, {kSuper, 176}, q5_k},
    {HC_Q6_K, {kSuper, 210}, q6_k},
    {HC_IQ4_NL, {kSmall, 18}, iq4_nl},
    {HC_MXFP4, {kSmall, 17}, mxfp4},
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

void dequantize(int32_t format, int64_t count, const std::byte *data, float *values) {
  const Format &found = *find(format);
  for (int64_t i = 0; i < count; i += found.shape.values, data += found.shape.bytes, values += found.shape.values)
    found.dequantize(data, values);
}

// ---- integers ---------------------------------------------------------------------------------------------------

bool has_minima(int32_t format) { return format == HC_Q4_1 || format == HC_Q5_1 || format == HC_Q2_K || format == HC_Q4_K || format == HC_Q5_K; }

bool has_integers(int32_t format) { return find(format) != nullptr && block_shape(format).values > 1; }

namespace {

// Of a plain block of 32 with one step.
Integers plain(float step, float minimum) { return {{}, {step, step}, {minimum, minimum}}; }

void nibbles(const std::byte *b, int offset, Integers &y) {
  for (int i = 0; i < 16; ++i) {
    y.values[i] = int8_t(low(b[i]) + offset);
    y.values[16 + i] = int8_t(high(b[i]) + offset);
  }
}

void add_fifth(uint32_t fifth, Integers &y) {
  for (int i = 0; i < 32; ++i) y.values[i] = int8_t(y.values[i] + int(fifth >> i & 1) * 16);
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
    case HC_Q8_0: std::memcpy(y.values, b + 2, 32); break;
    case HC_IQ4_NL:
      nibbles(b + 2, 0, y);
      for (int8_t &value : y.values) value = kNonLinear[value];
      break;
    default: // MXFP4: the step stands alone in a block of twos
      y = plain(mxfp4_step(b), 0.0f);
      nibbles(b + 1, 0, y);
      for (int8_t &value : y.values) value = kFp4[value];
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
        for (int i = 0; i < 16; ++i) y.values[part * 16 + i] = int8_t(uint8_t(b[16 + g / 4 * 32 + part * 16 + i]) >> (2 * (g % 4)) & 3);
      }
      break;
    case HC_Q3_K:
      for (int part = 0; part < 2; ++part) {
        y.steps[part] = f16(b + 108) * float(q3_k_scale(b + 96, g * 2 + part));
        for (int i = 0; i < 16; ++i) {
          const int at = part * 16 + i, bits = uint8_t(b[32 + g / 4 * 32 + at]) >> (2 * (g % 4)) & 3;
          y.values[at] = int8_t(bits - ((uint8_t(b[at]) >> g & 1) != 0 ? 0 : 4));
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
        y.values[i] = int8_t((g % 2 == 0 ? low(quants[i]) : high(quants[i])) | fifth);
      }
      break;
    }
    default: // Q6_K
      for (int i = 0; i < 32; ++i) {
        const int quarter = g % 4, half = g / 4;
        const std::byte byte = b[half * 64 + quarter % 2 * 32 + i];
        y.values[i] = int8_t(((quarter < 2 ? low(byte) : high(byte)) | (uint8_t(b[128 + half * 32 + i]) >> (2 * quarter) & 3) << 4) - 32);
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

} // namespace hc
