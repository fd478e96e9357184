// Looks ahead: how much KV cache will be needed at the worst moment if nothing new is admitted.
// Admission keeps that below what there is, so that under steady load nobody has to be preempted.
// Pure; engine thread only.
//
// Every sequence grows by a token per step until it ends and gives its tokens back. With the
// sequences sorted by what is left of them, the peak lies at the end of one (the idea of Gong et
// al., "Past-Future Scheduler for LLM Serving under SLA Guarantees", 2025).

#ifndef TESSERA_COORDINATOR_SCHED_OUTLOOK_H_
#define TESSERA_COORDINATOR_SCHED_OUTLOOK_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tessera {

// Lengths of recent answers of one model, to guess how long others will be.
class OutputLengths {
 public:
  void Add(int64_t tokens);
  // Tokens that an answer with `done` tokens and at most `most` will probably still get: a high
  // quantile of the recent ones that were longer, `most - done` while nothing is known.
  int64_t Remaining(int64_t done, int64_t most) const;

 private:
  static constexpr size_t kKept = 256;
  std::vector<int64_t> recent_;  // ring
  size_t next_ = 0;
  mutable std::vector<int64_t> sorted_;  // of recent_
  mutable bool stale_ = true;
};

class Outlook {
 public:
  // A sequence that holds, or needs at once, `own` tokens of KV cache for itself and then grows by
  // `remaining`, at most by `remaining_max`.
  void Add(int64_t own, int64_t remaining, int64_t remaining_max);
  void RemoveLast() { sequences_.pop_back(); }
  // Whether `shared` tokens and all sequences at their worst moment fit into `capacity`.
  bool Fits(int64_t shared, int64_t capacity) const;

 private:
  struct Entry {
    int64_t own = 0;
    int64_t remaining = 0;
    int64_t remaining_max = 0;
  };
  std::vector<Entry> sequences_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_OUTLOOK_H_
