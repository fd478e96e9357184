// Head norms, rotary embedding and the write into the cache. A block takes one token and eight
// heads at a time, a warp a head; the angles of the token are computed once per block.

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/paged.h"

namespace tessera::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kEachMax = kHeadElementsMax / 32;  // elements of a head in a lane

// What a block shares: the angles of its token, and room for a head per warp.
struct Shared {
  float cosine[kHeadElementsMax / 2];
  float sine[kHeadElementsMax / 2];
  float heads[kWarps][kHeadElementsMax];

  __device__ void FillAngles(const RopeArguments& a, int position) {
    for (int i = static_cast<int>(threadIdx.x); i < a.rotary_size / 2; i += 32 * kWarps) {
      float s;
      float c;
      sincosf(static_cast<float>(position) * a.inv_frequency[i], &s, &c);
      cosine[i] = c * a.attention_factor;
      sine[i] = s * a.attention_factor;
    }
    __syncthreads();
  }
};

// A head in a warp's registers: x[i] is element lane + 32 i.
template <typename T>
struct Head {
  float x[kEachMax];
  const int lane = static_cast<int>(threadIdx.x) % 32;

  __device__ void Load(const T* from, int size) {
#pragma unroll
    for (int i = 0; i < kEachMax; ++i) {
      x[i] = lane + 32 * i < size ? Wide(from[lane + 32 * i]) : 0.0f;
    }
  }
  template <typename To>
  __device__ void Store(To* to, int begin, int end) const {
#pragma unroll
    for (int i = 0; i < kEachMax; ++i) {
      const int d = lane + 32 * i;
      if (d >= begin && d < end) to[d] = Narrow<To>(x[i]);
    }
  }
  // Norm of the first `size` elements, rounded to T.
  __device__ void Norm(const T* weight, int size, float eps, float offset) {
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kEachMax; ++i) {
      if (lane + 32 * i < size) squares = fmaf(x[i], x[i], squares);
    }
    const float mean = __fdiv_rn(WarpSum(squares), static_cast<float>(size));
    const float inverse = __fdiv_rn(1.0f, __fsqrt_rn(mean + eps));
#pragma unroll
    for (int i = 0; i < kEachMax; ++i) {
      const int d = lane + 32 * i;
      if (d < size) x[i] = Wide(Narrow<T>(x[i] * inverse * (Wide(weight[d]) + offset)));
    }
  }
  // Turns elements [begin, begin + rotary_size), rounded to T.
  __device__ void Turn(const RopeArguments& a, const Shared& shared, float* room, int begin) {
    const int half = a.rotary_size / 2;
#pragma unroll
    for (int i = 0; i < kEachMax; ++i) room[lane + 32 * i] = x[i];
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kEachMax; ++i) {
      const int d = lane + 32 * i - begin;
      if (d < 0 || d >= 2 * half) continue;
      const bool is_first = a.interleaved ? d % 2 == 0 : d < half;
      const int pair = a.interleaved ? d / 2 : d % half;
      const int apart = a.interleaved ? 1 : half;
      const float other = room[begin + (is_first ? d + apart : d - apart)];
      const float side = other * shared.sine[pair];
      const float own = x[i] * shared.cosine[pair];
      x[i] = Wide(Narrow<T>(is_first ? own - side : own + side));
    }
    __syncwarp();
  }
};

template <typename T, typename Kv>
__global__ void RopeKernel(RopeArguments a) {
  __shared__ Shared shared;
  const int token = static_cast<int>(blockIdx.x);
  const int position = a.step.positions[token];
  shared.FillAngles(a, position);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int index = static_cast<int>(blockIdx.y) * kWarps + warp;
  const int size = a.kv.head_size;
  const int turning = a.num_heads + a.kv.num_heads;
  if (index >= turning + a.kv.num_heads) return;
  T* at = static_cast<T*>(a.qkv) + token * a.qkv_stride + static_cast<int64_t>(index) * size;
  Head<T> head;
  head.Load(at, size);
  if (index < turning) {
    const T* weight = static_cast<const T*>(index < a.num_heads ? a.query_norm : a.key_norm);
    if (weight != nullptr) head.Norm(weight, size, a.eps, a.offset);
    head.Turn(a, shared, shared.heads[warp], 0);
    head.Store(at, 0, size);
  }
  if (index < a.num_heads) return;
  const int64_t block = BlockOf(a.kv, a.step, RowOf(a.step, token), position);
  const bool is_value = index >= turning;
  Kv* to = KeyAt<Kv>(a.kv, block, is_value ? index - turning : index - a.num_heads,
                     position % a.kv.block_size);
  if (is_value) to += static_cast<int64_t>(a.kv.block_size) * size;
  head.Store(to, 0, size);
}

template <typename T, typename Kv>
__global__ void LatentKernel(LatentArguments l) {
  __shared__ Shared shared;
  const RopeArguments& a = l.rope;
  const int token = static_cast<int>(blockIdx.x);
  const int position = a.step.positions[token];
  shared.FillAngles(a, position);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int index = static_cast<int>(blockIdx.y) * kWarps + warp;
  const int entry = a.kv.head_size;
  const int still = entry - a.rotary_size;
  if (index > a.num_heads) return;
  Head<T> head;
  if (index < a.num_heads) {
    head.Load(static_cast<const T*>(l.q) + token * l.q_stride +
                  static_cast<int64_t>(index + 1) * l.q_head - a.rotary_size,
              a.rotary_size);
    head.Turn(a, shared, shared.heads[warp], 0);
    head.Store(static_cast<T*>(l.query) + token * l.query_stride +
                   static_cast<int64_t>(index) * entry + still,
               0, a.rotary_size);
    return;
  }
  T* own = static_cast<T*>(a.qkv) + token * a.qkv_stride;
  head.Load(own, entry);
  head.Norm(static_cast<const T*>(a.key_norm), still, a.eps, a.offset);
  head.Turn(a, shared, shared.heads[warp], still);
  head.Store(own, 0, entry);
  const int64_t block = BlockOf(a.kv, a.step, RowOf(a.step, token), position);
  head.Store(KeyAt<Kv>(a.kv, block, 0, position % a.kv.block_size), 0, entry);
}

dim3 GridOf(int tokens, int heads) {
  return dim3(static_cast<unsigned>(tokens), static_cast<unsigned>((heads + kWarps - 1) / kWarps));
}

}  // namespace

void LaunchRope(const RopeArguments& a, cudaStream_t stream) {
  if (a.step.num_tokens == 0) return;
  const dim3 grid = GridOf(a.step.num_tokens, a.num_heads + 2 * a.kv.num_heads);
  const int threads = 32 * kWarps;
  if (a.bfloat16 && a.kv.bfloat16) {
    RopeKernel<Bf16, Bf16><<<grid, threads, 0, stream>>>(a);
  } else if (a.bfloat16) {
    RopeKernel<Bf16, float><<<grid, threads, 0, stream>>>(a);
  } else if (a.kv.bfloat16) {
    RopeKernel<float, Bf16><<<grid, threads, 0, stream>>>(a);
  } else {
    RopeKernel<float, float><<<grid, threads, 0, stream>>>(a);
  }
}

void LaunchLatentRope(const LatentArguments& l, cudaStream_t stream) {
  const RopeArguments& a = l.rope;
  if (a.step.num_tokens == 0) return;
  const dim3 grid = GridOf(a.step.num_tokens, a.num_heads + 1);
  const int threads = 32 * kWarps;
  if (a.bfloat16 && a.kv.bfloat16) {
    LatentKernel<Bf16, Bf16><<<grid, threads, 0, stream>>>(l);
  } else if (a.bfloat16) {
    LatentKernel<Bf16, float><<<grid, threads, 0, stream>>>(l);
  } else if (a.kv.bfloat16) {
    LatentKernel<float, Bf16><<<grid, threads, 0, stream>>>(l);
  } else {
    LatentKernel<float, float><<<grid, threads, 0, stream>>>(l);
  }
}

}  // namespace tessera::cuda
