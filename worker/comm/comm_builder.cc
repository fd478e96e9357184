// Chooses the transport and wraps its payload into the blob.

#include "worker/comm/comm_builder.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/comm/blob.h"
#include "worker/comm/gloo.h"
#include "worker/comm/loopback.h"
#include "worker/comm/nccl.h"
#include "worker/comm/shared_memory.h"
#include "worker/comm/solo.h"
#include "worker/comm/tree_sum.h"

namespace tessera {
namespace {

using cluster::v1::CommKind;

absl::Status Validate(const CommOptions& options) {
  if (!IsCommSize(options.size)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a group of ", options.size, " ranks; use 1, 2, 4 or 8"));
  }
  if (options.rank < 0 || options.rank >= options.size) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", options.rank, " in a group of ", options.size));
  }
  for (const absl::Duration deadline : {options.call_deadline, options.connect_deadline}) {
    if (deadline <= absl::ZeroDuration() || deadline > kCommDeadlineMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("a communicator deadline of ", absl::FormatDuration(deadline),
                       "; use more than 0, at most ", absl::FormatDuration(kCommDeadlineMax)));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CommBuilder> CommBuilder::Create(const CommOptions& options, Ops& ops) {
  TESSERA_RETURN_IF_ERROR(Validate(options));
  const BlobIdentity self{options.kind, options.rank, options.size};
  // Both transports are set up and connected alike.
  const auto with = [&self](auto setup) {
    return CommBuilder(EncodeBlob(self, setup->payload()),
                       [self, setup](const std::vector<std::string>& blobs)
                           -> absl::StatusOr<std::unique_ptr<Communicator>> {
                         TESSERA_ASSIGN_OR_RETURN(std::vector<std::string> payloads,
                                                  DecodeBlobs(self, blobs));
                         return setup->Connect(payloads);
                       });
  };
  switch (options.kind) {
    case cluster::v1::COMM_SOLO:
      // Its own blob and no other, whatever the size: such a rank is never in a group with others.
      return CommBuilder(EncodeBlob({options.kind, 0, 1}, ""),
                         [self, &ops](const std::vector<std::string>& blobs)
                             -> absl::StatusOr<std::unique_ptr<Communicator>> {
                           TESSERA_RETURN_IF_ERROR(DecodeBlobs({self.kind, 0, 1}, blobs).status());
                           return NewSolo(self.rank, self.size, ops);
                         });
    case cluster::v1::COMM_SHARED_MEMORY: {
      TESSERA_ASSIGN_OR_RETURN(auto setup, SharedMemorySetup::Create(options, ops));
      return with(std::move(setup));
    }
    case cluster::v1::COMM_GLOO: {
      TESSERA_ASSIGN_OR_RETURN(auto setup, GlooSetup::Create(options, ops));
      return with(std::move(setup));
    }
    case cluster::v1::COMM_NCCL: {
      TESSERA_ASSIGN_OR_RETURN(auto setup, NcclSetup::Create(options, ops));
      return with(std::move(setup));
    }
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("unknown transport ", static_cast<int>(options.kind)));
  }
}

absl::StatusOr<std::unique_ptr<Communicator>> CommBuilder::Connect(
    const std::vector<std::string>& blobs) && {
  const ConnectFn connect = std::exchange(connect_, nullptr);
  return connect(blobs);
}

absl::StatusOr<std::string> AddressTowards(const std::string& host_port) {
  const size_t colon = host_port.rfind(':');
  if (colon == std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("\"", host_port, "\" is not host:port"));
  }
  std::string host = host_port.substr(0, colon);
  if (host.size() > 1 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  addrinfo hints = {};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), host_port.c_str() + colon + 1, &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot resolve ", host_port, ": ", gai_strerror(error)));
  }
  const absl::Cleanup free_found = [found]() { freeaddrinfo(found); };
  for (const addrinfo* to = found; to != nullptr; to = to->ai_next) {
    // Connecting a datagram socket sends nothing; it makes the kernel choose the route and the
    // address.
    const int fd = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    const absl::Cleanup close_fd = [fd]() { close(fd); };
    sockaddr_storage local = {};
    socklen_t length = sizeof(local);
    char text[NI_MAXHOST] = {};
    if (connect(fd, to->ai_addr, to->ai_addrlen) == 0 &&
        getsockname(fd, reinterpret_cast<sockaddr*>(&local), &length) == 0 &&
        getnameinfo(reinterpret_cast<sockaddr*>(&local), length, text, sizeof(text), nullptr, 0,
                    NI_NUMERICHOST) == 0) {
      return std::string(text);
    }
  }
  return absl::UnavailableError(absl::StrCat("no route to ", host_port));
}

}  // namespace tessera
