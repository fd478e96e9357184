// Attention for every dtype and head size: a warp per (query, head) walks the tokens it sees in
// order, the score summed over the lanes in a fixed tree. Slow; for float32 and for head sizes that
// the tensor core kernels do not have.

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/paged.h"

namespace tessera::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kEachMax = kHeadElementsMax / 32;  // elements of a head in a lane

template <typename T, typename Kv>
__global__ void PlainAttentionKernel(AttentionArguments a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int token = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (head >= a.num_heads) return;
  const int size = a.kv.head_size;
  const int row = RowOf(a.step, token);
  const int kv_head = head / (a.num_heads / a.kv.num_heads);
  const int position = a.step.positions[token];
  const int begin =
      a.window == 0 || position + 1 <= a.window ? 0 : position + 1 - static_cast<int>(a.window);
  const T* q = static_cast<const T*>(a.q) + token * a.q_stride + static_cast<int64_t>(head) * size;
  float query[kEachMax];
  float out[kEachMax] = {};
#pragma unroll
  for (int i = 0; i < kEachMax; ++i) {
    query[i] = lane + 32 * i < size ? Wide(q[lane + 32 * i]) : 0.0f;
  }
  float max = -INFINITY;
  float sum = 0.0f;
  for (int at = begin; at <= position; ++at) {
    const Kv* key = KeyAt<Kv>(a.kv, BlockOf(a.kv, a.step, row, at), kv_head, at % a.kv.block_size);
    float score = 0.0f;
#pragma unroll
    for (int i = 0; i < kEachMax; ++i) {
      if (lane + 32 * i < size) score = fmaf(query[i], Wide(key[lane + 32 * i]), score);
    }
    score = WarpSum(score) * a.scale;
    if (a.softcap != 0.0f) score = a.softcap * ExactTanh(__fdiv_rn(score, a.softcap));
    const float before = max;
    max = fmaxf(max, score);
    const float shrink = before == max ? 1.0f : ExactExp(before - max);
    const float weight = ExactExp(score - max);
    sum = sum * shrink + weight;
    const Kv* value = a.kv.latent ? key : key + static_cast<int64_t>(a.kv.block_size) * size;
#pragma unroll
    for (int i = 0; i < kEachMax; ++i) {
      if (lane + 32 * i < a.value_size)
        out[i] = fmaf(weight, Wide(value[lane + 32 * i]), out[i] * shrink);
    }
  }
  T* to = static_cast<T*>(a.out) + token * a.out_stride + static_cast<int64_t>(head) * a.value_size;
#pragma unroll
  for (int i = 0; i < kEachMax; ++i) {
    if (lane + 32 * i < a.value_size) to[lane + 32 * i] = Narrow<T>(__fdiv_rn(out[i], sum));
  }
}

}  // namespace

void LaunchPlainAttention(const AttentionArguments& a, cudaStream_t stream) {
  if (a.step.num_tokens == 0) return;
  const dim3 grid(static_cast<unsigned>(a.step.num_tokens),
                  static_cast<unsigned>((a.num_heads + kWarps - 1) / kWarps));
  const int threads = 32 * kWarps;
  if (a.bfloat16 && a.kv.bfloat16) {
    PlainAttentionKernel<Bf16, Bf16><<<grid, threads, 0, stream>>>(a);
  } else if (a.bfloat16) {
    PlainAttentionKernel<Bf16, float><<<grid, threads, 0, stream>>>(a);
  } else if (a.kv.bfloat16) {
    PlainAttentionKernel<float, Bf16><<<grid, threads, 0, stream>>>(a);
  } else {
    PlainAttentionKernel<float, float><<<grid, threads, 0, stream>>>(a);
  }
}

}  // namespace tessera::cuda
