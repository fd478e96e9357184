// From the scheduler's updates to the streams of the requests, and what each request means for the
// metrics. A request is open from Open until its terminal update. Engine thread only.

#ifndef TESSERA_COORDINATOR_ENGINE_OUTBOX_H_
#define TESSERA_COORDINATOR_ENGINE_OUTBOX_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/engine/request_stream.h"
#include "coordinator/sched/event.h"
#include "coordinator/telemetry/metrics.h"

namespace tessera {

class Outbox {
 public:
  explicit Outbox(Metrics& metrics) : metrics_(metrics) {}

  void Open(std::shared_ptr<const Request> request, std::shared_ptr<RequestStream> stream);
  // Hands each update to its request's stream. Returns how many requests have ended.
  int64_t Publish(std::vector<RequestUpdate> updates, absl::Time now);
  // Ends every open request with kError and this status. Returns how many there were.
  int64_t CloseAll(const absl::Status& status, absl::Time now);

 private:
  struct OpenRequest {
    std::shared_ptr<const Request> request;
    std::shared_ptr<RequestStream> stream;
    uint32_t output_tokens = 0;  // handed out
    bool scheduled = false;      // queue time is counted
    absl::Time last_token;       // when output_tokens > 0
  };

  void CountTokens(const RequestUpdate& update, absl::Time now, OpenRequest& open);
  void CountEnd(const RequestUpdate& update, absl::Time now, const OpenRequest& open);

  Metrics& metrics_;
  absl::flat_hash_map<RequestId, OpenRequest> open_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_ENGINE_OUTBOX_H_
