// Setting up the pairs. Every rank listens once per peer; the addresses travel in the payloads; of
// each two ranks the one with the larger address dials.

#include "worker/comm/gloo.h"

#include <gloo/transport/context.h>
#include <gloo/transport/pair.h>
#include <gloo/transport/tcp/attr.h>
#include <gloo/transport/tcp/device.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/comm/blob.h"
#include "worker/comm/gloo_communicator.h"

namespace tessera {
namespace {

// What Gloo's TCP transport calls the address of a pair: a sockaddr_storage and a sequence number.
constexpr size_t kAddressBytes = sizeof(sockaddr_storage) + sizeof(ssize_t);

// A pair waits five times its timeout for its connection.
std::chrono::milliseconds PairTimeout(absl::Duration connect_deadline) {
  return std::chrono::milliseconds(
      std::max<int64_t>(1, absl::ToInt64Milliseconds(connect_deadline) / 5));
}

void IgnoreSigpipe() {
  struct sigaction now = {};
  if (sigaction(SIGPIPE, nullptr, &now) == 0 && now.sa_handler == SIG_DFL) {
    now.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &now, nullptr);
  }
}

absl::StatusOr<std::vector<char>> CheckedAddress(const std::string& bytes, int peer) {
  sockaddr_storage address = {};
  if (bytes.size() == kAddressBytes) std::memcpy(&address, bytes.data(), sizeof(address));
  if (address.ss_family != AF_INET && address.ss_family != AF_INET6) {
    return absl::InvalidArgumentError(
        absl::StrCat("the gloo blob of rank ", peer, " has no usable address"));
  }
  return std::vector<char>(bytes.begin(), bytes.end());
}

}  // namespace

absl::StatusOr<std::shared_ptr<GlooSetup>> GlooSetup::Create(const CommOptions& options, Ops& ops) {
  if (options.gloo_host.empty() == options.gloo_interface.empty()) {
    return absl::InvalidArgumentError(
        "gloo needs either the address of this host that peers can reach or the name of its "
        "network "
        "interface");
  }
  IgnoreSigpipe();
  std::shared_ptr<GlooSetup> setup(new GlooSetup(options, ops));
  TESSERA_RETURN_IF_ERROR(setup->Open());
  return setup;
}

absl::Status GlooSetup::Open() {
  const std::string where =
      options_.gloo_host.empty() ? options_.gloo_interface : options_.gloo_host;
  try {
    gloo::transport::tcp::attr attr;
    attr.hostname = options_.gloo_host;
    attr.iface = options_.gloo_interface;
    context_ =
        gloo::transport::tcp::CreateDevice(attr)->createContext(options_.rank, options_.size);
    context_->setTimeout(PairTimeout(options_.connect_deadline));
    for (int peer = 0; peer < options_.size; ++peer) {
      std::vector<char> address;
      if (peer != options_.rank) address = context_->createPair(peer)->address().bytes();
      AppendString(payload_, absl::string_view(address.data(), address.size()));
    }
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("gloo cannot listen on ", where, ": ", error.what()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Communicator>> GlooSetup::Connect(
    const std::vector<std::string>& payloads) {
  std::vector<std::vector<char>> addresses(payloads.size());
  for (int peer = 0; peer < options_.size; ++peer) {
    PayloadReader reader(payloads[peer]);
    std::string towards_me;
    for (int r = 0; r < options_.size; ++r) {
      std::string address = reader.String();
      if (r == options_.rank) towards_me = std::move(address);
    }
    if (!reader.Complete()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the gloo blob of rank ", peer, " is damaged"));
    }
    if (peer == options_.rank) continue;
    TESSERA_ASSIGN_OR_RETURN(addresses[peer], CheckedAddress(towards_me, peer));
  }
  // A thread per peer, because each blocks until its pair stands: so the deadline holds for all
  // together.
  std::vector<std::thread> dialing;
  std::vector<std::string> errors(payloads.size());
  for (int peer = 0; peer < options_.size; ++peer) {
    if (peer == options_.rank) continue;
    dialing.emplace_back([&, peer]() {
      try {
        context_->getPair(peer)->connect(addresses[peer]);
      } catch (const std::exception& error) {
        errors[peer] = error.what();
      }
    });
  }
  for (std::thread& thread : dialing) thread.join();
  for (int peer = 0; peer < options_.size; ++peer) {
    if (errors[peer].empty()) continue;
    return absl::DeadlineExceededError(
        absl::StrCat("rank ", options_.rank, " cannot reach rank ", peer, " within ",
                     absl::FormatDuration(options_.connect_deadline), ": ", errors[peer]));
  }
  return NewGlooCommunicator(options_.rank, options_.size, ops_, std::move(context_),
                             options_.call_deadline);
}

}  // namespace tessera
