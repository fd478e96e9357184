// Keeps every request of a test and what the scheduler said about it, and compares with the
// undisturbed answer: tokens in order and right, exactly one terminal update, an end that its cause
// explains.

#ifndef TESSERA_TESTS_COORDINATOR_SCHED_REQUEST_LOG_H_
#define TESSERA_TESTS_COORDINATOR_SCHED_REQUEST_LOG_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/sched/event.h"
#include "tests/coordinator/sched/symbolic_model.h"

namespace tessera::testing {

struct LoggedRequest {
  std::shared_ptr<const Request> request;
  Answer expected;
  // Why the request may be refused, empty for no reason.
  std::vector<absl::StatusCode> refusals;
  bool cancelled = false;
  std::optional<uint32_t> stop_index;  // a TextStop was sent
  std::vector<int32_t> emitted;
  std::optional<RequestUpdate> end;
};

class RequestLog {
 public:
  explicit RequestLog(std::vector<std::string>& violations) : violations_(violations) {}

  LoggedRequest& Add(std::shared_ptr<const Request> request, int64_t context_max);
  void Take(const RequestUpdate& update, absl::Time now);
  // No open request is past its deadline.
  void CheckDeadlines(absl::Time now);

  LoggedRequest& at(RequestId id) { return requests_.at(id); }
  const std::map<RequestId, LoggedRequest>& requests() const { return requests_; }
  // Ids of requests without a terminal update, ascending.
  std::vector<RequestId> Open() const;

 private:
  void CheckEnd(const LoggedRequest& logged, const RequestUpdate& update, absl::Time now);
  void Violate(RequestId id, const std::string& what);

  std::vector<std::string>& violations_;
  std::map<RequestId, LoggedRequest> requests_;
};

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_COORDINATOR_SCHED_REQUEST_LOG_H_
