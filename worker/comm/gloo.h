// The transport between hosts: Gloo's TCP pairs carry bytes, nothing else of Gloo is used; sums are
// ours. Made in two steps by CommBuilder; the payloads are the insides of the blobs.
//
// Traffic is neither encrypted nor authenticated, and a peer that breaks Gloo's protocol can end
// this process: for a private network only.

#ifndef TESSERA_WORKER_COMM_GLOO_H_
#define TESSERA_WORKER_COMM_GLOO_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "worker/comm/comm_builder.h"
#include "worker/comm/communicator.h"

namespace gloo::transport {
class Context;
}  // namespace gloo::transport

namespace tessera {

class GlooSetup {
 public:
  // Opens one listening socket per peer on options.gloo_host or gloo_interface. Makes the process
  // ignore SIGPIPE if nobody has set a handler: Gloo writes to sockets whose peer may be gone.
  static absl::StatusOr<std::shared_ptr<GlooSetup>> Create(const CommOptions& options, Ops& ops);

  const std::string& payload() const { return payload_; }

  // Connects to every peer, all at once. Once only.
  absl::StatusOr<std::unique_ptr<Communicator>> Connect(const std::vector<std::string>& payloads);

 private:
  GlooSetup(const CommOptions& options, Ops& ops) : options_(options), ops_(ops) {}
  absl::Status Open();

  const CommOptions options_;
  Ops& ops_;
  std::string payload_;
  std::shared_ptr<gloo::transport::Context> context_;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_GLOO_H_
