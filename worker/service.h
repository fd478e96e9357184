// The worker's life: dial the coordinator, join, take assignments, dial again when the link is
// lost, leave when told to. Everything happens on the thread that calls Run; RequestStop may be
// called from any other.

#ifndef TESSERA_WORKER_SERVICE_H_
#define TESSERA_WORKER_SERVICE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "worker/device.h"
#include "worker/event_log.h"
#include "worker/inbox.h"
#include "worker/link.h"
#include "worker/model_store.h"

namespace tessera {

struct ServiceOptions {
  std::string coordinator_address;  // "host:port"
  std::vector<std::string> model_roots = {"."};
  std::string worker_name;
  absl::Duration reconnect = absl::Seconds(60);  // how long to dial before giving up
};

class Service {
 public:
  // `device`, `clock` and `log` must outlive the service.
  Service(ServiceOptions options, Device& device, const Clock& clock, EventLog& log);

  // OK after Shutdown or RequestStop; otherwise why this worker cannot go on (the coordinator has
  // been told if it could be reached).
  absl::Status Run();

  void RequestStop(std::string reason) { inbox_.PostStop(std::move(reason)); }

 private:
  enum class Outcome { kOver, kLinkLost };

  cluster::v1::Hello MakeHello() const;
  // Dials until it works, the reconnect time is over, or a stop is requested (CANCELLED).
  absl::StatusOr<std::unique_ptr<Link>> Dial();
  absl::StatusOr<Outcome> Serve(Link& link);

  const ServiceOptions options_;
  const Clock& clock_;
  EventLog& log_;
  Device& device_;
  ModelStore store_;
  Inbox inbox_;
  RankProgress progress_;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_SERVICE_H_
