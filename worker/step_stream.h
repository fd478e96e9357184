// The step stream of one assignment, with a queue at either end: a thread reads and parses the
// plans that come after the one being computed, another serializes and writes the results. The
// rank's thread takes and sends, so that between two steps it waits for nobody as long as the
// coordinator keeps a plan queued. Take and Send are the rank's thread's; the stream's end is
// noticed by either of the others and ends all three.
//
// A wait here ends when the stream does: with the assignment (which cancels it) or with the
// connection (keepalive, about three seconds).

#ifndef TESSERA_WORKER_STEP_STREAM_H_
#define TESSERA_WORKER_STEP_STREAM_H_

#include <grpcpp/support/sync_stream.h>

#include <cstddef>
#include <deque>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera {

class StepStream {
 public:
  using Wire = grpc::ClientReaderWriterInterface<cluster::v1::StepResult, cluster::v1::StepPlan>;

  // Parsed plans that wait for the rank, results that wait for the wire. Behind them the
  // connection's own flow control holds the coordinator back.
  static constexpr size_t kPlansQueuedMax = 4;
  static constexpr size_t kResultsQueuedMax = 16;

  // `wire` must outlive the stream, and nobody else may read or write it meanwhile.
  explicit StepStream(Wire& wire);
  // The wire must have ended, or have been cancelled: a read in progress is waited for.
  ~StepStream();
  StepStream(const StepStream&) = delete;
  StepStream& operator=(const StepStream&) = delete;

  // The next plan, in order; `plan`'s old memory is used again. False when the stream has ended;
  // plans that were still queued are then nobody's concern.
  bool Take(cluster::v1::StepPlan& plan) ABSL_LOCKS_EXCLUDED(mutex_);
  // Queues the result, leaving `result` empty. False when the stream has ended.
  bool Send(cluster::v1::StepResult& result) ABSL_LOCKS_EXCLUDED(mutex_);
  // Nothing follows: waits, `patience` at most, until what was sent is on the wire, and closes this
  // side of it.
  void CloseSending(absl::Duration patience) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void ReadLoop() ABSL_LOCKS_EXCLUDED(mutex_);
  void WriteLoop() ABSL_LOCKS_EXCLUDED(mutex_);

  Wire& wire_;
  absl::Mutex mutex_;
  std::deque<cluster::v1::StepPlan> plans_ ABSL_GUARDED_BY(mutex_);
  std::deque<cluster::v1::StepResult> results_ ABSL_GUARDED_BY(mutex_);
  // Spent messages, kept for their memory.
  std::vector<cluster::v1::StepPlan> spent_plans_ ABSL_GUARDED_BY(mutex_);
  std::vector<cluster::v1::StepResult> spent_results_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;  // no more results
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread reader_;
  std::thread writer_;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_STEP_STREAM_H_
