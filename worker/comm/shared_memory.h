// The transport between ranks of one host: memory they all map, counters they spin on and then
// sleep on. Made in two steps by CommBuilder; the payloads are the insides of the blobs.

#ifndef TESSERA_WORKER_COMM_SHARED_MEMORY_H_
#define TESSERA_WORKER_COMM_SHARED_MEMORY_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "worker/comm/comm_builder.h"
#include "worker/comm/communicator.h"
#include "worker/comm/shared_segment.h"

namespace tessera {

class SharedMemorySetup {
 public:
  // Rank 0 makes the segment here.
  static absl::StatusOr<std::shared_ptr<SharedMemorySetup>> Create(const CommOptions& options,
                                                                   Ops& ops);

  const std::string& payload() const { return payload_; }

  // Attaches and waits until all ranks have. Once only.
  absl::StatusOr<std::unique_ptr<Communicator>> Connect(const std::vector<std::string>& payloads);

 private:
  SharedMemorySetup(const CommOptions& options, Ops& ops) : options_(options), ops_(ops) {}

  const CommOptions options_;
  Ops& ops_;
  std::string payload_;
  std::unique_ptr<SharedSegment> segment_;  // of rank 0, until Connect
};

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_SHARED_MEMORY_H_
