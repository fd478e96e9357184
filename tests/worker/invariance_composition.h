// One random life of a few scripted requests on a group: batches, chunks, prefix hits, preemption,
// forks with copy-on-write, tokens carried on the rank. Plays the coordinator's part with a block
// book of its own, every decision from the seed, and compares every row of logits and every drawn
// token with the script, bit for bit.

#ifndef TESSERA_TESTS_WORKER_INVARIANCE_COMPOSITION_H_
#define TESSERA_TESTS_WORKER_INVARIANCE_COMPOSITION_H_

#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/worker/invariance_script.h"
#include "tests/worker/rank_group.h"

namespace tessera {

// Mistakes that a coordinator could make and no rank can refuse; the comparison must find them.
enum class PlantedFault {
  kNone,
  kWrongBlock,     // a computed block of a table is another one
  kForgottenCopy,  // a block is named writable without having been copied
  kHitTooLong,     // a sequence starts a token behind what is computed
  kStaleHit,       // a prefix hit takes a block that holds other tokens
  kDroppedEarly,   // a block is given back while a window still sees it
  kNoSwitch,       // a sequence that grew long is not computed anew
  kSharedNames,    // short and long sequences find each other's blocks
};

// What the composition came across, so that a test can tell that it covered it.
struct CompositionCounts {
  int64_t steps = 0;
  int64_t samples = 0;
  int64_t hits = 0;  // blocks
  int64_t preemptions = 0;
  int64_t copies = 0;
  int64_t carried = 0;   // rows with TOKENS_LAST_SAMPLED
  int64_t resets = 0;    // of sequences that the ranks knew
  int64_t scored = 0;    // prompt tokens
  int64_t dropped = 0;   // blocks given back behind a window
  int64_t switched = 0;  // sequences that grew long
  int64_t faults = 0;    // planted
};

class Composition {
 public:
  Composition(const std::vector<ScriptedRequest>& script, RankGroup& group, uint64_t seed,
              PlantedFault fault, CompositionCounts& counts);

  // To the end of all requests. An error says where the ranks differ from the script, or what they
  // refused.
  absl::Status Run();

 private:
  struct Sequence {
    uint64_t id = 0;
    int request = 0;
    uint32_t choice = 0;
    bool forked = false;                        // the request's choices have parted
    bool fresh = true;                          // the ranks need a reset
    bool long_rope = false;                     // see SequenceReset
    int64_t computed = 0;                       // tokens
    int64_t known = 0;                          // tokens
    std::vector<std::vector<uint32_t>> tables;  // [KvGroup], kNoBlock behind its window
    uint64_t draw_step = 0;                     // where it drew its last token, alone
    uint32_t draw_row = 0;
  };
  struct Row {
    size_t live = 0;  // index in live_
    int64_t end = 0;  // computed tokens after the step
    uint32_t num_choices = 0;
  };

  const ScriptedChoice& ChoiceOf(const Sequence& sequence) const;
  bool Chance(uint32_t one_in) { return random_() % one_in == 0; }

  void Preempt(size_t live);
  void Admit();
  // Whether every KvGroup has what a sequence needs that starts behind so many blocks of the text.
  bool IsCached(const Sequence& sequence, int64_t blocks) const;
  // What the cache calls the block that ends after `end` tokens of the sequence's text.
  std::vector<int32_t> KeyOf(const Sequence& sequence, int64_t end) const;
  void TakeHit(Sequence& sequence, int64_t blocks);
  void PlanRows();
  // False when there is no block for it.
  bool PlanRow(size_t live);
  // Makes room for the tokens up to `end`; false, and nothing has changed, without free blocks.
  bool Extend(Sequence& sequence, int64_t end);
  void CopyOnWrite(Sequence& sequence, size_t group, size_t index);
  void AddBlocks(const Sequence& sequence, size_t held);
  void AddReset(const Sequence& sequence, bool carried);
  void DamageTable(const Sequence& sequence, std::vector<uint32_t>& table);
  absl::Status Compare(const PlanOutcome& outcome);
  void Advance();
  // Sequences that grew long wait to be computed anew.
  void SwitchRopes();
  void CacheFullBlocks(const Sequence& sequence);
  void DropBehindWindows(Sequence& sequence);
  // The first block of a KvGroup that a query at `position` sees.
  int64_t FirstVisible(size_t group, int64_t position) const;

  // Blocks: referenced by tables, or free, then perhaps still known by content.
  int64_t Free(size_t group) const;
  uint32_t Allocate(size_t group);
  void Hold(const Sequence& sequence);
  void Release(const Sequence& sequence);

  const std::vector<ScriptedRequest>& script_;
  RankGroup& group_;
  const PlantedFault fault_;
  CompositionCounts& counts_;
  std::mt19937_64 random_;

  std::vector<Sequence> live_;
  std::deque<Sequence> waiting_;
  struct Blocks {
    std::vector<int> references;                         // [block]
    std::map<std::vector<int32_t>, uint32_t> cache;      // text up to a block's end -> block
    std::map<uint32_t, std::vector<int32_t>> cached_as;  // the other way round
  };
  std::vector<Blocks> blocks_;  // [KvGroup]
  uint64_t next_id_ = 1;

  cluster::v1::StepPlan plan_;
  std::vector<Row> rows_;
  std::vector<uint64_t> finished_;  // to be named in the next plan
};

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_INVARIANCE_COMPOSITION_H_
