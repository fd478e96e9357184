// Watches an NCCL communicator from a thread of its own: asynchronous errors, and work that does
// not end in time. Either aborts the communicator, which frees the stream that waits for it. One
// per communicator; Abort from any thread.

#ifndef TESSERA_WORKER_COMM_NCCL_WATCH_H_
#define TESSERA_WORKER_COMM_NCCL_WATCH_H_

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/comm/nccl_library.h"

namespace tessera {

class NcclWatch {
 public:
  // Takes over `comm` and `last`, an event that is recorded behind every collective.
  NcclWatch(std::shared_ptr<const NcclLibrary> nccl, ncclComm_t comm, cudaEvent_t last, int device,
            absl::Duration deadline);
  ~NcclWatch();

  // Queues a collective: `call` gets the communicator, and runs while nobody can abort it. Then
  // records the event on `stream`. What failed before, or what fails now.
  absl::Status Queue(cudaStream_t stream, absl::string_view what,
                     const std::function<ncclResult_t(ncclComm_t)>& call);
  // Waits for the stream as long as the deadline allows.
  absl::Status Wait(cudaStream_t stream, absl::string_view what);
  // What has failed, or OK.
  absl::Status Alive();
  void Abort(absl::Status why);

 private:
  void Run();
  void AbortLocked(absl::Status why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<const NcclLibrary> nccl_;
  const ncclComm_t comm_;
  const cudaEvent_t last_;
  const int device_;
  const absl::Duration deadline_;

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;  // the event may not have come yet
  absl::Time queued_ ABSL_GUARDED_BY(mutex_);  // the last collective
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;  // started last, joined first
};

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_NCCL_WATCH_H_
