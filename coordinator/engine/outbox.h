// From the scheduler's updates to the streams of the requests, and what each request means for the
// metrics. A request is open from Open until its terminal update; its choices share one stream.
// Engine thread only.

#ifndef TESSERA_COORDINATOR_ENGINE_OUTBOX_H_
#define TESSERA_COORDINATOR_ENGINE_OUTBOX_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/engine/admission.h"
#include "coordinator/engine/request_stream.h"
#include "coordinator/engine/waiting_ages.h"
#include "coordinator/ledger/book/ledger.h"
#include "coordinator/sched/event.h"
#include "coordinator/telemetry/metrics.h"

namespace tessera {

// What has become of the open requests in one turn.
struct TurnOutcome {
  int64_t ended = 0;
  RequestCost begun;  // of those that wait no longer: they run, or have ended without
};

class Outbox {
 public:
  Outbox(Metrics& metrics, Ledger& ledger) : metrics_(metrics), ledger_(ledger) {}

  void Open(std::shared_ptr<const Request> request, std::shared_ptr<RequestStream> stream);
  // Moves each update to its request's stream.
  TurnOutcome Publish(absl::Span<RequestUpdate> updates, absl::Time now);
  std::vector<RequestId> open() const;  // in order
  // Ends every open request with kError and this status.
  TurnOutcome CloseAll(const absl::Status& status, absl::Time now);

 private:
  struct Choice {
    uint32_t output_tokens = 0;  // handed out
    bool ended = false;
    absl::Time last_token;  // when output_tokens > 0
  };
  struct OpenRequest {
    std::shared_ptr<const Request> request;
    std::shared_ptr<RequestStream> stream;
    TenantMetrics* tenant;
    absl::InlinedVector<Choice, 1> choices;
    bool waiting = true;      // nothing of it is known to run
    bool has_output = false;  // any choice has a token
    absl::Time first_token;   // when has_output

    uint32_t output_tokens() const;
    RequestFacts FactsAtEnd(const RequestUpdate& update, absl::Time now) const;
  };

  void CountBegin(const RequestUpdate& update, OpenRequest& open, TurnOutcome& outcome);
  void CountTokens(const RequestUpdate& update, absl::Time now, OpenRequest& open);
  void CountEnd(const RequestUpdate& update, absl::Time now, const OpenRequest& open);

  Metrics& metrics_;
  WaitingAges waiting_ages_{metrics_};
  Ledger& ledger_;
  absl::flat_hash_map<RequestId, OpenRequest> open_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_ENGINE_OUTBOX_H_
