// The engine: one thread that owns the scheduler, a bounded inbox in front of it, an outbox behind
// it. Front doors submit and cancel from any thread; the cluster posts results from its own.

#ifndef TESSERA_COORDINATOR_ENGINE_ENGINE_H_
#define TESSERA_COORDINATOR_ENGINE_ENGINE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/engine/admission.h"
#include "coordinator/engine/inbox.h"
#include "coordinator/engine/outbox.h"
#include "coordinator/engine/request_stream.h"
#include "coordinator/engine/step_meter.h"
#include "coordinator/ledger/book/ledger.h"
#include "coordinator/sched/event.h"
#include "coordinator/sched/scheduler.h"
#include "coordinator/sched/step_executor.h"
#include "coordinator/telemetry/metrics.h"

namespace tessera {

// The loop looks around at least this often, whatever the scheduler expects.
inline constexpr absl::Duration kEngineWaitMax = absl::Seconds(1);

class Engine {
 public:
  // The executor, the clock and the metrics must outlive the engine. limits.requests_max is taken
  // from options.waiting_max.
  Engine(SchedulerOptions options, StepExecutor& executor, const Clock& clock, Metrics& metrics,
         WaitingLimits limits = {}, Ledger ledger = Ledger({}, {}));
  ~Engine();

  void Start();
  // Stops the thread; requests still open end with kError UNAVAILABLE, later ones are refused. For
  // the thread that owns the engine; a second call does nothing.
  void Stop();

  // One turn of the loop: waits up to `limit` of real time for events, applies them, sends plans,
  // hands out updates. What the thread of Start repeats; a simulator calls it itself, with no limit
  // to wait, and starts nothing.
  void Turn(absl::Duration limit) ABSL_LOCKS_EXCLUDED(mutex_);
  // When the next turn is due even if nothing happens. For the thread that calls Turn.
  absl::Time NextWakeup() const { return scheduler_.NextWakeup(); }

  RequestId NextRequestId();
  // Whether a request of this model has a chance to be taken now, with the status and the counting
  // of Submit. Asked before the work of tokenizing; takes no place.
  absl::Status CheckRoom(uint32_t model, const std::string& tenant) ABSL_LOCKS_EXCLUDED(mutex_);
  // Takes a request or refuses it before any work: RESOURCE_EXHAUSTED, naming the bound and with a
  // Retry-After (retry_after.h), when the queue is full; UNAVAILABLE while draining or when the
  // model has no group that is ready or expected back. Any thread.
  absl::Status Submit(std::shared_ptr<const Request> request, std::shared_ptr<RequestStream> stream)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Any thread; unknown or finished requests are ignored.
  void CancelRequest(RequestId request, FinishReason reason);
  void StopAt(RequestId request, uint32_t choice, uint32_t index);  // a stop string matched
  void EndText(RequestId request, uint32_t choice);  // none did, in the whole text of the choice
  // From the cluster: StepDone, GroupReady, GroupLost. From main: SetTenants.
  void Post(Event event);
  // Stops admission; what was taken finishes.
  void BeginDrain();
  // True once every request that was taken has ended, false when `limit` has passed before.
  bool WaitUntilIdle(absl::Duration limit) ABSL_LOCKS_EXCLUDED(mutex_);

  // A snapshot for /readyz, metrics and tests; any thread.
  SchedulerStats Stats() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run();
  // How long nothing will happen unless an event comes.
  absl::Duration UntilWakeup() const;
  void Take(InboxItem item);
  // Hands out what the scheduler has to tell.
  void Publish(absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  // Makes the outcome of a turn visible to other threads.
  void Settle(const TurnOutcome& outcome) ABSL_LOCKS_EXCLUDED(mutex_);
  // A group of the model is ready, or was a short while ago and is expected back.
  bool HasGroup(uint32_t model) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // Counts a refusal before any work and says when to come back.
  absl::Status Refuse(uint32_t model, const std::string& tenant, Refusal refusal)
      ABSL_LOCKS_EXCLUDED(mutex_);
  bool IsIdle() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return open_requests_ == 0; }

  StepExecutor& executor_;
  const Clock& clock_;
  Metrics& metrics_;
  const WaitingLimits limits_;
  Inbox inbox_;
  std::atomic<RequestId> next_request_id_{1};
  std::atomic<bool> stopping_{false};

  // Engine thread only.
  Scheduler scheduler_;
  Ledger ledger_;
  absl::Time ledger_due_ = absl::InfinitePast();
  Outbox outbox_;
  StepMeter meter_;
  std::vector<RequestUpdate> updates_;  // of this turn

  std::thread thread_;
  mutable absl::Mutex mutex_;
  SchedulerStats stats_ ABSL_GUARDED_BY(mutex_);
  std::vector<ReturnTimes> return_times_ ABSL_GUARDED_BY(mutex_);  // by model
  int64_t open_requests_ ABSL_GUARDED_BY(mutex_) = 0;              // taken, not ended
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_ENGINE_ENGINE_H_
