// What the cluster tells people (logs, `tessera serve`'s screen, rank metrics) about the life of
// groups. Never input to a decision.

#ifndef TESSERA_COORDINATOR_CLUSTER_NOTICE_H_
#define TESSERA_COORDINATOR_CLUSTER_NOTICE_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "tessera/cluster/v1/cluster.pb.h"

namespace tessera {

struct Notice {
  enum class Kind {
    kJoined,      // a worker said hello
    kWaiting,     // a group still lacks workers: `text` says how many
    kPlan,        // the memory plan of a group about to load, as a table in `text`
    kLoading,     // bytes read of one rank
    kReady,       // all ranks of a group are ready
    kLost,        // a ready group, or one that was loading, is gone: `status`
    kLoadFailed,  // a group cannot be formed for a reason that trying again does not mend: `status`
    kLeft,        // a worker went away: `text` says why
  };
  Kind kind = Kind::kJoined;
  uint32_t group = 0;
  uint32_t rank = 0;
  uint64_t epoch = 0;
  std::string worker;
  std::string device;  // of kReady: DeviceName of rank 0
  std::string text;
  absl::Status status;
  uint64_t bytes_read = 0;
  uint64_t bytes_total = 0;
  double seconds = 0;
};

// The word for a kind in logs and in the JSON status lines.
const char* NoticeKindName(Notice::Kind kind);

// What prices are of: "NVIDIA H200", "cpu AMD EPYC 9654".
std::string DeviceName(const cluster::v1::Hardware& hardware);

using NoticeSink = std::function<void(const Notice&)>;

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_CLUSTER_NOTICE_H_
