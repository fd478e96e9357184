// Arithmetic on one thread or warp that every kernel shares: conversions, vectors of eight
// elements, sums in a fixed order, and the elementary functions of the CPU backend with the same
// bits (kernels/cpu/math_kernel.h): IEEE operations in the same order, nothing contracted.

#ifndef TESSERA_KERNELS_CUDA_DEVICE_MATH_H_
#define TESSERA_KERNELS_CUDA_DEVICE_MATH_H_

#include <cuda_bf16.h>

#include <cstdint>

namespace tessera::cuda {

using Bf16 = __nv_bfloat16;

__device__ inline float Wide(float x) { return x; }
__device__ inline float Wide(Bf16 x) { return __bfloat162float(x); }
template <typename T>
__device__ inline T Narrow(float x);
template <>
__device__ inline float Narrow<float>(float x) {
  return x;
}
template <>
__device__ inline Bf16 Narrow<Bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// A float8 (E4M3) number as it lies in memory. Its bits are those of a float32 or bfloat16 that is
// 2^120 times smaller.
struct Float8 {
  uint8_t bits;
};
__device__ inline float Wide(Float8 x) {
  const uint32_t u = x.bits;
  return __uint_as_float((u & 0x80u) << 24 | (u & 0x7fu) << 20) * 0x1p120f;
}

// Two floats as the two halves of a register, the first in the lower one.
__device__ inline uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Eight consecutive elements at p; elements from `count` on are zero and not read. `whole`: p is
// aligned to 16 bytes and all eight exist.
__device__ inline void Load8(float (&x)[8], const Bf16* p, int count, bool whole) {
  if (whole) {
    const uint4 v = *reinterpret_cast<const uint4*>(p);
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[2 * i] = __uint_as_float(words[i] << 16);
      x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = i < count ? Wide(p[i]) : 0.0f;
}
__device__ inline void Load8(float (&x)[8], const float* p, int count, bool whole) {
  if (whole) {
    const float4 a = reinterpret_cast<const float4*>(p)[0];
    const float4 b = reinterpret_cast<const float4*>(p)[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = i < count ? p[i] : 0.0f;
}
__device__ inline void Store8(Bf16* p, const float (&x)[8], int count, bool whole) {
  if (whole) {
    *reinterpret_cast<uint4*>(p) = make_uint4(PackBf16(x[0], x[1]), PackBf16(x[2], x[3]),
                                              PackBf16(x[4], x[5]), PackBf16(x[6], x[7]));
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < count) p[i] = Narrow<Bf16>(x[i]);
  }
}
__device__ inline void Store8(float* p, const float (&x)[8], int count, bool whole) {
  if (whole) {
    reinterpret_cast<float4*>(p)[0] = make_float4(x[0], x[1], x[2], x[3]);
    reinterpret_cast<float4*>(p)[1] = make_float4(x[4], x[5], x[6], x[7]);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i < count) p[i] = x[i];
  }
}

// The same sum on every lane, whatever the lane.
__device__ inline float WarpSum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// Sum over a block of up to 1024 threads, the same for every thread; `shared` holds 32 floats and
// is free again when the block next synchronizes.
__device__ inline float BlockSum(float x, float* shared) {
  x = WarpSum(x);
  const int warps = (static_cast<int>(blockDim.x) + 31) / 32;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return WarpSum(lane < warps ? shared[lane] : 0.0f);
}

// The largest of a block's numbers, all at least 0, likewise.
__device__ inline float BlockMax(float x, float* shared) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  }
  const int warps = (static_cast<int>(blockDim.x) + 31) / 32;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  for (int warp = 0; warp < warps; ++warp) x = fmaxf(x, shared[warp]);
  return x;
}

// e^x with the bits of cpu::Exp.
__device__ inline float ExactExp(float x) {
  x = -105.0f > x ? -105.0f : x;
  x = 89.0f < x ? 89.0f : x;
  const float n = rintf(x * 1.44269504f);
  float r = fmaf(n, -0x1.62e4p-1f, x);
  r = fmaf(n, -0x1.7f7d1cp-20f, r);
  float p = 1.0f / 5040;
  p = fmaf(p, r, 1.0f / 720);
  p = fmaf(p, r, 1.0f / 120);
  p = fmaf(p, r, 1.0f / 24);
  p = fmaf(p, r, 1.0f / 6);
  p = fmaf(p, r, 0.5f);
  p = fmaf(p, r, 1.0f);
  p = fmaf(p, r, 1.0f);
  const int whole = static_cast<int>(n);  // 0 for NaN
  const int half = whole >> 1;
  return p * __uint_as_float(static_cast<uint32_t>(half + 127) << 23) *
         __uint_as_float(static_cast<uint32_t>(whole - half + 127) << 23);
}

// tanh x with the bits of cpu::Tanh.
__device__ inline float ExactTanh(float x) {
  const float square = x * x;
  float p = 62.0f / 2835;
  p = fmaf(p, square, -17.0f / 315);
  p = fmaf(p, square, 2.0f / 15);
  p = fmaf(p, square, -1.0f / 3);
  const float small = fmaf(p * square, x, x);
  const float large = 1.0f - __fdiv_rn(2.0f, ExactExp(x + x) + 1.0f);
  return fabsf(x) < 0.25f ? small : large;
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_DEVICE_MATH_H_
