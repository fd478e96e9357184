// One meeting per operation: everybody lays out a pointer, waits for the others, reads what it
// needs, and waits again before the pointers become stale. Failure of one rank wakes and fails all.

#include "worker/comm/loopback.h"

#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "worker/comm/host_communicator.h"
#include "worker/comm/tree_sum.h"

namespace tessera {
namespace {

// A message of Send, waiting for its receiver. The sender stays until it is taken.
struct Mail {
  const char* data = nullptr;
  size_t bytes = 0;
  bool full = false;
};

class LoopbackGroup {
 public:
  LoopbackGroup(int size, absl::Duration deadline) : size_(size), deadline_(deadline) {}

  int size() const { return size_; }

  // Waits until all ranks have come as often as this one.
  absl::Status Meet(int rank) {
    absl::MutexLock lock(&mutex_);
    return MeetLocked(rank);
  }

  // Lays out this rank's pointer and meets the others; then every pointer can be read until the
  // next Meet.
  absl::Status MeetWith(int rank, const void* data) {
    absl::MutexLock lock(&mutex_);
    pointers_[rank] = static_cast<const char*>(data);
    return MeetLocked(rank);
  }

  const char* pointer(int rank) {
    absl::MutexLock lock(&mutex_);
    return pointers_[rank];
  }

  absl::Status Put(int from, int to, const char* data, size_t bytes) {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    Mail& mail = mail_[from][to];
    mail = {data, bytes, true};
    signal_.SignalAll();
    return WaitLocked(to, [&]() { return !mail.full; });
  }

  absl::Status Take(int from, int to, char* data, size_t bytes) {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    Mail& mail = mail_[from][to];
    TESSERA_RETURN_IF_ERROR(WaitLocked(from, [&]() { return mail.full; }));
    if (mail.bytes != bytes) {
      FailLocked(
          absl::InternalError(absl::StrCat("the ranks have diverged: rank ", from, " sends ",
                                           mail.bytes, " bytes, rank ", to, " expects ", bytes)));
      return failure_;
    }
    if (bytes > 0) std::memcpy(data, mail.data, bytes);
    mail.full = false;
    signal_.SignalAll();
    return absl::OkStatus();
  }

  void Fail(absl::Status why) {
    absl::MutexLock lock(&mutex_);
    FailLocked(std::move(why));
  }

 private:
  absl::Status MeetLocked(int rank) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!failure_.ok()) return failure_;
    const uint64_t goal = ++arrived_[rank];
    signal_.SignalAll();
    for (int peer = 0; peer < size_; ++peer) {
      TESSERA_RETURN_IF_ERROR(
          WaitLocked(peer, [&arrived = arrived_[peer], goal]() { return arrived >= goal; }));
    }
    return absl::OkStatus();
  }

  void FailLocked(absl::Status why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (failure_.ok()) failure_ = std::move(why);
    signal_.SignalAll();
  }

  template <typename Ready>
  absl::Status WaitLocked(int peer, Ready ready) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const absl::Time until = absl::Now() + deadline_;
    while (!ready()) {
      if (!failure_.ok()) return failure_;
      if (signal_.WaitWithDeadline(&mutex_, until) && !ready()) {
        FailLocked(absl::DeadlineExceededError(
            absl::StrCat("rank ", peer, " did not come within ", absl::FormatDuration(deadline_))));
      }
    }
    return absl::OkStatus();
  }

  const int size_;
  const absl::Duration deadline_;
  absl::Mutex mutex_;
  absl::CondVar signal_;
  std::array<const char*, kCommRanksMax> pointers_ ABSL_GUARDED_BY(mutex_) = {};
  std::array<uint64_t, kCommRanksMax> arrived_ ABSL_GUARDED_BY(mutex_) = {};
  std::array<std::array<Mail, kCommRanksMax>, kCommRanksMax> mail_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

class Loopback final : public HostCommunicator {
 public:
  Loopback(int rank, std::shared_ptr<LoopbackGroup> group, Ops& ops)
      : HostCommunicator(rank, group->size(), ops), group_(std::move(group)) {}
  ~Loopback() override {
    group_->Fail(absl::UnavailableError(absl::StrCat("rank ", rank(), " has left the group")));
  }

  void Abort() override {
    group_->Fail(absl::UnavailableError(absl::StrCat("rank ", rank(), " aborted the group")));
  }

 protected:
  absl::Status DoAllReduce(float* data, size_t n) override {
    if (size() == 1) return group_->MeetWith(rank(), data);
    sum_.resize(n);
    TESSERA_RETURN_IF_ERROR(group_->MeetWith(rank(), data));
    std::array<const float*, kCommRanksMax> parts = {};
    for (int r = 0; r < size(); ++r) {
      parts[r] = reinterpret_cast<const float*>(group_->pointer(r));
    }
    TreeSum(sum_.data(), parts.data(), size(), n);
    TESSERA_RETURN_IF_ERROR(group_->Meet(rank()));
    if (n > 0) std::memcpy(data, sum_.data(), n * sizeof(float));
    return absl::OkStatus();
  }

  absl::Status DoAllGather(char* out, const char* in, size_t bytes) override {
    TESSERA_RETURN_IF_ERROR(group_->MeetWith(rank(), in));
    for (int r = 0; r < size() && bytes > 0; ++r) {
      std::memmove(out + r * bytes, group_->pointer(r), bytes);  // `in` may be that place
    }
    return group_->Meet(rank());
  }

  absl::Status DoBroadcast(char* data, size_t bytes, int root) override {
    TESSERA_RETURN_IF_ERROR(group_->MeetWith(rank(), data));
    if (rank() != root && bytes > 0) std::memcpy(data, group_->pointer(root), bytes);
    return group_->Meet(rank());
  }

  absl::Status DoSend(const char* data, size_t bytes, int peer) override {
    return group_->Put(rank(), peer, data, bytes);
  }
  absl::Status DoReceive(char* data, size_t bytes, int peer) override {
    return group_->Take(peer, rank(), data, bytes);
  }
  absl::Status DoBarrier() override { return group_->Meet(rank()); }

 private:
  const std::shared_ptr<LoopbackGroup> group_;
  std::vector<float> sum_;  // of the running all-reduce; kept for its capacity
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> NewLoopback(const std::vector<Ops*>& ops,
                                                       absl::Duration call_deadline) {
  auto group = std::make_shared<LoopbackGroup>(static_cast<int>(ops.size()), call_deadline);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (size_t r = 0; r < ops.size(); ++r) {
    ranks.push_back(std::make_unique<Loopback>(static_cast<int>(r), group, *ops[r]));
  }
  return ranks;
}

}  // namespace tessera
