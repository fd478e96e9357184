// The ranks of a group talking over NCCL, one GPU each (or several ranks on one GPU, for tests).
// NCCL only carries bytes: sums are made here, in the tree that every transport has, from parts
// that were gathered. Rank 0's id travels through the coordinator (CommHello.blob) together with
// every rank's NCCL version. Used by comm_builder.
//
// Initialization and calls do not block inside NCCL: a thread of this object watches for errors and
// for a collective that does not end within the call deadline, and aborts the communicator then, so
// that the stream, and whoever waits for it, goes on. What was computed after the abort is
// worthless; every later call says so.

#ifndef TESSERA_WORKER_COMM_NCCL_H_
#define TESSERA_WORKER_COMM_NCCL_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/comm/comm_builder.h"
#include "worker/comm/communicator.h"

namespace tessera {

// Oldest NCCL that is taken: the first that can put several ranks on one GPU.
inline constexpr int kNcclVersionMin = 23003;

// FAILED_PRECONDITION naming both when `version` (of rank `rank`; 23007 is 2.30.7) is too old or
// not rank 0's.
absl::Status CheckNcclVersion(int rank, int version, int version_of_rank0);

class NcclSetup {
 public:
  // NOT_FOUND when there is no NCCL, FAILED_PRECONDITION when it is too old, UNIMPLEMENTED in a
  // build without CUDA. The GPU of `ops` must be current on the calling thread.
  static absl::StatusOr<std::shared_ptr<NcclSetup>> Create(const CommOptions& options, Ops& ops);

  const std::string& payload() const { return payload_; }
  // See CommBuilder::Connect.
  absl::StatusOr<std::unique_ptr<Communicator>> Connect(const std::vector<std::string>& payloads);

 private:
  struct State;
  NcclSetup(std::string payload, std::shared_ptr<State> state)
      : payload_(std::move(payload)), state_(std::move(state)) {}

  const std::string payload_;
  const std::shared_ptr<State> state_;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_NCCL_H_
