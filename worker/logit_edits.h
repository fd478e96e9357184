// Writes the token rules of some rows into their logits and takes them back bit for bit, and writes
// their allowed lists as masks. Used by the sampler for one pass, on the engine thread. What is
// written on this shard costs a few operations per token that a rule touches.

#ifndef TESSERA_WORKER_LOGIT_EDITS_H_
#define TESSERA_WORKER_LOGIT_EDITS_H_

#include <cstdint>
#include <vector>

#include "kernels/ops.h"
#include "kernels/tensor.h"
#include "worker/token_rules.h"

namespace tessera {

class LogitEdits {
 public:
  // logits [L, Vs] float32 on the device, column 0 being token vocab_begin.
  LogitEdits(Ops& ops, TensorView logits, int64_t vocab_begin)
      : ops_(ops), logits_(logits), vocab_begin_(vocab_begin) {}

  // Every row of logits at most once.
  void Add(int32_t logits_row, const TokenRules& rules);
  // Writes all that was added; Restore undoes it.
  void Apply(const ExecContext& ctx);
  void Restore(const ExecContext& ctx);

 private:
  // The touched places [first, next row's first) belong to one row.
  struct RuledRow {
    const TokenRules* rules;
    size_t first;
  };

  Ops& ops_;
  const TensorView logits_;
  const int64_t vocab_begin_;
  std::vector<RuledRow> rows_;
  std::vector<LogitPlace> places_;
  std::vector<float> before_;  // of places_, once applied
};

// Words of a mask over `columns` tokens.
constexpr int64_t MaskWords(int64_t columns) { return (columns + 31) / 32; }

// The allowed ids (ascending) as the mask of a shard, see LogitRows::masks; `words` must be zero.
void SetAllowed(const std::vector<int32_t>& allowed, int64_t vocab_begin, int64_t columns,
                uint32_t* words);

}  // namespace tessera

#endif  // TESSERA_WORKER_LOGIT_EDITS_H_
