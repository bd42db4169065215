// Plain C++: what every other kind is compared with, and what runs where no other does.

#include <cstddef>
#include <cstdint>

namespace hc {
namespace {

struct Isa {
  static constexpr int kWidth = 8;
  static constexpr int kRegisters = 16;

  struct F { float v[kWidth]; };
  struct I { int32_t v[kWidth]; uint8_t b[4 * kWidth]; };
  struct Pairs { uint16_t v[2 * kWidth]; };

  template <class Function> static F each(Function f) {
    F y;
    for (int i = 0; i < kWidth; ++i) y.v[i] = f(i);
    return y;
  }
  static float value(uint16_t bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float x;
    __builtin_memcpy(&x, &wide, sizeof x);
    return x;
  }
  static float half(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent == 0) {
      const float small = float(fraction) * 5.9604644775390625e-8f; // 2^-24
      return sign ? -small : small;
    }
    const uint32_t wide = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | fraction << 13;
    float x;
    __builtin_memcpy(&x, &wide, sizeof x);
    return x;
  }

  static F zero() { return set1(0.0f); }
  static F set1(float x) { return each([&](int) { return x; }); }
  static F load(const float *p) { return each([&](int i) { return p[i]; }); }
  static void store(float *p, F x) { for (int i = 0; i < kWidth; ++i) p[i] = x.v[i]; }
  static F load_f16(const uint16_t *p) { return each([&](int i) { return half(p[i]); }); }
  static F load_bf16(const uint16_t *p) { return each([&](int i) { return value(p[i]); }); }
  // E4M3 divided by 256: its bits are those of a float16 of a smaller exponent.
  static F load_f8(const std::byte *p) {
    return each([&](int i) { return half(uint16_t((uint32_t(p[i]) & 0x80) << 8 | (uint32_t(p[i]) & 0x7f) << 7)); });
  }
  static void store_bf16(uint16_t *p, F x);
  static F fma(F a, F b, F c) { return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; }); }
  static F add(F a, F b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
  static F sub(F a, F b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
  static F mul(F a, F b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
  static F div(F a, F b) { return each([&](int i) { return a.v[i] / b.v[i]; }); }
  static F min(F a, F b) { return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
  static F max(F a, F b) { return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
  static F abs(F a) { return each([&](int i) { return a.v[i] < 0 ? -a.v[i] : a.v[i]; }); }
  static F round(F a) { return each([&](int i) { return __builtin_rintf(a.v[i]); }); }
  static F times_power_of_two(F a, F n) {
    return each([&](int i) {
      const uint32_t bits = uint32_t(int32_t(n.v[i]) + 127) << 23;
      float power;
      __builtin_memcpy(&power, &bits, sizeof power);
      return a.v[i] * power;
    });
  }
  static F zero_where_less(F value, F x, F limit) { return each([&](int i) { return x.v[i] < limit.v[i] ? 0.0f : value.v[i]; }); }
  static float largest(F a) {
    float most = a.v[0];
    for (int i = 1; i < kWidth; ++i) most = a.v[i] > most ? a.v[i] : most;
    return most;
  }
  static float sum(F a) {
    for (int step = kWidth / 2; step > 0; step /= 2)
      for (int i = 0; i < step; ++i) a.v[i] += a.v[i + step];
    return a.v[0];
  }

  static void split_pairs(const uint16_t *p, F &even, F &odd) {
    even = each([&](int i) { return value(p[2 * i]); });
    odd = each([&](int i) { return value(p[2 * i + 1]); });
  }
  static Pairs load_pairs(const uint16_t *p) {
    Pairs y;
    for (int i = 0; i < 2 * kWidth; ++i) y.v[i] = p[i];
    return y;
  }
  static F load_codes(const int8_t *p) { return each([&](int i) { return float(p[i]); }); }
  // Numbers that are exact in bfloat16, two by two.
  static void store_pairs(uint16_t *p, F even, F odd);
  static Pairs set1_pair(uint32_t pair) {
    Pairs y;
    for (int i = 0; i < kWidth; ++i) __builtin_memcpy(y.v + 2 * i, &pair, sizeof pair);
    return y;
  }
  static F dot_pairs(F sum, Pairs a, Pairs b) {
    return each([&](int i) {
      return sum.v[i] + value(a.v[2 * i]) * value(b.v[2 * i]) + value(a.v[2 * i + 1]) * value(b.v[2 * i + 1]);
    });
  }

  static I set1_int(int32_t x) {
    I y;
    for (int i = 0; i < kWidth; ++i) {
      y.v[i] = x;
      __builtin_memcpy(y.b + 4 * i, &x, sizeof x);
    }
    return y;
  }
  static I load_bytes(const std::byte *p) {
    I y;
    __builtin_memcpy(y.b, p, sizeof y.b);
    return y;
  }
  static void split_nibbles(const std::byte *p, I &low, I &high) {
    for (int i = 0; i < 4 * kWidth; ++i) {
      low.b[i] = uint8_t(p[i]) & 15;
      high.b[i] = uint8_t(p[i]) >> 4;
    }
  }
  static I load_table(const uint8_t *numbers) {
    I y;
    __builtin_memcpy(y.b, numbers, 16);
    return y;
  }
  static I look_up(I table, I places) {
    for (uint8_t &each : places.b) each = table.b[each & 15];
    return places;
  }
  static I dot_bytes(I sum, I weights, I values) {
    for (int i = 0; i < kWidth; ++i)
      for (int k = 0; k < 4; ++k) sum.v[i] += int32_t(weights.b[4 * i + k]) * int32_t(int8_t(values.b[4 * i + k]));
    return sum;
  }
  static F to_float(I x) { return each([&](int i) { return float(x.v[i]); }); }
};

} // namespace
} // namespace hc

#include "kernels.inc.hpp"

namespace hc {
namespace {
void Isa::store_pairs(uint16_t *p, F even, F odd) {
  for (int i = 0; i < kWidth; ++i) {
    p[2 * i] = bf16_bits(even.v[i]);
    p[2 * i + 1] = bf16_bits(odd.v[i]);
  }
}
void Isa::store_bf16(uint16_t *p, F x) { for (int i = 0; i < kWidth; ++i) p[i] = bf16_bits(x.v[i]); }
constinit const Kernels kernels = make_kernels("plain");
} // namespace

const Kernels *plain_kernels() { return &kernels; }
} // namespace hc
