// Setting up the segment: rank 0 makes it when its builder is created, the others find it by the
// name in its blob. Nothing in a blob is believed: wrong hosts, names and sizes are answered with a
// status.

#include "worker/comm/shared_memory.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/comm/blob.h"
#include "worker/comm/peer_process.h"
#include "worker/comm/shared_memory_communicator.h"

namespace tessera {
namespace {

// Equal for processes that run on the same kernel.
std::string BootId() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

}  // namespace

absl::StatusOr<std::shared_ptr<SharedMemorySetup>> SharedMemorySetup::Create(
    const CommOptions& options, Ops& ops) {
  std::shared_ptr<SharedMemorySetup> setup(new SharedMemorySetup(options, ops));
  if (options.rank == 0) {
    TESSERA_ASSIGN_OR_RETURN(setup->segment_, SharedSegment::Create(options.size));
  }
  const ProcessIdentity self = ThisProcess();
  AppendString(setup->payload_, BootId());
  AppendUint64(setup->payload_, self.pid);
  AppendUint64(setup->payload_, self.pid_namespace);
  AppendString(setup->payload_, options.rank == 0 ? setup->segment_->name() : "");
  AppendUint64(setup->payload_, options.rank == 0 ? setup->segment_->token() : 0);
  return setup;
}

absl::StatusOr<std::unique_ptr<Communicator>> SharedMemorySetup::Connect(
    const std::vector<std::string>& payloads) {
  const std::string boot_id = BootId();
  std::vector<ProcessIdentity> peers;
  std::string name;
  uint64_t token = 0;
  for (size_t rank = 0; rank < payloads.size(); ++rank) {
    PayloadReader reader(payloads[rank]);
    const std::string its_boot_id = reader.String();
    ProcessIdentity peer;
    peer.pid = reader.Uint64();
    peer.pid_namespace = reader.Uint64();
    const std::string its_name = reader.String();
    const uint64_t its_token = reader.Uint64();
    if (!reader.Complete()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the shared-memory blob of rank ", rank, " is damaged"));
    }
    if (its_boot_id != boot_id) {
      return absl::FailedPreconditionError(absl::StrCat(
          "rank ", rank, " runs on another host than rank ", options_.rank,
          "; shared memory needs all ranks of a group on one host, use gloo between hosts"));
    }
    peers.push_back(peer);
    if (rank == 0) {
      name = its_name;
      token = its_token;
    }
  }
  if (options_.rank != 0) {
    TESSERA_ASSIGN_OR_RETURN(segment_, SharedSegment::Attach(name, token, options_.size));
  } else if (name != segment_->name()) {
    return absl::InvalidArgumentError("the blob of rank 0 is not the one this rank made");
  }
  return JoinSharedMemory(options_, ops_, std::move(segment_), peers);
}

}  // namespace tessera
