// Sixteen float lanes written out as loops: the meaning that the AVX2 and AVX-512 versions must
// match bit for bit. Slow; the tests run every kernel on it and compare. The three simd_*.h offer
// the same names.
//
// Rule for simd_*.h and *_kernel.h: they are compiled once per instruction set, so everything in
// them is a template over, or a member of, the Simd type. An ordinary inline function from a shared
// header could be kept by the linker in its AVX-512 form and run on a machine without it.

#ifndef TESSERA_KERNELS_CPU_SIMD_PLAIN_H_
#define TESSERA_KERNELS_CPU_SIMD_PLAIN_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/dtype.h"

namespace tessera::cpu {

struct PlainSimd {
  struct F {
    float v[16];
  };
  // Two consecutive k of sixteen bfloat16 columns: even k in the low half of each word.
  struct Pairs {
    uint32_t v[16];
  };
  static constexpr const char* kName = "plain";
  // Register blocking of the product: rows of an x tile, and panels of 16 columns at once.
  static constexpr int kRowsMax = 4;
  static constexpr int Panels(int /*rows*/) { return 2; }

  template <typename Fn>
  static F Map(Fn fn) {
    F out;
    for (int i = 0; i < 16; ++i) out.v[i] = fn(i);
    return out;
  }
  static uint32_t Bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
  }
  static float FromBits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }

  static F Set(float x) {
    return Map([=](int) { return x; });
  }
  static F Load(const float* p) {
    return Map([=](int i) { return p[i]; });
  }
  static F Load(const BFloat16* p) {
    return Map([=](int i) { return FromBits(static_cast<uint32_t>(p[i].bits) << 16); });
  }
  // Float8 bits are those of a float32 that is 2^120 times smaller.
  static F LoadFloat8(const uint8_t* p) {
    return Map([=](int i) {
      const uint32_t u = p[i];
      return FromBits((u & 0x80u) << 24 | (u & 0x7fu) << 20) * 0x1p120f;
    });
  }
  static void Store(float* p, F a) { std::memcpy(p, a.v, sizeof(a.v)); }
  // Rounds to nearest, ties to even; NaN stays NaN.
  static void Store(BFloat16* p, F a) {
    for (int i = 0; i < 16; ++i) {
      const uint32_t u = Bits(a.v[i]);
      const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
      p[i].bits =
          static_cast<uint16_t>(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
  }
  static Pairs LoadPairs(const BFloat16* p) {
    Pairs out;
    std::memcpy(out.v, p, sizeof(out.v));
    return out;
  }
  static F Even(Pairs a) {
    return Map([&](int i) { return FromBits(a.v[i] << 16); });
  }
  static F Odd(Pairs a) {
    return Map([&](int i) { return FromBits(a.v[i] & 0xffff0000u); });
  }

  static F Add(F a, F b) {
    return Map([&](int i) { return a.v[i] + b.v[i]; });
  }
  static F Sub(F a, F b) {
    return Map([&](int i) { return a.v[i] - b.v[i]; });
  }
  static F Mul(F a, F b) {
    return Map([&](int i) { return a.v[i] * b.v[i]; });
  }
  static F Div(F a, F b) {
    return Map([&](int i) { return a.v[i] / b.v[i]; });
  }
  // a * b + c with one rounding.
  static F Fma(F a, F b, F c) {
    return Map([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
  }
  // The second operand where either is NaN.
  static F Max(F a, F b) {
    return Map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F Min(F a, F b) {
    return Map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  // a < b ? x : y
  static F SelectLess(F a, F b, F x, F y) {
    return Map([&](int i) { return a.v[i] < b.v[i] ? x.v[i] : y.v[i]; });
  }
  static F Abs(F a) {
    return Map([&](int i) { return FromBits(Bits(a.v[i]) & 0x7fffffffu); });
  }
  // To the nearest integer, ties to even.
  static F Round(F a) {
    return Map([&](int i) { return std::nearbyint(a.v[i]); });
  }
  // a * 2^n for integers n in [-252, 254], rounded once.
  static F Scale(F a, F n) {
    return Map([&](int i) {
      const int whole = n.v[i] == n.v[i] ? static_cast<int>(n.v[i]) : 0;
      const int half = whole >> 1;
      return a.v[i] * FromBits(static_cast<uint32_t>(half + 127) << 23) *
             FromBits(static_cast<uint32_t>(whole - half + 127) << 23);
    });
  }
  // Lane i of the first `n` from a, the rest from b.
  static F FirstLanes(int n, F a, F b) {
    return Map([&](int i) { return i < n ? a.v[i] : b.v[i]; });
  }
  // Over the lanes in a fixed tree: lane i with lane i + 8, then i + 4, i + 2, i + 1.
  static float SumLanes(F a) {
    for (int width = 8; width >= 1; width /= 2) {
      for (int i = 0; i < width; ++i) a.v[i] += a.v[i + width];
    }
    return a.v[0];
  }
  static float MaxLanes(F a) {
    for (int width = 8; width >= 1; width /= 2) {
      for (int i = 0; i < width; ++i) a.v[i] = a.v[i] > a.v[i + width] ? a.v[i] : a.v[i + width];
    }
    return a.v[0];
  }
};

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_SIMD_PLAIN_H_
