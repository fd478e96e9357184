// Runs the same body on every rank of a group, over any transport: threads of this process, or
// forked processes whose blobs the test relays as the coordinator would.

#ifndef TESSERA_TESTS_WORKER_COMM_RANK_HARNESS_H_
#define TESSERA_TESTS_WORKER_COMM_RANK_HARNESS_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/comm/comm_builder.h"
#include "worker/comm/communicator.h"

namespace tessera {

enum class Transport { kLoopback, kSharedThreads, kSharedProcesses, kGloo };
const char* Name(Transport transport);

// What one rank does. A child process has no GoogleTest: failures are statuses.
using RankBody = std::function<absl::Status(Communicator& comm)>;

// The status of each rank's body, in rank order. A process that died without one is ABORTED.
std::vector<absl::Status> RunRanks(Transport transport, int size, absl::Duration call_deadline,
                                   const RankBody& body);

// The options that RunRanks uses; for tests that connect by hand.
CommOptions OptionsFor(Transport transport, int rank, int size, absl::Duration call_deadline);

// Segments of ours in /dev/shm.
std::vector<std::string> SegmentNames();

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_COMM_RANK_HARNESS_H_
