// Elementary functions and loops on sixteen lanes, the same bits in every instruction
// set: only IEEE operations in a fixed order. Included by the *_kernel.h files; see
// simd_plain.h for the rule.

#ifndef TESSERA_KERNELS_CPU_MATH_KERNEL_H_
#define TESSERA_KERNELS_CPU_MATH_KERNEL_H_

#include <cstdint>

namespace tessera::cpu {

// e^x: below 1.5 ulp of the true value for normal results, 0 below -104, infinity above
// 88.73, NaN for NaN. x = n ln 2 + r with |r| <= ln(2) / 2, e^r by its series to r^7 (next
// term: 5e-9 relative).
template <typename S>
typename S::F Exp(typename S::F x) {
  using F = typename S::F;
  x = S::Max(S::Set(-105.0f), x);
  x = S::Min(S::Set(89.0f), x);
  const F n = S::Round(S::Mul(x, S::Set(1.44269504f)));
  F r = S::Fma(n, S::Set(-0x1.62e4p-1f), x);   // ln 2, upper bits: the product is exact
  r = S::Fma(n, S::Set(-0x1.7f7d1cp-20f), r);  // ln 2, the rest
  F p = S::Set(1.0f / 5040);
  p = S::Fma(p, r, S::Set(1.0f / 720));
  p = S::Fma(p, r, S::Set(1.0f / 120));
  p = S::Fma(p, r, S::Set(1.0f / 24));
  p = S::Fma(p, r, S::Set(1.0f / 6));
  p = S::Fma(p, r, S::Set(0.5f));
  p = S::Fma(p, r, S::Set(1.0f));
  p = S::Fma(p, r, S::Set(1.0f));
  return S::Scale(p, n);
}

// tanh x, relative error below 1e-6: the odd series to x^9 under 1/4, 1 - 2 / (e^2x + 1) above.
template <typename S>
typename S::F Tanh(typename S::F x) {
  using F = typename S::F;
  const F square = S::Mul(x, x);
  F p = S::Set(62.0f / 2835);
  p = S::Fma(p, square, S::Set(-17.0f / 315));
  p = S::Fma(p, square, S::Set(2.0f / 15));
  p = S::Fma(p, square, S::Set(-1.0f / 3));
  const F small = S::Fma(S::Mul(p, square), x, x);
  const F one = S::Set(1.0f);
  const F large = S::Sub(one, S::Div(S::Set(2.0f), S::Add(Exp<S>(S::Add(x, x)), one)));
  return S::SelectLess(S::Abs(x), S::Set(0.25f), small, large);
}

// The first n < 16 elements at p, zeros behind them.
template <typename S, typename T>
typename S::F LoadFirst(const T* p, int64_t n) {
  T lane[16] = {};
  for (int64_t i = 0; i < n; ++i) lane[i] = p[i];
  return S::Load(lane);
}

template <typename S, typename T>
void StoreFirst(T* p, int64_t n, typename S::F a) {
  T lane[16];
  S::Store(lane, a);
  for (int64_t i = 0; i < n; ++i) p[i] = lane[i];
}

// body(i, load, store) for every group of sixteen of [0, n), the last one possibly shorter: load(p)
// and store(p, value) touch only elements that exist.
template <typename S, typename Body>
void ForLanes(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    body(
        i, [](const auto* p) { return S::Load(p); },
        [](auto* p, typename S::F a) { S::Store(p, a); });
  }
  const int64_t rest = n - i;
  if (rest == 0) return;
  body(
      i, [rest](const auto* p) { return LoadFirst<S>(p, rest); },
      [rest](auto* p, typename S::F a) { StoreFirst<S>(p, rest, a); });
}

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_MATH_KERNEL_H_
