// The step that both tensor core attention kernels make: scores of sixteen (query, head) pairs
// against sixteen cached tokens, the online softmax, and the weighted sum of the values. A warp
// owns the pairs; lane (g, t) holds the rows g and g + 8. Scores are in units of log2.

#ifndef TESSERA_KERNELS_CUDA_ATTENTION_TILE_H_
#define TESSERA_KERNELS_CUDA_ATTENTION_TILE_H_

#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/mma.h"
#include "kernels/cuda/paged.h"

namespace tessera::cuda {

constexpr float kLog2E = 1.44269504f;

__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Where a 16-byte chunk of a token's row of D bfloat16 lies in shared memory, so that eight rows of
// one ldmatrix use all banks.
template <int D>
__device__ inline uint32_t PlaceOf(int row, int chunk) {
  const int turn = D % 64 == 0 ? row & 7 : (row >> 1) & 3;
  return static_cast<uint32_t>(row * D * 2 + ((chunk ^ turn) << 4));
}

// What a lane knows of its two rows.
struct PairRows {
  int position[2] = {-1, -1};  // of the query; -1: no such pair
  int64_t query[2] = {0, 0};   // index into T
  int head[2] = {0, 0};        // index into H
};

// Pair `pair` is query pair / group of the row, head pair % group of the KV head.
__device__ inline PairRows PairsOf(const AttentionArguments& a, int row, int kv_head,
                                   int first_pair, int pairs) {
  PairRows rows;
  const int group = a.num_heads / a.kv.num_heads;
  const int begin = a.step.query_begin[row];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int pair = first_pair + static_cast<int>(threadIdx.x) % 32 / 4 + 8 * i;
    if (pair >= pairs) continue;
    rows.query[i] = begin + pair / group;
    rows.head[i] = kv_head * group + pair % group;
    rows.position[i] = a.step.positions[rows.query[i]];
  }
  return rows;
}

// The queries of the rows as A fragments, zeros where there is no pair.
template <int D>
__device__ inline void LoadQueries(const AttentionArguments& a, const PairRows& rows,
                                   uint32_t (&q)[D / 16][4]) {
  const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const Bf16* from = static_cast<const Bf16*>(a.q) + rows.query[i] * a.q_stride +
                       static_cast<int64_t>(rows.head[i]) * D + 2 * t;
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      q[k][i] = q[k][2 + i] = 0;
      if (rows.position[i] < 0) continue;
      q[k][i] = *reinterpret_cast<const uint32_t*>(from + 16 * k);
      q[k][2 + i] = *reinterpret_cast<const uint32_t*>(from + 16 * k + 8);
    }
  }
}

template <int D>
struct Softmax {
  float out[D / 8][4];  // weighted sums, columns 8 j + 2 t, + 1 of the rows g and g + 8
  float max[2];         // log2
  float sum[2];         // this lane's share

  __device__ void Clear() {
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[j][i] = 0.0f;
    }
    max[0] = max[1] = -INFINITY;
    sum[0] = sum[1] = 0.0f;
  }
  // The rows' whole sums; once, at the end.
  __device__ void SumLanes() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1);
      sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2);
    }
  }
};

// score [kTiles][2][4] of 16 * kTiles tokens from `start` on: q . k.
template <int D, int kTiles>
__device__ inline void Scores(const uint32_t (&q)[D / 16][4], uint32_t keys,
                              float (&score)[kTiles][2][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int token = (lane >> 4) * 8 + (lane & 7);
  const int chunk = (lane >> 3) & 1;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) score[tile][n][i] = 0.0f;
    }
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      uint32_t b[4];
      LoadMatrix4(b, keys + PlaceOf<D>(16 * tile + token, 2 * k + chunk));
      MmaBf16(score[tile][0], q[k][0], q[k][1], q[k][2], q[k][3], b[0], b[1]);
      MmaBf16(score[tile][1], q[k][0], q[k][1], q[k][2], q[k][3], b[2], b[3]);
    }
  }
}

// Scales, caps and masks; `whole`: every pair sees every token.
template <int kTiles>
__device__ inline void MaskScores(const AttentionArguments& a, const PairRows& rows, int start,
                                  bool whole, float (&score)[kTiles][2][4]) {
  const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& s = score[tile][n][i];
        s *= a.scale;
        if (a.softcap != 0.0f) s = a.softcap * ExactTanh(__fdividef(s, a.softcap));
        s *= kLog2E;
        if (whole) continue;
        const int token = start + 16 * tile + 8 * n + 2 * t + i % 2;
        const int position = rows.position[i / 2];
        const bool seen = token <= position && (a.window == 0 || token > position - a.window);
        if (!seen) s = -INFINITY;
      }
    }
  }
}

// Takes the scores into the softmax, then adds weights . values.
template <int D, int kTiles>
__device__ inline void Accumulate(float (&score)[kTiles][2][4], uint32_t values,
                                  Softmax<D>& softmax) {
  float shrink[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float top = -INFINITY;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      top = fmaxf(top, fmaxf(score[tile][0][2 * i], score[tile][0][2 * i + 1]));
      top = fmaxf(top, fmaxf(score[tile][1][2 * i], score[tile][1][2 * i + 1]));
    }
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    top = fmaxf(top, softmax.max[i]);
    // A row that has seen nothing yet: its weights become zero below, its sums are zero.
    const float base = top == -INFINITY ? 0.0f : top;
    shrink[i] = top == softmax.max[i] ? 1.0f : Exp2(softmax.max[i] - base);
    softmax.max[i] = top;
    float sum = 0.0f;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        float& first = score[tile][n][2 * i];
        float& second = score[tile][n][2 * i + 1];
        first = Exp2(first - base);
        second = Exp2(second - base);
        sum += first + second;
      }
    }
    softmax.sum[i] = softmax.sum[i] * shrink[i] + sum;
  }
  // Times one changes no bit, so the branch does not show in results.
  if (!__all_sync(0xffffffffu, shrink[0] == 1.0f && shrink[1] == 1.0f)) {
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      softmax.out[j][0] *= shrink[0];
      softmax.out[j][1] *= shrink[0];
      softmax.out[j][2] *= shrink[1];
      softmax.out[j][3] *= shrink[1];
    }
  }
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int token = ((lane >> 3) & 1) * 8 + (lane & 7);
  const int chunk = lane >> 4;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const float(&p)[2][4] = score[tile];
    const uint32_t a0 = PackBf16(p[0][0], p[0][1]);
    const uint32_t a1 = PackBf16(p[0][2], p[0][3]);
    const uint32_t a2 = PackBf16(p[1][0], p[1][1]);
    const uint32_t a3 = PackBf16(p[1][2], p[1][3]);
#pragma unroll
    for (int j = 0; j < D / 16; ++j) {
      uint32_t b[4];
      LoadMatrix4Transposed(b, values + PlaceOf<D>(16 * tile + token, 2 * j + chunk));
      MmaBf16(softmax.out[2 * j], a0, a1, a2, a3, b[0], b[1]);
      MmaBf16(softmax.out[2 * j + 1], a0, a1, a2, a3, b[2], b[3]);
    }
  }
}

// out / sum of both rows, as bfloat16.
template <int D>
__device__ inline void StoreRows(const AttentionArguments& a, const PairRows& rows,
                                 const Softmax<D>& softmax) {
  const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (rows.position[i] < 0) continue;
    Bf16* to = static_cast<Bf16*>(a.out) + rows.query[i] * a.out_stride +
               static_cast<int64_t>(rows.head[i]) * D + 2 * t;
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      *reinterpret_cast<uint32_t*>(to + 8 * j) =
          PackBf16(__fdiv_rn(softmax.out[j][2 * i], softmax.sum[i]),
                   __fdiv_rn(softmax.out[j][2 * i + 1], softmax.sum[i]));
    }
  }
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_ATTENTION_TILE_H_
