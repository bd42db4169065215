// AVX2 with FMA and F16C.

#include <cstddef>
#include <cstdint>
#include <immintrin.h>

namespace hc {
namespace {

struct Isa {
  static constexpr int kWidth = 8;
  static constexpr int kRegisters = 16;

  using F = __m256;
  using I = __m256i;
  using Pairs = __m256i;

  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F load(const float *p) { return _mm256_loadu_ps(p); }
  static void store(float *p, F x) { _mm256_storeu_ps(p, x); }
  static F load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))); }
  static F load_bf16(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))), 16));
  }
  // E4M3 divided by 256: its bits are those of a float16 of a smaller exponent.
  static F load_f8(const std::byte *p) {
    const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p)));
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x80)), 8);
    return _mm256_cvtph_ps(_mm_or_si128(sign, _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x7f)), 7)));
  }
  static void store_bf16(uint16_t *p, F x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i nan = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i wide = _mm256_blendv_epi8(rounded, nan, is_nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(wide, wide), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_castsi256_si128(packed));
  }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F times_power_of_two(F a, F n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }
  static F zero_where_less(F value, F x, F limit) { return _mm256_andnot_ps(_mm256_cmp_ps(x, limit, _CMP_LT_OQ), value); }
  static float largest(F a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
  }
  static float sum(F a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
  }

  static F even_of(Pairs x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
  static F odd_of(Pairs x) { return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(int(0xffff0000)))); }
  static void split_pairs(const uint16_t *p, F &even, F &odd) {
    const Pairs x = load_pairs(p);
    even = even_of(x);
    odd = odd_of(x);
  }
  static Pairs load_pairs(const uint16_t *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }
  static F load_codes(const int8_t *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p)))); }
  // Numbers that are exact in bfloat16, two by two.
  static void store_pairs(uint16_t *p, F even, F odd) {
    const __m256i low = _mm256_srli_epi32(_mm256_castps_si256(even), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm256_or_si256(low, _mm256_castps_si256(odd)));
  }
  static Pairs set1_pair(uint32_t pair) { return _mm256_set1_epi32(int(pair)); }
  static F dot_pairs(F sum, Pairs a, Pairs b) { return fma(even_of(a), even_of(b), fma(odd_of(a), odd_of(b), sum)); }

  static I set1_int(int32_t x) { return _mm256_set1_epi32(x); }
  static I load_bytes(const std::byte *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }
  static void split_nibbles(const std::byte *p, I &low, I &high) {
    const I bytes = load_bytes(p), mask = _mm256_set1_epi8(15);
    low = _mm256_and_si256(bytes, mask);
    high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
  }
  static I load_table(const uint8_t *numbers) { return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(numbers))); }
  static I look_up(I table, I places) { return _mm256_shuffle_epi8(table, places); }
  // Products are added up in 32 bit: `maddubs` would stop at 32,767.
  static I dot_bytes(I sum, I weights, I values) {
    const I first = _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(weights)), _mm256_cvtepi8_epi16(_mm256_castsi256_si128(values)));
    const I second = _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm256_extracti128_si256(weights, 1)), _mm256_cvtepi8_epi16(_mm256_extracti128_si256(values, 1)));
    return _mm256_add_epi32(sum, _mm256_permute4x64_epi64(_mm256_hadd_epi32(first, second), 0xd8));
  }
  static F to_float(I x) { return _mm256_cvtepi32_ps(x); }
};

} // namespace
} // namespace hc

#include "kernels.inc.hpp"

namespace hc {
namespace {
constinit const Kernels kernels = make_kernels("avx2");
}

const Kernels *avx2_kernels() { return &kernels; }
} // namespace hc
