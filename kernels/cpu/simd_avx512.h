// Sixteen float lanes as one AVX-512 register. See simd_plain.h for what each function means.
// Included only by kernels_avx512.cc, which is compiled for AVX-512 F, BW and VL.

#ifndef TESSERA_KERNELS_CPU_SIMD_AVX512_H_
#define TESSERA_KERNELS_CPU_SIMD_AVX512_H_

#include <immintrin.h>

#include "base/dtype.h"

namespace tessera::cpu {

struct Avx512Simd {
  using F = __m512;
  using Pairs = __m512i;
  static constexpr const char* kName = "avx512";
  static constexpr int kRowsMax = 8;
  static constexpr int Panels(int rows) { return rows <= 4 ? 4 : 2; }

  static F Set(float x) { return _mm512_set1_ps(x); }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static F Load(const BFloat16* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  // Float8 bits are those of a float32 that is 2^120 times smaller.
  static F LoadFloat8(const uint8_t* p) {
    const __m512i u = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m512i sign = _mm512_slli_epi32(_mm512_and_si512(u, _mm512_set1_epi32(0x80)), 24);
    const __m512i rest = _mm512_slli_epi32(_mm512_and_si512(u, _mm512_set1_epi32(0x7f)), 20);
    return _mm512_mul_ps(_mm512_castsi512_ps(_mm512_or_si512(sign, rest)),
                         _mm512_set1_ps(0x1p120f));
  }
  static void Store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static void Store(BFloat16* p, F a) {
    const __m512i u = _mm512_castps_si512(a);
    const __m512i top = _mm512_srli_epi32(u, 16);
    const __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
    const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, bias), 16);
    const __m512i quiet = _mm512_or_si512(top, _mm512_set1_epi32(0x40));
    const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(nan, rounded, quiet)));
  }
  static Pairs LoadPairs(const BFloat16* p) { return _mm512_loadu_si512(p); }
  static F Even(Pairs a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); }
  static F Odd(Pairs a) {
    const __m512i mask = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return _mm512_castsi512_ps(_mm512_and_si512(a, mask));
  }

  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static F SelectLess(F a, F b, F x, F y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
  }
  static F Abs(F a) { return _mm512_abs_ps(a); }
  static F Round(F a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static F PowerOfTwo(__m512i n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
  }
  static F Scale(F a, F n) {
    const __m512i whole = _mm512_cvtps_epi32(n);
    const __m512i half = _mm512_srai_epi32(whole, 1);
    const F once = _mm512_mul_ps(a, PowerOfTwo(half));
    return _mm512_mul_ps(once, PowerOfTwo(_mm512_sub_epi32(whole, half)));
  }
  static F FirstLanes(int n, F a, F b) {
    const int lanes = n < 0 ? 0 : n > 16 ? 16 : n;
    return _mm512_mask_blend_ps(static_cast<__mmask16>((1u << lanes) - 1), b, a);
  }
  static __m256 UpperHalf(F a) {
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
  }
  static float SumLanes(F a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), UpperHalf(a));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float MaxLanes(F a) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), UpperHalf(a));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
};

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_SIMD_AVX512_H_
