// See the header.

#include "worker/comm/nccl_watch.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"

namespace tessera {
namespace {

// Between two looks of the watcher.
constexpr absl::Duration kLook = absl::Milliseconds(10);
// Between two looks of a rank that waits: short at first, then kinder to the core.
constexpr absl::Duration kSpin = absl::Microseconds(200);
constexpr absl::Duration kNap = absl::Microseconds(50);

}  // namespace

NcclWatch::NcclWatch(std::shared_ptr<const NcclLibrary> nccl, ncclComm_t comm, cudaEvent_t last,
                     int device, absl::Duration deadline)
    : nccl_(std::move(nccl)),
      comm_(comm),
      last_(last),
      device_(device),
      deadline_(deadline),
      thread_([this] { Run(); }) {}

NcclWatch::~NcclWatch() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
  {
    // Destroying would wait for peers that may be gone; aborting frees the same memory.
    absl::MutexLock lock(&mutex_);
    AbortLocked(absl::UnavailableError("this rank has left the group"));
  }
  cudaEventDestroy(last_);
}

void NcclWatch::AbortLocked(absl::Status why) {
  if (!failure_.ok()) return;
  failure_ = std::move(why);
  nccl_->abort(comm_);
}

void NcclWatch::Abort(absl::Status why) {
  absl::MutexLock lock(&mutex_);
  AbortLocked(std::move(why));
}

absl::Status NcclWatch::Alive() {
  absl::MutexLock lock(&mutex_);
  return failure_;
}

absl::Status NcclWatch::Queue(cudaStream_t stream, absl::string_view what,
                              const std::function<ncclResult_t(ncclComm_t)>& call) {
  const absl::Time until = absl::Now() + deadline_;
  absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  ncclResult_t result = call(comm_);
  // A communicator that does not block may still be connecting to a peer for the first time.
  while (result == ncclInProgress && absl::Now() < until && failure_.ok()) {
    mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kNap);
    if (!failure_.ok()) return failure_;
    const ncclResult_t asked = nccl_->async_error(comm_, &result);
    if (asked != ncclSuccess) result = asked;
  }
  absl::Status status = nccl_->Check(result, what);
  if (status.ok() && result == ncclInProgress) {
    status = absl::DeadlineExceededError(
        absl::StrCat("a peer did not come to ", what, " within ", absl::FormatDuration(deadline_)));
  }
  if (status.ok() && cudaEventRecord(last_, stream) != cudaSuccess) {
    status = absl::InternalError(
        absl::StrCat("CUDA cannot follow NCCL's work: ", cudaGetErrorString(cudaGetLastError())));
  }
  if (!status.ok()) {
    AbortLocked(status);
    return status;
  }
  busy_ = true;
  queued_ = absl::Now();
  return absl::OkStatus();
}

absl::Status NcclWatch::Wait(cudaStream_t stream, absl::string_view what) {
  const absl::Time begin = absl::Now();
  while (true) {
    const cudaError_t state = cudaStreamQuery(stream);
    if (state == cudaSuccess) return Alive();
    if (state != cudaErrorNotReady) {
      cudaGetLastError();
      return absl::InternalError(
          absl::StrCat("CUDA failed while ", what, ": ", cudaGetErrorString(state)));
    }
    const absl::Time now = absl::Now();
    if (now - begin > deadline_) {
      Abort(absl::DeadlineExceededError(absl::StrCat("a peer did not come to ", what, " within ",
                                                     absl::FormatDuration(deadline_))));
    }
    // Once aborted the stream runs out soon; a second deadline is for one that does not.
    if (now - begin > 2 * deadline_) return Alive();
    if (now - begin > kSpin) absl::SleepFor(kNap);
  }
}

void NcclWatch::Run() {
  cudaSetDevice(device_);
  absl::MutexLock lock(&mutex_);
  while (!mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kLook)) {
    if (!failure_.ok()) continue;
    ncclResult_t state = ncclSuccess;
    ncclResult_t asked = nccl_->async_error(comm_, &state);
    if (asked == ncclSuccess) asked = state;
    const absl::Status status = nccl_->Check(asked, "reach the other ranks");
    if (!status.ok()) {
      AbortLocked(absl::UnavailableError(status.message()));
      continue;
    }
    if (!busy_) continue;
    const cudaError_t event = cudaEventQuery(last_);
    if (event == cudaErrorNotReady) {
      if (absl::Now() - queued_ > deadline_) {
        AbortLocked(absl::DeadlineExceededError(
            absl::StrCat("a collective did not end within ", absl::FormatDuration(deadline_))));
      }
      continue;
    }
    if (event != cudaSuccess) cudaGetLastError();  // the engine hears of it when it synchronizes
    busy_ = false;
  }
}

}  // namespace tessera
