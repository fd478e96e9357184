// Everything is one exchange: receives are posted first (a Gloo send whose receive is already there
// goes out at once), then sends, then each peer is waited for in rank order. Gloo's exceptions end
// here.
//
// Gloo closes all pairs of a context when one wait times out, so after any failure the group is of
// no use, as the interface says.

#include "worker/comm/gloo_communicator.h"

#include <gloo/transport/context.h>
#include <gloo/transport/pair.h>
#include <gloo/transport/unbound_buffer.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "worker/comm/gloo_farewell.h"
#include "worker/comm/host_communicator.h"
#include "worker/comm/tree_sum.h"

namespace tessera {
namespace {

using gloo::transport::UnboundBuffer;

// Bounds the receive buffers of an all-reduce: 7 peers x 1 MiB.
constexpr size_t kChunkFloats = 256 * 1024;
// From here on, groups of 4 and 8 sum a part per rank and exchange the sums: a rank then sends
// 2 (size - 1) / size instead of size - 1 times the data, for one more message delay.
constexpr size_t kSplitFloatsMin = 64 * 1024 / sizeof(float);

// One message with one peer. Both directions may be empty.
struct Transfer {
  int peer = 0;
  const char* send = nullptr;
  size_t send_bytes = 0;
  char* receive = nullptr;
  size_t receive_bytes = 0;
};

class GlooCommunicator final : public HostCommunicator {
 public:
  GlooCommunicator(int rank, int size, Ops& ops, std::shared_ptr<gloo::transport::Context> context,
                   absl::Duration call_deadline)
      : HostCommunicator(rank, size, ops),
        deadline_(call_deadline),
        context_(std::move(context)),
        farewell_(*context_, rank, size) {}

  void Abort() override { GiveUp({GlooFarewell::kAborted, rank()}, ""); }

 protected:
  absl::Status DoAllReduce(float* data, size_t n) override {
    TESSERA_RETURN_IF_ERROR(Alive());
    if (size() == 1) return absl::OkStatus();
    for (size_t begin = 0; begin < n; begin += kChunkFloats) {
      const size_t count = std::min(kChunkFloats, n - begin);
      gathered_.resize(count * size());
      if (size() > 2 && count >= kSplitFloatsMin) {
        TESSERA_RETURN_IF_ERROR(SumParts(data + begin, count));
      } else {
        TESSERA_RETURN_IF_ERROR(SumAll(data + begin, count));
      }
    }
    return absl::OkStatus();
  }

  absl::Status DoAllGather(char* out, const char* in, size_t bytes) override {
    TESSERA_RETURN_IF_ERROR(Alive());
    if (bytes == 0) return absl::OkStatus();
    std::memmove(out + rank() * bytes, in, bytes);  // `in` may be that place
    return Exchange(WithPeers([&](int peer) {
      return Transfer{peer, in, bytes, out + peer * bytes, bytes};
    }));
  }

  absl::Status DoBroadcast(char* data, size_t bytes, int root) override {
    TESSERA_RETURN_IF_ERROR(Alive());
    if (bytes == 0) return absl::OkStatus();
    if (rank() != root) return Exchange({Transfer{root, nullptr, 0, data, bytes}});
    return Exchange(WithPeers([&](int peer) { return Transfer{peer, data, bytes, nullptr, 0}; }));
  }

  absl::Status DoSend(const char* data, size_t bytes, int peer) override {
    TESSERA_RETURN_IF_ERROR(Alive());
    if (bytes == 0) return absl::OkStatus();
    return Exchange({Transfer{peer, data, bytes, nullptr, 0}}, kMailSlot);
  }

  absl::Status DoReceive(char* data, size_t bytes, int peer) override {
    TESSERA_RETURN_IF_ERROR(Alive());
    if (bytes == 0) return absl::OkStatus();
    return Exchange({Transfer{peer, nullptr, 0, data, bytes}}, kMailSlot);
  }

  absl::Status DoBarrier() override {
    TESSERA_RETURN_IF_ERROR(Alive());
    const char token = 0;
    std::array<char, kCommRanksMax> tokens = {};
    return Exchange(WithPeers([&](int peer) {
      return Transfer{peer, &token, 1, &tokens[peer], 1};
    }));
  }

 private:
  // Gloo matches messages of a pair by slot: collectives in the order of calls, and Send/Receive
  // apart.
  static constexpr uint64_t kCollectiveSlot = 1;
  static constexpr uint64_t kMailSlot = 2;

  absl::Status Alive() {
    absl::MutexLock lock(&mutex_);
    return failure_;
  }

  template <typename Make>
  std::vector<Transfer> WithPeers(Make make) const {
    std::vector<Transfer> transfers;
    for (int peer = 0; peer < size(); ++peer) {
      if (peer != rank()) transfers.push_back(make(peer));
    }
    return transfers;
  }

  // Everybody gets everything and sums it.
  absl::Status SumAll(float* data, size_t count) {
    const size_t bytes = count * sizeof(float);
    float* mine = gathered_.data() + rank() * count;
    std::memcpy(mine, data, bytes);
    TESSERA_RETURN_IF_ERROR(Exchange(WithPeers([&](int peer) {
      return Transfer{peer, reinterpret_cast<char*>(mine), bytes,
                      reinterpret_cast<char*>(gathered_.data() + peer * count), bytes};
    })));
    SumGathered(data, count);
    return absl::OkStatus();
  }

  // Rank r sums the r-th part and hands it around. The same additions in the same order as SumAll.
  absl::Status SumParts(float* data, size_t count) {
    const auto begin = [&](int r) { return count * r / size(); };
    const auto bytes = [&](int r) { return (begin(r + 1) - begin(r)) * sizeof(float); };
    char* const base = reinterpret_cast<char*>(data);
    const auto part = [&](int r) { return base + begin(r) * sizeof(float); };
    const size_t mine = bytes(rank()) / sizeof(float);
    std::memcpy(gathered_.data() + rank() * mine, part(rank()), bytes(rank()));
    TESSERA_RETURN_IF_ERROR(Exchange(WithPeers([&](int peer) {
      return Transfer{peer, part(peer), bytes(peer),
                      reinterpret_cast<char*>(gathered_.data() + peer * mine), bytes(rank())};
    })));
    SumGathered(data + begin(rank()), mine);
    return Exchange(WithPeers([&](int peer) {
      return Transfer{peer, part(rank()), bytes(rank()), part(peer), bytes(peer)};
    }));
  }

  void SumGathered(float* out, size_t count) const {
    std::array<const float*, kCommRanksMax> parts = {};
    for (int r = 0; r < size(); ++r) parts[r] = gathered_.data() + r * count;
    TreeSum(out, parts.data(), size(), count);
  }

  // All transfers at once; returns when the last is done. The first failure is kept and closes the
  // group.
  absl::Status Exchange(const std::vector<Transfer>& transfers, uint64_t slot = kCollectiveSlot) {
    struct Pending {
      int peer;
      std::unique_ptr<UnboundBuffer> receive, send;
    };
    std::vector<Pending> pending;
    const auto until = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(deadline_);
    int peer = rank();
    try {
      for (const Transfer& t : transfers) {
        pending.push_back({t.peer, nullptr, nullptr});
        if (t.receive_bytes == 0) continue;
        peer = t.peer;
        pending.back().receive = context_->createUnboundBuffer(t.receive, t.receive_bytes);
        pending.back().receive->recv(t.peer, slot);
      }
      for (size_t i = 0; i < transfers.size(); ++i) {
        const Transfer& t = transfers[i];
        if (t.send_bytes == 0) continue;
        peer = t.peer;
        // Gloo takes a pointer to non-const and only reads it.
        pending[i].send = context_->createUnboundBuffer(const_cast<char*>(t.send), t.send_bytes);
        pending[i].send->send(t.peer, slot);
      }
      for (const Pending& p : pending) {
        peer = p.peer;
        if (p.receive != nullptr) TESSERA_RETURN_IF_ERROR(WaitFor(*p.receive, true, until));
        if (p.send != nullptr) TESSERA_RETURN_IF_ERROR(WaitFor(*p.send, false, until));
      }
    } catch (const std::exception& error) {
      return Fail(peer, std::chrono::steady_clock::now() >= until, error.what());
    }
    return absl::OkStatus();
  }

  // Throws what Gloo throws.
  absl::Status WaitFor(UnboundBuffer& buffer, bool receive,
                       std::chrono::steady_clock::time_point until) {
    {
      absl::MutexLock lock(&mutex_);
      if (!failure_.ok()) return failure_;
      waiting_ = &buffer;
    }
    const absl::Cleanup done = [this]() {
      absl::MutexLock lock(&mutex_);
      waiting_ = nullptr;
    };
    // Rounded up, so that a wait that times out has reached `until`.
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
                          until - std::chrono::steady_clock::now()) +
                      std::chrono::milliseconds(1);
    const auto timeout = std::max(left, std::chrono::milliseconds(1));
    const bool finished =
        receive ? buffer.waitRecv(nullptr, timeout) : buffer.waitSend(nullptr, timeout);
    return finished ? absl::OkStatus() : Alive();
  }

  // A wait for `peer` failed; `what` is Gloo's word for it.
  absl::Status Fail(int peer, bool late, const char* what) {
    GlooFarewell::Words words{late ? GlooFarewell::kLate : GlooFarewell::kLost, peer};
    // Gloo closes everything when a wait times out, so only a lost peer can have said something.
    const auto told = late ? std::nullopt : farewell_.From(peer);
    GiveUp(told.value_or(words), told ? absl::StrCat("as rank ", peer, " says") : what);
    return Alive();
  }

  // Any thread. The first to come keeps its reason, tells the peers and closes the connections.
  void GiveUp(const GlooFarewell::Words& words, const std::string& detail) {
    {
      absl::MutexLock lock(&mutex_);
      if (!failure_.ok()) return;
      failure_ = StatusOf(words, detail);
      if (waiting_ != nullptr) {
        waiting_->abortWaitRecv();
        waiting_->abortWaitSend();
      }
    }
    farewell_.Say(words);
    ClosePairs();
  }

  absl::Status StatusOf(const GlooFarewell::Words& words, const std::string& detail) const {
    switch (words.reason) {
      case GlooFarewell::kLate:
        return absl::DeadlineExceededError(absl::StrCat(
            "rank ", words.culprit, " did not come within ", absl::FormatDuration(deadline_)));
      case GlooFarewell::kAborted:
        return absl::UnavailableError(absl::StrCat("rank ", words.culprit, " aborted the group"));
      default:
        return absl::UnavailableError(
            absl::StrCat("the connection to rank ", words.culprit, " is lost: ", detail));
    }
  }

  // Any thread; peers that wait for this rank see their connection reset. Not for an orderly end:
  // what is still under way would be lost, so the destructor leaves closing to the pairs.
  void ClosePairs() {
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == rank()) continue;
      try {
        context_->getPair(peer)->close();
      } catch (const std::exception&) {
        // The pair is in an error state already, which is all that is wanted.
      }
    }
  }

  const absl::Duration deadline_;
  const std::shared_ptr<gloo::transport::Context> context_;
  GlooFarewell farewell_;
  std::vector<float> gathered_;  // [size, count] of the running all-reduce; kept for its capacity
  absl::Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  UnboundBuffer* waiting_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> NewGlooCommunicator(
    int rank, int size, Ops& ops, std::shared_ptr<gloo::transport::Context> context,
    absl::Duration call_deadline) {
  try {
    return std::make_unique<GlooCommunicator>(rank, size, ops, std::move(context), call_deadline);
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("a peer of rank ", rank, " left right after it connected: ", error.what()));
  }
}

}  // namespace tessera
