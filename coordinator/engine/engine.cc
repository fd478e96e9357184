// The loop and its edges; see engine.h.

#include "coordinator/engine/engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/engine/retry_after.h"

namespace tessera {
namespace {

absl::Status NoSuchModel(uint32_t model) {
  return absl::NotFoundError(absl::StrCat("there is no model number ", model));
}

}  // namespace

Engine::Engine(SchedulerOptions options, StepExecutor& executor, const Clock& clock,
               Metrics& metrics, WaitingLimits limits, Ledger ledger)
    : executor_(executor),
      clock_(clock),
      metrics_(metrics),
      limits_{.requests_max = options.waiting_max,
              .tokens_max = limits.tokens_max,
              .bytes_max = limits.bytes_max},
      inbox_(limits_),
      scheduler_(std::move(options)),
      ledger_(std::move(ledger)),
      outbox_(metrics, ledger_),
      meter_(metrics),
      stats_(scheduler_.Stats()),
      return_times_(stats_.models.size()) {}

Engine::~Engine() { Stop(); }

void Engine::Start() {
  TESSERA_CHECK(!thread_.joinable() && !stopping_) << "an engine starts once";
  thread_ = std::thread([this] { Run(); });
}

void Engine::Run() {
  while (!stopping_) Turn(UntilWakeup());
}

void Engine::Turn(absl::Duration limit) {
  for (InboxItem& item : inbox_.WaitAndDrain(limit)) Take(std::move(item));
  const absl::Time now = clock_.Now();
  for (cluster::v1::StepPlan& plan : scheduler_.Schedule(now)) {
    ledger_.OnPlan(plan, now);
    executor_.Submit(std::move(plan));
  }
  scheduler_.TakeUpdates(updates_);
  Publish(now);
  if (now < ledger_due_) return;
  ledger_.Settle(scheduler_, now);
  ledger_due_ = now + kLedgerInterval;
}

void Engine::Publish(absl::Time now) {
  Settle(outbox_.Publish(absl::MakeSpan(updates_), now));
  ledger_.OnClosed(scheduler_.TakeAccounts());
}

absl::Duration Engine::UntilWakeup() const {
  return std::clamp(NextWakeup() - clock_.Now(), absl::ZeroDuration(), kEngineWaitMax);
}

void Engine::Take(InboxItem item) {
  const absl::Time now = clock_.Now();
  if (item.stream != nullptr) {
    outbox_.Open(std::get<NewRequest>(item.event).request, std::move(item.stream));
  }
  meter_.Observe(item.event, now);
  scheduler_.Apply(item.event, now);
  ledger_.Observe(item.event, scheduler_, now);
}

void Engine::Settle(const TurnOutcome& outcome) {
  SchedulerStats stats = scheduler_.Stats();
  meter_.Observe(stats);
  inbox_.Settle(stats.waiting, outcome.begun);
  absl::MutexLock lock(&mutex_);
  stats_ = std::move(stats);
  open_requests_ -= outcome.ended;
}

void Engine::Stop() {
  if (stopping_.exchange(true)) return;
  inbox_.Push(Tick{});
  if (thread_.joinable()) thread_.join();
  const absl::Time now = clock_.Now();
  const absl::Status status = absl::UnavailableError("the server is shutting down");
  // What the scheduler knows of ends there, so that what it has used is on record.
  for (const RequestId id : outbox_.open()) {
    scheduler_.Apply(Cancel{.request = id, .reason = FinishReason::kError}, now);
  }
  scheduler_.TakeUpdates(updates_);
  for (RequestUpdate& update : updates_) {
    if (update.finished) update.details.Make().error = status;
  }
  Publish(now);
  for (InboxItem& item : inbox_.Close()) {
    if (item.stream == nullptr) continue;
    outbox_.Open(std::get<NewRequest>(item.event).request, std::move(item.stream));
  }
  Settle(outbox_.CloseAll(status, now));
  ledger_.Settle(scheduler_, now);
  ledger_.CloseAll();
}

RequestId Engine::NextRequestId() { return next_request_id_.fetch_add(1); }

bool Engine::HasGroup(uint32_t model) const {
  const absl::Time since = clock_.Now() - kRecoveryGrace;
  return std::any_of(stats_.groups.begin(), stats_.groups.end(), [&](const GroupStats& group) {
    return group.model == model && (group.ready || group.last_progress >= since);
  });
}

absl::Status Engine::Refuse(uint32_t model, const std::string& tenant, Refusal refusal) {
  const char* reason = FinishReasonName(FinishReason::kRejected);
  metrics_.CountFinished(model, reason);
  metrics_.CountTenantFinished(tenant, reason);
  metrics_.CountRejected(model, RefusalName(refusal));
  absl::Status status = RefusalStatus(refusal, limits_);
  if (!absl::IsResourceExhausted(status)) return status;
  const int64_t waiting = inbox_.waiting();
  absl::MutexLock lock(&mutex_);
  return WithRetryAfter(std::move(status),
                        return_times_[model].Next(stats_.models[model], waiting, clock_.Now()));
}

absl::Status Engine::CheckRoom(uint32_t model, const std::string& tenant) {
  Refusal refusal = inbox_.Check();
  {
    absl::MutexLock lock(&mutex_);
    if (model >= stats_.models.size()) return NoSuchModel(model);
    if (!HasGroup(model)) refusal = Refusal::kNoReadyGroup;
  }
  return refusal == Refusal::kNone ? absl::OkStatus() : Refuse(model, tenant, refusal);
}

absl::Status Engine::Submit(std::shared_ptr<const Request> request,
                            std::shared_ptr<RequestStream> stream) {
  TESSERA_CHECK(request != nullptr && stream != nullptr);
  const uint32_t model = request->model;
  bool has_group = false;
  {
    absl::MutexLock lock(&mutex_);
    if (model >= stats_.models.size()) return NoSuchModel(model);
    has_group = HasGroup(model);
    if (has_group) ++open_requests_;
  }
  if (!has_group) return Refuse(model, request->tenant, Refusal::kNoReadyGroup);
  const Refusal refusal = inbox_.PushRequest(NewRequest{request}, std::move(stream));
  if (refusal == Refusal::kNone) return absl::OkStatus();
  {
    absl::MutexLock lock(&mutex_);
    --open_requests_;
  }
  return Refuse(model, request->tenant, refusal);
}

void Engine::CancelRequest(RequestId request, FinishReason reason) {
  inbox_.Push(Cancel{.request = request, .reason = reason});
}

void Engine::StopAt(RequestId request, uint32_t choice, uint32_t index) {
  inbox_.Push(TextStop{.request = request, .choice = choice, .index = index});
}

void Engine::EndText(RequestId request, uint32_t choice) {
  inbox_.Push(TextEnd{.request = request, .choice = choice});
}

void Engine::Post(Event event) { inbox_.Push(std::move(event)); }

void Engine::BeginDrain() { inbox_.BeginDrain(); }

bool Engine::WaitUntilIdle(absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(this, &Engine::IsIdle), limit);
}

SchedulerStats Engine::Stats() const {
  absl::MutexLock lock(&mutex_);
  return stats_;
}

}  // namespace tessera
