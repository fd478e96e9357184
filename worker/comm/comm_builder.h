// Makes the communicator of one rank in two steps, because every rank needs an address from every
// other and only the coordinator talks to all of them:
//
//   CommOptions options{.kind = assign.comm(), .rank = ..., .size = ...};
//   TESSERA_ASSIGN_OR_RETURN(CommBuilder builder, CommBuilder::Create(options, ops));
//   send CommHello{blob = builder.hello()};  wait for CommPeers
//   TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> comm,
//   std::move(builder).Connect(blobs));
//
// Called by the worker's engine thread. Connect blocks until all ranks are there,
// options.connect_deadline at most. A builder that is dropped before Connect leaves nothing behind
// (no name, no socket).

#ifndef TESSERA_WORKER_COMM_COMM_BUILDER_H_
#define TESSERA_WORKER_COMM_COMM_BUILDER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/ops.h"
#include "tessera/cluster/v1/cluster.pb.h"
#include "worker/comm/communicator.h"

namespace tessera {

// Of connecting and of one call.
inline constexpr absl::Duration kCommDeadlineMax = absl::Hours(1);

struct CommOptions {
  cluster::v1::CommKind kind = cluster::v1::COMM_SOLO;
  int rank = 0;
  int size = 1;  // 1, 2, 4 or 8; with COMM_SOLO the others are not there
  absl::Duration connect_deadline = absl::Seconds(30);
  // How long one call may wait for a peer (Assign.step_deadline_ms).
  absl::Duration call_deadline = absl::Seconds(10);
  // COMM_GLOO only: the address or name of this host on which peers reach it, or the network
  // interface that has it; one of the two. See AddressTowards for a default.
  std::string gloo_host = "";
  std::string gloo_interface = "";
};

class CommBuilder {
 public:
  // Takes the resources that peers will look for. INVALID_ARGUMENT for impossible options,
  // UNIMPLEMENTED for a kind that this build does not have, RESOURCE_EXHAUSTED when /dev/shm is
  // full. `ops` must outlive the communicator.
  static absl::StatusOr<CommBuilder> Create(const CommOptions& options, Ops& ops);

  CommBuilder(CommBuilder&&) = default;
  CommBuilder& operator=(CommBuilder&&) = default;

  // What the other ranks need to know of this one: CommHello.blob. At most kCommBlobBytesMax bytes.
  const std::string& hello() const { return hello_; }

  // `blobs`: the hello() of every rank, in rank order, this one's included (CommPeers.blobs). Once
  // only. INVALID_ARGUMENT for a damaged blob, FAILED_PRECONDITION for peers that do not fit
  // together, DEADLINE_EXCEEDED naming a rank that did not come.
  absl::StatusOr<std::unique_ptr<Communicator>> Connect(const std::vector<std::string>& blobs) &&;

 private:
  using ConnectFn = std::function<absl::StatusOr<std::unique_ptr<Communicator>>(
      const std::vector<std::string>& blobs)>;
  CommBuilder(std::string hello, ConnectFn connect)
      : hello_(std::move(hello)), connect_(std::move(connect)) {}

  std::string hello_;
  ConnectFn connect_;
};

// The local IP address from which this machine reaches `host_port` ("name:port"): where peers of a
// group that meet through that coordinator can usually reach this rank. UNAVAILABLE when there is
// no route.
absl::StatusOr<std::string> AddressTowards(const std::string& host_port);

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_COMM_BUILDER_H_
