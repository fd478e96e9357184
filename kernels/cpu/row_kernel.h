// Element-wise and norm kernels over one row, and the two vector passes of the sampler.

#ifndef TESSERA_KERNELS_CPU_ROW_KERNEL_H_
#define TESSERA_KERNELS_CPU_ROW_KERNEL_H_

#include <math.h>

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/math_kernel.h"

namespace tessera::cpu {

// 1 / rms of n values, sixteen at a time from at(i, load): sixteen partial sums of squares (lane i:
// elements i mod 16), then their tree. Lanes behind the last element are zero.
template <typename S, typename At>
typename S::F InverseRms(int64_t n, float eps, At at) {
  using F = typename S::F;
  F squares = S::Set(0.0f);
  ForLanes<S>(n, [&](int64_t i, auto load, auto) {
    const F value = at(i, load);
    squares = S::Fma(value, value, squares);
  });
  const float mean = S::SumLanes(squares) / static_cast<float>(n);
  return S::Set(1.0f / __builtin_sqrtf(mean + eps));
}

template <typename S, typename T>
void RmsNormRow(T* out, const T* x, const T* weight, int64_t n, float eps, float offset) {
  using F = typename S::F;
  const F inverse = InverseRms<S>(n, eps, [&](int64_t i, auto load) { return load(x + i); });
  ForLanes<S>(n, [&](int64_t i, auto load, auto store) {
    const F factor = S::Add(load(weight + i), S::Set(offset));
    store(out + i, S::Mul(S::Mul(load(x + i), inverse), factor));
  });
}

// (x - mean) / deviation * weight + bias, both sums as in InverseRms.
template <typename S, typename T>
void LayerNormRow(T* out, const T* x, const T* weight, const T* bias, int64_t n, float eps) {
  using F = typename S::F;
  F sum = S::Set(0.0f);
  ForLanes<S>(n, [&](int64_t i, auto load, auto) { sum = S::Add(sum, load(x + i)); });
  const F mean = S::Set(S::SumLanes(sum) / static_cast<float>(n));
  const F inverse = InverseRms<S>(n, eps, [&](int64_t i, auto load) {
    const int lanes = n - i < 16 ? static_cast<int>(n - i) : 16;
    return S::FirstLanes(lanes, S::Sub(load(x + i), mean), S::Set(0.0f));
  });
  ForLanes<S>(n, [&](int64_t i, auto load, auto store) {
    const F normed = S::Mul(S::Sub(load(x + i), mean), inverse);
    store(out + i, S::Add(S::Mul(normed, load(weight + i)), load(bias + i)));
  });
}

template <typename S, typename T>
void AddResidualRow(T* residual, const float* sum, const T* bias, int64_t n) {
  ForLanes<S>(n, [&](int64_t i, auto load, auto store) {
    typename S::F addend = load(sum + i);
    if (bias != nullptr) addend = S::Add(addend, load(bias + i));
    store(residual + i, S::Add(load(residual + i), addend));
  });
}

template <typename S, typename T>
void AddNormedRow(T* residual, const float* sum, const T* bias, const T* weight, int64_t n,
                  float eps, float offset) {
  using F = typename S::F;
  const auto addend = [&](int64_t i, auto load) {
    const F value = load(sum + i);
    return bias == nullptr ? value : S::Add(value, load(bias + i));
  };
  const F inverse = InverseRms<S>(n, eps, addend);
  ForLanes<S>(n, [&](int64_t i, auto load, auto store) {
    const F factor = S::Add(load(weight + i), S::Set(offset));
    const F normed = S::Mul(S::Mul(addend(i, load), inverse), factor);
    store(residual + i, S::Add(load(residual + i), normed));
  });
}

template <typename S, typename Out, typename T>
void AddBiasRow(Out* out, const float* in, const T* bias, int64_t n) {
  ForLanes<S>(n, [&](int64_t i, auto load, auto store) {
    typename S::F value = load(in + i);
    if (bias != nullptr) value = S::Add(value, load(bias + i));
    store(out + i, value);
  });
}

// x / (1 + e^-x)
template <typename S>
typename S::F Silu(typename S::F x) {
  const typename S::F one = S::Set(1.0f);
  return S::Div(x, S::Add(one, Exp<S>(S::Sub(S::Set(0.0f), x))));
}

// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
template <typename S>
typename S::F GeluTanh(typename S::F x) {
  using F = typename S::F;
  const F cube = S::Mul(S::Mul(x, x), x);
  const F inner = S::Mul(S::Set(0.797884561f), S::Fma(S::Set(0.044715f), cube, x));
  return S::Mul(S::Mul(S::Set(0.5f), x), S::Add(S::Set(1.0f), Tanh<S>(inner)));
}

// x / 2 * (1 + erf(x / sqrt(2))), lane by lane with the C library's erff.
template <typename S>
typename S::F Gelu(typename S::F x) {
  float lane[16];
  S::Store(lane, x);
  for (float& value : lane) value = 0.5f * value * (1.0f + ::erff(value * 0.707106781f));
  return S::Load(lane);
}

template <typename S, typename T>
void GatedRow(T* out, const T* gate, const T* up, int64_t n, Activation act) {
  ForLanes<S>(n, [&](int64_t i, auto load, auto store) {
    typename S::F value = load(gate + i);
    switch (act) {
      case Activation::kSilu:
        value = Silu<S>(value);
        break;
      case Activation::kGeluTanh:
        value = GeluTanh<S>(value);
        break;
      case Activation::kGelu:
        value = Gelu<S>(value);
        break;
    }
    store(out + i, S::Mul(value, load(up + i)));
  });
}

template <typename S>
void SoftCapRow(float* x, int64_t n, float cap) {
  ForLanes<S>(n, [&](int64_t i, auto load, auto store) {
    store(x + i, S::Mul(S::Set(cap), Tanh<S>(S::Div(load(x + i), S::Set(cap)))));
  });
}

// 1 / (1 + e^-x)
template <typename S>
void SigmoidRow(float* out, const float* x, int64_t n) {
  const typename S::F one = S::Set(1.0f);
  ForLanes<S>(n, [&](int64_t i, auto load, auto store) {
    store(out + i, S::Div(one, S::Add(one, Exp<S>(S::Sub(S::Set(0.0f), load(x + i))))));
  });
}

// to += factor * x
template <typename S>
void AddScaledRow(float* to, const float* x, int64_t n, float factor) {
  ForLanes<S>(n, [&](int64_t i, auto load, auto store) {
    store(to + i, S::Fma(load(x + i), S::Set(factor), load(to + i)));
  });
}

template <typename S>
float MaxValue(const float* x, int64_t n) {
  const typename S::F lowest = S::Set(-__builtin_inff());
  typename S::F max = lowest;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) max = S::Max(S::Load(x + i), max);
  if (i < n) {
    const auto tail = S::FirstLanes(static_cast<int>(n - i), LoadFirst<S>(x + i, n - i), lowest);
    max = S::Max(tail, max);
  }
  return S::MaxLanes(max);
}

template <typename S>
void ExpScaledRow(float* out, const float* x, int64_t n, float max, float scale) {
  using F = typename S::F;
  const F limit = S::Set(max);
  ForLanes<S>(n, [&](int64_t i, auto load, auto store) {
    const F value = load(x + i);
    const F power = Exp<S>(S::Mul(S::Sub(value, limit), S::Set(scale)));
    // Not exp(0): infinity minus infinity is not a number.
    store(out + i, S::SelectLess(value, limit, power, S::Set(1.0f)));
  });
}

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_ROW_KERNEL_H_
