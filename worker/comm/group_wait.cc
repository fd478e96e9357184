// Spinning wins about 50 us per wait over sleeping as long as the peer runs on another core, and
// loses everything when the peer waits for this one. So the spin is bounded, short from the start
// when the group has more ranks than this process has cores, and adapts: a spin that was in vain
// halves the next one, a wait that it covered makes it a quarter longer.

#include "worker/comm/group_wait.h"

#include <sched.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr auto kSpinMax = std::chrono::microseconds(200);    // a core for every rank
constexpr auto kSpinMin = std::chrono::microseconds(5);      // more ranks than cores
constexpr auto kSleepSlice = std::chrono::milliseconds(20);  // between looks at the peer's process
constexpr int kLooksPerClock = 64;                           // a clock read costs about as much

std::chrono::nanoseconds SpinMaxFor(int ranks) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  const bool known = sched_getaffinity(0, sizeof(cores), &cores) == 0;
  return known && CPU_COUNT(&cores) < ranks ? kSpinMin : kSpinMax;
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

absl::Status FailureStatus(uint32_t failure, absl::Duration deadline) {
  const int rank = static_cast<int>(failure & 0xff);
  switch (static_cast<GroupFailure>(failure >> 8)) {
    case GroupFailure::kAborted:
      return absl::UnavailableError(absl::StrCat("rank ", rank, " aborted the group"));
    case GroupFailure::kLeft:
      return absl::UnavailableError(absl::StrCat("rank ", rank, " has left the group"));
    case GroupFailure::kEnded:
      return absl::UnavailableError(absl::StrCat("the process of rank ", rank, " has ended"));
    case GroupFailure::kLate:
      break;
  }
  return absl::DeadlineExceededError(
      absl::StrCat("rank ", rank, " did not come within ", absl::FormatDuration(deadline)));
}

}  // namespace

GroupWait::GroupWait(SegmentHeader* header, int size, const std::vector<ProcessIdentity>& peers)
    : header_(header), size_(size), spin_max_(SpinMaxFor(size)), spin_(spin_max_) {
  for (const ProcessIdentity& peer : peers) peers_.push_back(std::make_unique<PeerProcess>(peer));
}

absl::Status GroupWait::For(FutexFlag& flag, uint32_t target, int peer) {
  const bool there = Reached(flag, target);
  const auto start = there ? SteadyClock::time_point() : SteadyClock::now();
  if (there || Spin(flag, target, start)) {
    spin_ = std::min<std::chrono::nanoseconds>(spin_max_, spin_ + spin_ / 4);
    return absl::OkStatus();
  }
  spin_ = std::max<std::chrono::nanoseconds>(kSpinMin, spin_ / 2);
  return Sleep(flag, target, peer, start);
}

bool GroupWait::Spin(const FutexFlag& flag, uint32_t target, SteadyClock::time_point start) const {
  do {
    for (int i = 0; i < kLooksPerClock; ++i) {
      Pause();
      if (Reached(flag, target)) return true;
    }
  } while (SteadyClock::now() - start < spin_);
  return false;
}

absl::Status GroupWait::Sleep(FutexFlag& flag, uint32_t target, int peer,
                              SteadyClock::time_point start) {
  const SteadyClock::time_point until = start + absl::ToChronoNanoseconds(deadline_);
  SteadyClock::time_point now = SteadyClock::now();
  bool look = false;  // a whole slice has passed
  for (;;) {
    // The process is looked at before the flag: what it did before it ended counts.
    const bool ended = look && peers_[peer]->Ended();
    if (Reached(flag, target)) return absl::OkStatus();
    absl::Status alive = Alive();
    if (!alive.ok()) return alive;
    if (ended) {
      Fail(GroupFailure::kEnded, peer);
    } else if (now >= until) {
      Fail(GroupFailure::kLate, peer);
    } else {
      SleepOn(flag, target, std::min(until, now + kSleepSlice));
      const SteadyClock::time_point after = SteadyClock::now();
      look = after - now >= kSleepSlice;
      now = after;
    }
  }
}

absl::Status GroupWait::Alive() const {
  const uint32_t failure = header_->failure.load(std::memory_order_acquire);
  return failure == 0 ? absl::OkStatus() : FailureStatus(failure, deadline_);
}

void GroupWait::Fail(GroupFailure what, int rank) {
  uint32_t none = 0;
  const uint32_t failure = static_cast<uint32_t>(what) << 8 | static_cast<uint32_t>(rank);
  header_->failure.compare_exchange_strong(none, failure);
  for (int r = 0; r < size_; ++r) {
    WakeAll(header_->joined[r]);
    WakeAll(header_->round[r]);
    for (int to = 0; to < size_; ++to) {
      WakeAll(header_->mail[r][to].sent);
      WakeAll(header_->mail[r][to].taken);
    }
  }
}

}  // namespace tessera
