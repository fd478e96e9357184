// A request's sequences: their tokens and how far the KV cache has followed them. There are no
// phases: a new prompt, a decode step and a sequence that lost its group differ only in
// num_computed_tokens. Owned by the scheduler, engine thread only.
//
// A request begins as one sequence. The row that reaches the end of its prompt draws all its
// choices at once; then every choice is a sequence of its own on the shared blocks of the prompt.

#ifndef TESSERA_COORDINATOR_SCHED_SEQUENCE_H_
#define TESSERA_COORDINATOR_SCHED_SEQUENCE_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/time/time.h"
#include "coordinator/kv/block.h"
#include "coordinator/kv/prefix_hash.h"
#include "coordinator/sched/request.h"
#include "coordinator/sched/work.h"

namespace tessera {

struct GroupState;
struct RequestState;
struct TenantState;

enum class SequenceStatus : uint8_t { kWaiting, kRunning, kEnded };

struct alignas(64) Sequence {
  static constexpr int32_t kNoStop = -1;

  Sequence(RequestState& parent, uint32_t choice_in, int64_t context_max, int64_t rope_switch_in);

  // Read and written when a step is planned: one cache line, and nothing of the request.
  SequenceStatus status = SequenceStatus::kWaiting;
  bool leaving = false;        // preempted: no new rows; waits again once its rows are answered
  bool may_share = false;      // the block of the next position may be another sequence's too
  bool unforked = false;       // the row that reaches the prompt's end draws all choices
  const bool wants_logprobs;   // of sampled tokens
  bool has_news = true;        // the ranks must be told its tables, or what was added to them
  bool recomputes = false;     // less is computed than once was
  uint8_t rows_in_flight = 0;  // at most one per plan in flight
  const bool has_more_stops;   // than `stops` holds
  uint8_t num_pending = 0;     // rows in flight that draw: tokens that nobody knows yet
  const uint16_t choice;
  uint32_t last_row = 0;  // in plan `last_plan`
  int32_t num_known_tokens;
  const int32_t num_tokens_max;      // prompt and output; the last one is never computed
  int64_t num_scheduled_tokens = 0;  // computed by rows that are answered or in flight
  int32_t num_held_tokens = 0;       // positions that the tables hold
  int32_t num_computable;            // positions that may be computed in this life
  uint64_t id = 0;                   // in plans; another one on every admission
  uint64_t chosen_step = 0;          // the last plan it was chosen for
  uint64_t last_plan = 0;            // the last plan that the next one may build on, 0 for none

  // Read and written too when it is answered.
  int64_t num_computed_tokens = 0;  // by rows that are answered
  int64_t content_due = 0;  // so many computed tokens complete a block that is named at once
  const RequestId request_id;
  TenantState* const tenant;
  RequestState* const request;
  double decode_seconds = 0;  // GPU-seconds of its output tokens that are not settled yet
  const int32_t num_prompt_tokens;
  const std::array<int32_t, 2> stops;  // the first stop tokens, kNoStop where there are fewer
  // The last few tokens, on their way to kept_tokens: every sequence has those on a page of its
  // own, and touching a thousand pages in a step costs more than everything else.
  int32_t num_recent_tokens = 0;
  std::array<int32_t, 48> recent_tokens;

  // Now and then.
  const int32_t rope_switch;         // see SchedulerModel; 0: none
  bool long_rope = false;            // it has more tokens than that
  GroupState* group = nullptr;       // while running
  double prefill_seconds = 0;        // GPU-seconds, not settled yet
  double recompute_seconds = 0;      // likewise
  std::vector<int32_t> kept_tokens;  // see tokens()
  BlockTables tables;
  std::vector<BlockHash> hashes;    // of its leading whole blocks, as far as they were needed
  int64_t num_computed_before = 0;  // most tokens computed in any earlier life
  int64_t num_content_blocks = 0;   // leading blocks whose content the pool was told
  size_t num_told_blocks = 0;       // of each table, that the ranks know
  int64_t num_shared_tokens = 0;    // in blocks that others held too when it was admitted
  bool scores_prompt = false;       // rows report prompt log probabilities in this life
  bool awaits_text = false;         // ended by itself, the text side has not answered
  bool confirmed = false;           // its end is final
  int64_t num_output_tokens = 0;    // when ended: up to its end
  FinishReason reason = FinishReason::kStop;  // when ended

  // Prompt and committed output.
  const std::vector<int32_t>& tokens() {
    kept_tokens.insert(kept_tokens.end(), recent_tokens.begin(),
                       recent_tokens.begin() + num_recent_tokens);
    num_recent_tokens = 0;
    return kept_tokens;
  }
  void Append(int32_t token) {
    if (num_recent_tokens == static_cast<int32_t>(recent_tokens.size())) tokens();
    recent_tokens[static_cast<size_t>(num_recent_tokens++)] = token;
    ++num_known_tokens;
  }
  bool StopsAt(int32_t token) const;
  // Its row in the plan `step` draws its next token, from the one before, and nothing else
  // is to be said of it.
  bool TakesNextTokenOnly(uint64_t step) const;
  // Its row of one token is answered with this one, and nothing but that happens to it.
  bool GrowsOnlyBy(int32_t token) const;
  // Prompt positions whose log probability its next row gives, if that has `tokens` tokens: those
  // behind its tokens.
  int64_t NumScored(int64_t tokens) const;
  int64_t num_tokens() const { return num_known_tokens; }
  int64_t num_output() const { return num_tokens() - num_prompt_tokens; }
  int64_t num_owed_tokens() const { return num_tokens() - num_computed_tokens; }
  // Positions that must fit into the KV cache for the whole possible length.
  int64_t num_kv_tokens_max() const { return int64_t{num_tokens_max} - 1; }
  // More tokens than its factors are good for: everything is to be computed again.
  bool OutgrowsRope() const { return !long_rope && rope_switch > 0 && num_tokens() > rope_switch; }
  // Begins a life in which nothing is computed yet; true when its blocks have other names now.
  bool ChooseRope();
  // Rows of a step that the sequence may need: as many as choices come out of it.
  int64_t num_slots() const;
};

// Sequences lie anywhere in memory: what a loop over them does so many later is fetched now.
inline constexpr size_t kPrefetchAhead = 12;

// On its way into the cache to be planned; or, with `all`, to be answered.
inline void Prefetch(const Sequence& sequence, bool all) {
  __builtin_prefetch(&sequence, 1);
  if (!all) return;
  __builtin_prefetch(&sequence.num_computed_tokens, 1);
}

// Sequences lie side by side in a pool: a step that walks over all of them touches few pages.
struct SequenceDeleter {
  std::pmr::memory_resource* pool = nullptr;
  void operator()(Sequence* sequence) const {
    std::pmr::polymorphic_allocator<Sequence>(pool).delete_object(sequence);
  }
};
using SequencePtr = std::unique_ptr<Sequence, SequenceDeleter>;

struct RequestState {
  RequestState(std::shared_ptr<const Request> request_in, uint64_t ticket_in,
               TenantState& tenant_in);

  const RequestId id;
  TenantState& tenant;  // of the request's model
  const std::shared_ptr<const Request> request;
  const uint64_t ticket;  // order of arrival; what comes back keeps its place
  bool finished = false;
  bool caches = false;                            // its blocks are looked up and named
  BlockHash prefix_root;                          // of their chain, when it caches
  BlockHash long_prefix_root;                     // likewise, with long_rope
  absl::InlinedVector<SequencePtr, 1> sequences;  // by choice
  bool placed = false;                            // was admitted once: cached_tokens is known
  int64_t num_prompt_scored = 1;  // leading prompt positions whose log probability was told
  uint32_t num_confirmed = 0;     // choices
  uint32_t cached_tokens = 0;
  absl::Time first_scheduled = absl::InfiniteFuture();
  Work work;  // settled, of all choices

  // Kept alive until they are answered.
  bool HasRowsInFlight() const;
  int64_t num_prompt_tokens() const { return static_cast<int64_t>(request->prompt.size()); }
};

inline bool Sequence::StopsAt(int32_t token) const {
  if (token == stops[0] || token == stops[1]) return true;
  if (!has_more_stops) return false;
  const std::vector<int32_t>& all = request->request->sampling.stop_token_ids;
  return std::find(all.begin(), all.end(), token) != all.end();
}

inline bool Sequence::TakesNextTokenOnly(uint64_t step) const {
  const bool is_odd =
      (status != SequenceStatus::kRunning) | leaving | unforked | may_share | has_news;
  const int64_t position = num_scheduled_tokens;
  return !is_odd && num_pending == 1 && last_plan + 1 == step && position == num_tokens() &&
         position < num_held_tokens && position < num_computable;
}

inline bool Sequence::GrowsOnlyBy(int32_t token) const {
  const bool is_odd = (status != SequenceStatus::kRunning) | leaving | recomputes | has_more_stops;
  return !is_odd && num_computed_tokens + 1 < content_due && num_output() > 0 && token >= 0 &&
         token != stops[0] && token != stops[1] && num_tokens() + 1 < num_tokens_max;
}

inline int64_t Sequence::NumScored(int64_t tokens) const {
  if (!scores_prompt) return 0;
  const int64_t end = std::min(num_scheduled_tokens + tokens, int64_t{num_prompt_tokens} - 1);
  return std::max<int64_t>(end - num_scheduled_tokens, 0);
}

inline int64_t Sequence::num_slots() const {
  return unforked ? int64_t{request->request->sampling.num_choices} : 1;
}

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_SEQUENCE_H_
