// One assignment from Assign to its end: load, meet the other ranks, say Ready, compute plans until
// the coordinator wants something else. Runs on the rank's thread and gives it back as soon as the
// inbox holds something that ends it.

#ifndef TESSERA_WORKER_ASSIGNMENT_H_
#define TESSERA_WORKER_ASSIGNMENT_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "tessera/cluster/v1/cluster.pb.h"
#include "worker/comm/communicator.h"
#include "worker/device.h"
#include "worker/engine.h"
#include "worker/event_log.h"
#include "worker/inbox.h"
#include "worker/link.h"
#include "worker/model_store.h"
#include "worker/step_stream.h"

namespace tessera {

// Limits on what an Assign may ask for.
inline constexpr int64_t kBlockSizeMax = 4096;  // tokens
inline constexpr int64_t kStepRowsMax = 65536;
inline constexpr int64_t kStepTokensMax = 1 << 20;
inline constexpr absl::Duration kStepDeadlineMin = absl::Milliseconds(100);
inline constexpr absl::Duration kStepDeadlineMax = absl::Minutes(30);
// How long the ranks of a group may take to load, seen from the first that is done.
inline constexpr absl::Duration kPeersDeadline = absl::Minutes(30);
inline constexpr absl::Duration kConnectDeadline = absl::Seconds(10);

// INVALID_ARGUMENT naming the field.
absl::Status CheckAssign(const cluster::v1::Assign& assign);

// What outlives an assignment. References must outlive it too.
struct RankParts {
  Device& device;
  const Clock& clock;
  ModelStore& store;
  Inbox& inbox;
  RankProgress& progress;
  EventLog& log;
  const std::string& coordinator_address;
};

class Assignment {
 public:
  Assignment(RankParts parts, Link& link, cluster::v1::Assign assign)
      : parts_(parts), link_(link), assign_(std::move(assign)) {}

  // OK: over, the inbox may say why; the rank can take another assignment. Otherwise the rank's own
  // failure, after which the process should report and exit.
  absl::Status Run();

 private:
  absl::Status Load();
  absl::Status Connect();
  absl::Status StartEngine();
  absl::Status ServeSteps();
  // Until the stream ends, OK, or the engine can do no more.
  absl::Status ComputeSteps(StepStream& steps);
  void SendReady();
  // Whether a failure is that of the group rather than of this rank.
  bool EndsGroupOnly(const absl::Status& status) const;

  const RankParts parts_;
  Link& link_;
  const cluster::v1::Assign assign_;

  ModelStore::Result model_;
  std::unique_ptr<Communicator> comm_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_ASSIGNMENT_H_
