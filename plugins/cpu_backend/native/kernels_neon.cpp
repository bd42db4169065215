// NEON with dot products of bytes (ARMv8.2): Apple's M1 and later, Graviton 2 and later, Cortex-A76 and later.

#include <arm_neon.h>
#include <cstddef>
#include <cstdint>

namespace hc {
namespace {

struct Isa {
  static constexpr int kWidth = 4;
  static constexpr int kRegisters = 32;

  using F = float32x4_t;
  using I = int32x4_t;
  using Pairs = uint16x8_t;

  static F zero() { return vdupq_n_f32(0.0f); }
  static F set1(float x) { return vdupq_n_f32(x); }
  static F load(const float *p) { return vld1q_f32(p); }
  static void store(float *p, F x) { vst1q_f32(p, x); }
  static F load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
  static F load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
  // E4M3 divided by 256: its bits are those of a float16 of a smaller exponent.
  static F load_f8(const std::byte *p) {
    uint32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    const uint16x4_t wide = vget_low_u16(vmovl_u8(vcreate_u8(four)));
    const uint16x4_t sign = vshl_n_u16(vand_u16(wide, vdup_n_u16(0x80)), 8);
    return vcvt_f32_f16(vreinterpret_f16_u16(vorr_u16(sign, vshl_n_u16(vand_u16(wide, vdup_n_u16(0x7f)), 7))));
  }
  static void store_bf16(uint16_t *p, F x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    const uint32x4_t nan = vorrq_u32(bits, vdupq_n_u32(0x400000));
    vst1_u16(p, vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, nan), 16));
  }
  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F add(F a, F b) { return vaddq_f32(a, b); }
  static F sub(F a, F b) { return vsubq_f32(a, b); }
  static F mul(F a, F b) { return vmulq_f32(a, b); }
  static F div(F a, F b) { return vdivq_f32(a, b); }
  // Where one of the two is no number the second is taken, as on other processors.
  static F min(F a, F b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
  static F max(F a, F b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
  static F abs(F a) { return vabsq_f32(a); }
  static F round(F a) { return vrndnq_f32(a); }
  static F times_power_of_two(F a, F n) {
    const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
  }
  static F zero_where_less(F value, F x, F limit) { return vbslq_f32(vcltq_f32(x, limit), zero(), value); }
  static float largest(F a) { return vmaxvq_f32(a); }
  static float sum(F a) { return vaddvq_f32(a); }

  static F even_of(Pairs x) { return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u16(x), 16)); }
  static F odd_of(Pairs x) { return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u16(x), vdupq_n_u32(0xffff0000))); }
  static void split_pairs(const uint16_t *p, F &even, F &odd) {
    const Pairs x = load_pairs(p);
    even = even_of(x);
    odd = odd_of(x);
  }
  static Pairs load_pairs(const uint16_t *p) { return vld1q_u16(p); }
  static F load_codes(const int8_t *p) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))))));
  }
  // Numbers that are exact in bfloat16, two by two.
  static void store_pairs(uint16_t *p, F even, F odd) {
    vst1q_u16(p, vreinterpretq_u16_u32(vorrq_u32(vshrq_n_u32(vreinterpretq_u32_f32(even), 16), vreinterpretq_u32_f32(odd))));
  }
  static Pairs set1_pair(uint32_t pair) { return vreinterpretq_u16_u32(vdupq_n_u32(pair)); }
  static F dot_pairs(F sum, Pairs a, Pairs b) { return fma(even_of(a), even_of(b), fma(odd_of(a), odd_of(b), sum)); }

  static I set1_int(int32_t x) { return vdupq_n_s32(x); }
  static I load_bytes(const std::byte *p) { return vreinterpretq_s32_u8(vld1q_u8(reinterpret_cast<const uint8_t *>(p))); }
  static void split_nibbles(const std::byte *p, I &low, I &high) {
    const uint8x16_t bytes = vld1q_u8(reinterpret_cast<const uint8_t *>(p));
    low = vreinterpretq_s32_u8(vandq_u8(bytes, vdupq_n_u8(15)));
    high = vreinterpretq_s32_u8(vshrq_n_u8(bytes, 4));
  }
  static I load_table(const uint8_t *numbers) { return vreinterpretq_s32_u8(vld1q_u8(numbers)); }
  static I look_up(I table, I places) { return vreinterpretq_s32_u8(vqtbl1q_u8(vreinterpretq_u8_s32(table), vreinterpretq_u8_s32(places))); }
  // The product of signed bytes is there, that of unsigned with signed ones is not everywhere: w = (w - 128) + 2 * 64.
  static I dot_bytes(I sum, I weights, I values) {
    const int8x16_t w = vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_s32(weights), vdupq_n_u8(0x80))), v = vreinterpretq_s8_s32(values);
    const int8x16_t half = vdupq_n_s8(64);
    return vdotq_s32(vdotq_s32(vdotq_s32(sum, w, v), half, v), half, v);
  }
  static F to_float(I x) { return vcvtq_f32_s32(x); }
};

} // namespace
} // namespace hc

#include "kernels.inc.hpp"

namespace hc {
namespace {
constinit const Kernels kernels = make_kernels("neon");
}

const Kernels *neon_kernels() { return &kernels; }
} // namespace hc
