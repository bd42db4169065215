// The vector type of AVX512 with VNNI, and of AVX512-BF16 where the compiler is told that there is that too.

#include <cstddef>
#include <cstdint>
#include <immintrin.h>

namespace hc {
namespace {

struct Isa {
  static constexpr int kWidth = 16;
  static constexpr int kRegisters = 32;

  using F = __m512;
  using I = __m512i;
  using Pairs = __m512i;

  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F load(const float *p) { return _mm512_loadu_ps(p); }
  static void store(float *p, F x) { _mm512_storeu_ps(p, x); }
  static F load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
  static F load_bf16(const uint16_t *p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  // E4M3 divided by 256: its bits are those of a float16 of a smaller exponent.
  static F load_f8(const std::byte *p) {
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
    return _mm512_cvtph_ps(_mm256_or_si256(sign, _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x7f)), 7)));
  }
  static void store_bf16(uint16_t *p, F x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
  }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F times_power_of_two(F a, F n) { return _mm512_scalef_ps(a, n); }
  static F zero_where_less(F value, F x, F limit) {
    return _mm512_mask_mov_ps(value, _mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), _mm512_setzero_ps());
  }
  static float largest(F a) { return _mm512_reduce_max_ps(a); }
  static float sum(F a) { return _mm512_reduce_add_ps(a); }

  static F even_of(Pairs x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
  static F odd_of(Pairs x) { return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(int(0xffff0000)))); }
  static void split_pairs(const uint16_t *p, F &even, F &odd) {
    const Pairs x = load_pairs(p);
    even = even_of(x);
    odd = odd_of(x);
  }
  static Pairs load_pairs(const uint16_t *p) { return _mm512_loadu_si512(p); }
  static F load_codes(const int8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)))); }
  // Numbers that are exact in bfloat16, two by two.
  static void store_pairs(uint16_t *p, F even, F odd) {
    _mm512_storeu_si512(p, _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(even), 16), _mm512_castps_si512(odd)));
  }
  static Pairs set1_pair(uint32_t pair) { return _mm512_set1_epi32(int(pair)); }
#if defined(__AVX512BF16__)
  static F dot_pairs(F sum, Pairs a, Pairs b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
#else
  static F dot_pairs(F sum, Pairs a, Pairs b) { return fma(even_of(a), even_of(b), fma(odd_of(a), odd_of(b), sum)); }
#endif

  static I set1_int(int32_t x) { return _mm512_set1_epi32(x); }
  static I load_bytes(const std::byte *p) { return _mm512_loadu_si512(p); }
  static void split_nibbles(const std::byte *p, I &low, I &high) {
    const I bytes = load_bytes(p), mask = _mm512_set1_epi8(15);
    low = _mm512_and_si512(bytes, mask);
    high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
  }
  static I load_table(const uint8_t *numbers) { return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(numbers))); }
  static I look_up(I table, I places) { return _mm512_shuffle_epi8(table, places); }
  static I dot_bytes(I sum, I weights, I values) { return _mm512_dpbusd_epi32(sum, weights, values); }
  static F to_float(I x) { return _mm512_cvtepi32_ps(x); }
};

} // namespace
} // namespace hc
