// What a rank remembers of a sequence between steps: its block tables, how far it is computed, how
// to draw, which tokens it has seen where a parameter reads them, what it drew last. Made by a
// plan's reset, extended by later rows, forgotten when a plan says so. Owned by the engine, touched
// on its thread only; at most kSequencesMax of them.

#ifndef TESSERA_WORKER_SEQUENCE_STATE_H_
#define TESSERA_WORKER_SEQUENCE_STATE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "worker/sampler.h"
#include "worker/token_rules.h"

namespace tessera {

// Sequences that one rank keeps at a time; a plan that would exceed it is refused.
inline constexpr size_t kSequencesMax = 65536;

struct SequenceState {
  // Where a row drew the single token that the next plan's row may carry. Step 0: nowhere.
  struct LastDraw {
    uint64_t step = 0;
    uint32_t row = 0;
    int32_t token = Sampler::kNoToken;
  };

  std::vector<std::vector<int32_t>> block_tables;  // [KvGroup][block of the sequence] block ids
  int64_t num_computed = 0;                        // tokens whose keys and values are in the cache
  int64_t num_prompt_tokens = 0;
  bool long_rope = false;      // turns by the long factors, see SequenceReset
  SampleRow sampling = {};     // `position`, `logits_row` and `rules` are filled in per row
  uint32_t sample_scores = 0;  // 0: samples are not scored, else 1 + alternatives to each
  uint32_t prompt_scores = 0;  // 0: prompt tokens are not scored, else 1 + alternatives to each

  // Positions from 0 on whose tokens `history` and `rules` have been told.
  int64_t num_known = 0;
  std::vector<int32_t> history = {};  // [num_known] where a parameter reads tokens, else empty
  std::unique_ptr<TokenRules> rules = nullptr;  // null: none

  LastDraw last_draw = {};
};

// Keyed by the plan's `sequence`. Looked up only, never iterated: its order means nothing.
using SequenceMap = absl::flat_hash_map<uint64_t, SequenceState>;

// The prompt positions that a row reports whose tokens are [start, start + new_tokens): those that
// follow each of them inside the prompt.
struct PositionRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

inline PositionRange ScoredPositions(int64_t start, int64_t new_tokens, int64_t num_prompt_tokens) {
  return {start + 1, std::max(start + 1, std::min(start + new_tokens + 1, num_prompt_tokens))};
}

}  // namespace tessera

#endif  // TESSERA_WORKER_SEQUENCE_STATE_H_
