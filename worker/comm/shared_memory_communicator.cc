// Collectives as rounds. In a round every rank lays out up to kRoundSlotBytes in its slot, raises
// its round counter, waits for the counters of all others and reads their slots. Slots alternate
// between two halves: a rank writes round s + 2 only after it has seen everybody raise s + 1, which
// they do only after they have read s. So one counter per rank is the whole protocol.

#include "worker/comm/shared_memory_communicator.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/comm/group_wait.h"
#include "worker/comm/host_communicator.h"

namespace tessera {
namespace {

constexpr size_t kRoundFloats = kRoundSlotBytes / sizeof(float);
// From here on, groups of 4 and 8 sum a part per rank and exchange the sums: less memory traffic,
// one more round.
constexpr size_t kSplitFloatsMin = 64 * 1024 / sizeof(float);

enum class Operation : uint64_t { kAllReduce = 1, kAllGather, kBroadcast, kBarrier };

const char* Name(Operation operation) {
  switch (operation) {
    case Operation::kAllReduce:
      return "all-reduce";
    case Operation::kAllGather:
      return "all-gather";
    case Operation::kBroadcast:
      return "broadcast";
    case Operation::kBarrier:
      break;
  }
  return "barrier";
}

class SharedMemoryCommunicator final : public HostCommunicator {
 public:
  SharedMemoryCommunicator(int rank, int size, Ops& ops, std::unique_ptr<SharedSegment> segment,
                           const std::vector<ProcessIdentity>& peers)
      : HostCommunicator(rank, size, ops),
        segment_(std::move(segment)),
        wait_(segment_->header(), size, peers) {}

  ~SharedMemoryCommunicator() override { wait_.Fail(GroupFailure::kLeft, rank()); }

  // Waits until every rank has attached, then removes the segment's name.
  absl::Status Join(absl::Duration connect_deadline, absl::Duration call_deadline) {
    wait_.set_deadline(connect_deadline);
    Publish(segment_->header()->joined[rank()], 1);
    absl::Status joined = absl::OkStatus();
    for (int peer = 0; peer < size() && joined.ok(); ++peer) {
      joined = wait_.For(segment_->header()->joined[peer], 1, peer);
    }
    segment_->Unlink();  // also of a failed group: its creator may be dead
    wait_.set_deadline(call_deadline);
    return joined;
  }

  void Abort() override { wait_.Fail(GroupFailure::kAborted, rank()); }

 protected:
  absl::Status DoAllReduce(float* data, size_t n) override {
    TESSERA_RETURN_IF_ERROR(wait_.Alive());
    const uint64_t note = Note(Operation::kAllReduce, n * sizeof(float));
    for (size_t begin = 0; begin < n; begin += kRoundFloats) {
      const size_t count = std::min(kRoundFloats, n - begin);
      const bool split = size() > 2 && count >= kSplitFloatsMin;
      TESSERA_RETURN_IF_ERROR(Round(note, data + begin, count * sizeof(float)));
      if (split) {
        TESSERA_RETURN_IF_ERROR(SumParts(note, data + begin, count));
      } else {
        SumSlots(data + begin, 0, count);
      }
    }
    return absl::OkStatus();
  }

  absl::Status DoAllGather(char* out, const char* in, size_t bytes) override {
    TESSERA_RETURN_IF_ERROR(wait_.Alive());
    const uint64_t note = Note(Operation::kAllGather, bytes);
    for (size_t begin = 0; begin < bytes; begin += kRoundSlotBytes) {
      const size_t count = std::min(kRoundSlotBytes, bytes - begin);
      TESSERA_RETURN_IF_ERROR(Round(note, in + begin, count));
      for (int r = 0; r < size(); ++r) {
        std::memcpy(out + r * bytes + begin, segment_->RoundSlot(r, round_), count);
      }
    }
    return absl::OkStatus();
  }

  absl::Status DoBroadcast(char* data, size_t bytes, int root) override {
    TESSERA_RETURN_IF_ERROR(wait_.Alive());
    const uint64_t note = Note(Operation::kBroadcast, bytes);
    for (size_t begin = 0; begin < bytes; begin += kRoundSlotBytes) {
      const size_t count = std::min(kRoundSlotBytes, bytes - begin);
      TESSERA_RETURN_IF_ERROR(Round(note, data + begin, rank() == root ? count : 0));
      if (rank() != root) std::memcpy(data + begin, segment_->RoundSlot(root, round_), count);
    }
    return absl::OkStatus();
  }

  absl::Status DoSend(const char* data, size_t bytes, int peer) override {
    TESSERA_RETURN_IF_ERROR(wait_.Alive());
    MailFlags& mail = segment_->header()->mail[rank()][peer];
    size_t begin = 0;
    do {  // an empty message is one empty part
      const size_t count = std::min(kMailSlotBytes, bytes - begin);
      const uint32_t part = ++sent_[peer];
      // Two halves: part p reuses that of p - 2.
      TESSERA_RETURN_IF_ERROR(wait_.For(mail.taken, part - 2, peer));
      if (count > 0) std::memcpy(segment_->MailSlot(rank(), peer, part), data + begin, count);
      mail.sent.note[part & 1] = bytes;
      Publish(mail.sent, part);
      begin += count;
    } while (begin < bytes);
    return absl::OkStatus();
  }

  absl::Status DoReceive(char* data, size_t bytes, int peer) override {
    TESSERA_RETURN_IF_ERROR(wait_.Alive());
    MailFlags& mail = segment_->header()->mail[peer][rank()];
    size_t begin = 0;
    do {
      const size_t count = std::min(kMailSlotBytes, bytes - begin);
      const uint32_t part = ++received_[peer];
      TESSERA_RETURN_IF_ERROR(wait_.For(mail.sent, part, peer));
      const uint64_t sent = mail.sent.note[part & 1];
      if (sent != bytes) {
        wait_.Fail(GroupFailure::kAborted, rank());
        return absl::InternalError(absl::StrCat("the ranks have diverged: rank ", peer, " sends ",
                                                sent, " bytes, rank ", rank(), " expects ", bytes));
      }
      if (count > 0) std::memcpy(data + begin, segment_->MailSlot(peer, rank(), part), count);
      Publish(mail.taken, part);
      begin += count;
    } while (begin < bytes);
    return absl::OkStatus();
  }

  absl::Status DoBarrier() override {
    TESSERA_RETURN_IF_ERROR(wait_.Alive());
    return Round(Note(Operation::kBarrier, 0), nullptr, 0);
  }

 private:
  // What a rank says it is doing in a round; all must agree.
  static uint64_t Note(Operation operation, size_t bytes) {
    return static_cast<uint64_t>(operation) << 56 | bytes;
  }

  // Lays out `bytes` of `data`, waits until all ranks have laid out theirs. Slots of round_ may
  // then be read until the next call.
  absl::Status Round(uint64_t note, const void* data, size_t bytes) {
    ++round_;
    FutexFlag& mine = segment_->header()->round[rank()];
    if (bytes > 0) std::memcpy(segment_->RoundSlot(rank(), round_), data, bytes);
    mine.note[round_ & 1] = note;
    Publish(mine, round_);
    for (int peer = 0; peer < size(); ++peer) {
      FutexFlag& theirs = segment_->header()->round[peer];
      TESSERA_RETURN_IF_ERROR(wait_.For(theirs, round_, peer));
      if (theirs.note[round_ & 1] != note) return Mismatch(note, theirs.note[round_ & 1], peer);
    }
    return absl::OkStatus();
  }

  absl::Status Mismatch(uint64_t mine, uint64_t theirs, int peer) {
    wait_.Fail(GroupFailure::kAborted, rank());
    const auto describe = [](uint64_t note) {
      return absl::StrCat(Name(static_cast<Operation>(note >> 56)), " of ",
                          note & ((1ull << 56) - 1), " bytes");
    };
    return absl::InternalError(absl::StrCat("the ranks have diverged: rank ", rank(), " is in ",
                                            describe(mine), ", rank ", peer, " in ",
                                            describe(theirs)));
  }

  // out = tree over ranks of floats [begin, begin + count) of the current slots.
  void SumSlots(float* out, size_t begin, size_t count) const {
    std::array<const float*, kCommRanksMax> parts = {};
    for (int r = 0; r < size(); ++r) {
      parts[r] = reinterpret_cast<const float*>(segment_->RoundSlot(r, round_)) + begin;
    }
    TreeSum(out, parts.data(), size(), count);
  }

  // Rank r sums the r-th part of the `count` floats that lie in the slots; one more round hands the
  // sums around. The same additions in the same order as SumSlots.
  absl::Status SumParts(uint64_t note, float* data, size_t count) {
    const auto part_begin = [&](int r) { return count * r / size(); };
    const size_t begin = part_begin(rank());
    const size_t mine = part_begin(rank() + 1) - begin;
    SumSlots(data + begin, begin, mine);
    TESSERA_RETURN_IF_ERROR(Round(note, data + begin, mine * sizeof(float)));
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
      std::memcpy(data + part_begin(r), segment_->RoundSlot(r, round_),
                  (part_begin(r + 1) - part_begin(r)) * sizeof(float));
    }
    return absl::OkStatus();
  }

  const std::unique_ptr<SharedSegment> segment_;
  GroupWait wait_;
  uint32_t round_ = 0;
  std::array<uint32_t, kCommRanksMax> sent_ = {};      // parts, to each peer
  std::array<uint32_t, kCommRanksMax> received_ = {};  // parts, from each peer
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> JoinSharedMemory(
    const CommOptions& options, Ops& ops, std::unique_ptr<SharedSegment> segment,
    const std::vector<ProcessIdentity>& peers) {
  auto communicator = std::make_unique<SharedMemoryCommunicator>(options.rank, options.size, ops,
                                                                 std::move(segment), peers);
  TESSERA_RETURN_IF_ERROR(communicator->Join(options.connect_deadline, options.call_deadline));
  return communicator;
}

}  // namespace tessera
