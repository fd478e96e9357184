// One online-softmax step: a tile of sixteen cached tokens against up to kPairsMax (query,
// head) pairs. What a pair gets depends on its query, the tokens it sees and the tile borders
// only, never on the other pairs. Tokens outside a pair's lanes are not read into its sums,
// so garbage there is harmless.

#ifndef TESSERA_KERNELS_CPU_ATTENTION_KERNEL_H_
#define TESSERA_KERNELS_CPU_ATTENTION_KERNEL_H_

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/math_kernel.h"

namespace tessera::cpu {

// q . k of kPairs pairs, sixteen tokens each: four chains over d mod 4, summed as (0 + 1) +
// (2 + 3).
template <typename S, int kPairs>
void AttentionScores(const AttentionTile& tile, int pair, float* scores /*[kPairs][16]*/) {
  using F = typename S::F;
  const int64_t size = tile.head_size;
  const float* q = tile.q + pair * size;
  F chain[kPairs][4];
  for (auto& pair_chains : chain) {
    for (F& c : pair_chains) c = S::Set(0.0f);
  }
  int64_t d = 0;
  for (; d + 4 <= size; d += 4) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const F k = S::Load(tile.k + (d + c) * kKvTile);
#pragma GCC unroll 4
      for (int p = 0; p < kPairs; ++p) {
        chain[p][c] = S::Fma(S::Set(q[p * size + d + c]), k, chain[p][c]);
      }
    }
  }
  for (int c = 0; d + c < size; ++c) {
    const F k = S::Load(tile.k + (d + c) * kKvTile);
    for (int p = 0; p < kPairs; ++p) {
      chain[p][c] = S::Fma(S::Set(q[p * size + d + c]), k, chain[p][c]);
    }
  }
  for (int p = 0; p < kPairs; ++p) {
    const F dot = S::Add(S::Add(chain[p][0], chain[p][1]), S::Add(chain[p][2], chain[p][3]));
    S::Store(scores + p * kKvTile, dot);
  }
}

// Turns the scores of one pair into weights exp(score - max), updates max and sum, and returns the
// factor that the earlier sums shrink by.
template <typename S>
float AttentionWeights(const AttentionTile& tile, int pair, float* scores /*[16]*/) {
  using F = typename S::F;
  const int first = tile.first_lane[pair];
  const int last = tile.last_lane[pair];
  const F lowest = S::Set(-__builtin_inff());
  F score = S::Mul(S::Load(scores), S::Set(tile.scale));
  if (tile.softcap != 0.0f) {
    const F cap = S::Set(tile.softcap);
    score = S::Mul(cap, Tanh<S>(S::Div(score, cap)));
  }
  score = S::FirstLanes(first, lowest, S::FirstLanes(last, score, lowest));
  const float before = tile.max[pair];
  const float here = S::MaxLanes(score);
  const float max = here > before ? here : before;
  F weight = Exp<S>(S::Sub(score, S::Set(max)));
  weight = S::FirstLanes(first, S::Set(0.0f), S::FirstLanes(last, weight, S::Set(0.0f)));
  S::Store(scores, weight);
  float shrink[kKvTile] = {1.0f};  // what Exp gives for 0
  if (max != before) S::Store(shrink, Exp<S>(S::Set(before - max)));
  tile.max[pair] = max;
  tile.sum[pair] = tile.sum[pair] * shrink[0] + S::SumLanes(weight);
  return shrink[0];
}

// out = out * shrink + weights . v over the pair's tokens in order, kVectors * 16 elements of
// the head.
template <typename S, int kVectors>
[[gnu::always_inline]] inline void AttentionValues(const AttentionTile& tile, int pair,
                                                   const float* weights, float shrink, int64_t d) {
  using F = typename S::F;
  float* out = tile.out + pair * tile.padded_size + d;
  F acc[kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) acc[i] = S::Mul(S::Load(out + i * 16), S::Set(shrink));
  for (int t = tile.first_lane[pair]; t < tile.last_lane[pair]; ++t) {
    const F weight = S::Set(weights[t]);
    const float* v = tile.v + t * tile.padded_size + d;
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) acc[i] = S::Fma(weight, S::Load(v + i * 16), acc[i]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) S::Store(out + i * 16, acc[i]);
}

template <typename S>
void Attention(const AttentionTile& tile) {
  float scores[kPairsMax * kKvTile];
  int pair = 0;
  for (; pair + 4 <= tile.pairs; pair += 4) {
    AttentionScores<S, 4>(tile, pair, scores + pair * kKvTile);
  }
  for (; pair < tile.pairs; ++pair) AttentionScores<S, 1>(tile, pair, scores + pair * kKvTile);
  for (pair = 0; pair < tile.pairs; ++pair) {
    if (tile.first_lane[pair] >= tile.last_lane[pair]) continue;
    float* weights = scores + pair * kKvTile;
    const float shrink = AttentionWeights<S>(tile, pair, weights);
    int64_t d = 0;
    for (; d + 64 <= tile.padded_size; d += 64) {
      AttentionValues<S, 4>(tile, pair, weights, shrink, d);
    }
    for (; d < tile.padded_size; d += 16) AttentionValues<S, 1>(tile, pair, weights, shrink, d);
  }
}

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_ATTENTION_KERNEL_H_
