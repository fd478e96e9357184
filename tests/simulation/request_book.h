// Every request of one life: what an undisturbed run of it gives, what the scheduler was told about
// it, and what it said. Compares: tokens in order, once and right; one terminal update, for a cause
// that is known here; counts that are true.

#ifndef TESSERA_TESTS_SIMULATION_REQUEST_BOOK_H_
#define TESSERA_TESTS_SIMULATION_REQUEST_BOOK_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/sched/event.h"
#include "tests/simulation/reference.h"
#include "tests/simulation/violations.h"

namespace tessera::simulation {

struct BookedChoice {
  std::vector<int32_t> told;
  bool ended = false;
  FinishReason reason = FinishReason::kStop;  // when ended
  std::optional<uint32_t> text_stop;          // a TextStop has been applied
  bool text_end = false;                      // a TextEnd has been applied
};

struct BookedRequest {
  std::shared_ptr<const Request> request;
  StopStrings stops;
  Reference reference;
  // Filled in as things happen:
  bool applied = false;  // the scheduler has seen it
  absl::Time applied_at;
  bool must_refuse = false;  // the queue was full, or draining, or no group can hold it
  bool cancelled = false;    // a Cancel was applied
  std::vector<BookedChoice> choices;
  size_t prompt_scores = 0;  // told so far
  std::optional<RequestUpdate> end;
  absl::Time ended_at;
};

class RequestBook {
 public:
  struct Rules {
    int64_t block_size = 1;
    bool prefix_cache = true;
    // A request that has so much time for each token of its prompt can meet its deadline.
    absl::Duration hopeless_within;
    absl::Duration turn;  // from a deadline to the end for it, at most
  };

  RequestBook(const Rules& rules, Violations& violations)
      : rules_(rules), violations_(violations) {}

  void Add(std::shared_ptr<const Request> request, StopStrings stops, int64_t context_max);
  // What the scheduler is about to be told.
  void Observe(const Event& event, absl::Time now);
  void Take(const RequestUpdate& update, absl::Time now);
  // After a turn: nothing that the scheduler has is past its deadline or was cancelled.
  void CheckAfterTurn(absl::Time now);

  BookedRequest* Find(RequestId id);
  BookedRequest* Find(const std::string& public_id);
  const std::map<RequestId, BookedRequest>& all() const { return requests_; }
  int64_t num_open() const { return num_open_; }
  int32_t TrueToken(const std::string& public_id, uint32_t choice, int64_t position);

 private:
  void TakeTokens(BookedRequest& booked, const RequestUpdate& update);
  void TakePromptScores(BookedRequest& booked, const RequestUpdate& update);
  void TakeChoiceEnd(BookedRequest& booked, const RequestUpdate& update);
  void TakeEnd(BookedRequest& booked, const RequestUpdate& update, absl::Time now);
  void CheckCause(const BookedRequest& booked, const RequestUpdate& update, absl::Time now);
  void CheckComplete(const BookedRequest& booked, const RequestUpdate& update);
  void CheckCached(const BookedRequest& booked, const RequestUpdate& update);
  void Violate(Checker checker, const BookedRequest& booked, const std::string& what);

  const Rules rules_;
  Violations& violations_;
  std::map<RequestId, BookedRequest> requests_;
  std::map<std::string, RequestId> by_public_id_;
  std::multimap<absl::Time, RequestId> deadlines_;
  std::vector<RequestId> cancelled_;  // in this turn
  int64_t num_open_ = 0;              // added, not ended
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_REQUEST_BOOK_H_
