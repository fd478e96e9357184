// One message of eight bytes per peer, on a slot of its own.

#include "worker/comm/gloo_farewell.h"

#include <chrono>
#include <exception>

namespace tessera {
namespace {

constexpr uint64_t kFarewellSlot = 3;                      // gloo_communicator.cc uses 1 and 2
constexpr auto kPatience = std::chrono::milliseconds(20);  // per peer

}  // namespace

GlooFarewell::GlooFarewell(gloo::transport::Context& context, int rank, int size)
    : context_(context), rank_(rank), size_(size) {
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    receives_[peer] = context_.createUnboundBuffer(&received_[peer], sizeof(Words));
    receives_[peer]->recv(peer, kFarewellSlot);
  }
}

void GlooFarewell::Say(const Words& words) {
  Words sent = words;
  std::array<std::unique_ptr<gloo::transport::UnboundBuffer>, kCommRanksMax> sends;
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    try {
      sends[peer] = context_.createUnboundBuffer(&sent, sizeof(sent));
      sends[peer]->send(peer, kFarewellSlot);
    } catch (const std::exception&) {
      sends[peer] = nullptr;  // its connection is gone: it needs no words
    }
  }
  for (auto& send : sends) {
    if (send == nullptr) continue;
    try {
      send->waitSend(nullptr, kPatience);
    } catch (const std::exception&) {
      // It does not read. Gloo has now closed all connections; the words already written are on the
      // way.
    }
  }
}

std::optional<GlooFarewell::Words> GlooFarewell::From(int peer) {
  try {
    if (!receives_[peer]->waitRecv(nullptr, kPatience)) return std::nullopt;
  } catch (const std::exception&) {
    return std::nullopt;
  }
  const Words words = received_[peer];
  const bool sound = words.reason >= kLost && words.reason <= kAborted && words.culprit >= 0 &&
                     words.culprit < size_;
  return sound ? std::optional<Words>(words) : std::nullopt;
}

}  // namespace tessera
