// Streaming a generation over gRPC, see generate_reactor.h.

#include "coordinator/api/grpc/generate_reactor.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/status.h"
#include "coordinator/api/grpc/call_end.h"
#include "coordinator/api/grpc/convert.h"

namespace tessera::api {

GenerateReactor::GenerateReactor(FrontDoor& door, SerialExecutor executor,
                                 absl::Duration write_deadline,
                                 grpc::CallbackServerContext* context, const char* method)
    : door_(door),
      executor_(std::move(executor)),
      write_deadline_(write_deadline),
      context_(context),
      record_(BeginCall(door, *context, method)),
      include_cost_(AsksForCost(*context)),
      body_lease_(door.bodies),
      write_timer_(executor_.strand()) {}

GenerateReactor* GenerateReactor::Launch(FrontDoor& door, SerialExecutor executor,
                                         absl::Duration write_deadline,
                                         grpc::CallbackServerContext* context, const char* method,
                                         size_t request_bytes, Prepare prepare) {
  auto reactor =
      std::make_shared<GenerateReactor>(door, std::move(executor), write_deadline, context, method);
  reactor->self_ = reactor;
  reactor->executor_.Post([reactor, request_bytes, prepare = std::move(prepare)] {
    reactor->Begin(request_bytes, prepare);
  });
  return reactor.get();
}

void GenerateReactor::Begin(size_t request_bytes, const Prepare& prepare) {
  if (cancelled_) return End(absl::CancelledError("the call was cancelled"));
  const absl::Status begun = TryBegin(request_bytes, prepare);
  if (!begun.ok()) End(begun);
}

absl::Status GenerateReactor::TryBegin(size_t request_bytes, const Prepare& prepare) {
  TESSERA_ASSIGN_OR_RETURN(const Caller caller, CallCaller(door_, *context_));
  record_.facts.tenant = caller.tenant;
  TESSERA_RETURN_IF_ERROR(body_lease_.GrowTo(request_bytes));
  TESSERA_ASSIGN_OR_RETURN(PreparedCall call, prepare(caller));
  call.params.deadline = CallDeadline(*context_);
  call.params.traceparent = record_.trace.ToTraceparent();
  record_.facts.model = call.model->name;
  TESSERA_ASSIGN_OR_RETURN(
      generation_,
      door_.Generate(*call.model, call.params, caller, std::move(call.prompt), record_.arrival,
                     "gen-", [weak = weak_from_this(), executor = executor_] {
                       executor.Post([weak] {
                         if (const auto alive = weak.lock()) alive->Pump();
                       });
                     }));
  record_.facts.generation = generation_->request().public_id;
  pending_.resize(generation_->request().sampling.num_choices);
  return absl::OkStatus();
}

void GenerateReactor::Pump() {
  if (ended_ || generation_ == nullptr) return;
  if (!finished_) {
    Generation::Delta delta = generation_->Poll();
    for (ChoiceDelta& choice : delta.choices) pending_[choice.choice].Append(std::move(choice));
    prompt_logprobs_.insert(prompt_logprobs_.end(),
                            std::make_move_iterator(delta.prompt_logprobs.begin()),
                            std::make_move_iterator(delta.prompt_logprobs.end()));
    finished_ = delta.finished;
    status_ = std::move(delta.status);
    usage_ = delta.usage;
    if (finished_) {
      cost_ = door_.CostOf(generation_->request(), usage_);
      AddUsage(usage_, &record_.facts);
    }
  }
  Send();
}

void GenerateReactor::Send() {
  if (ended_ || writing_) return;
  if (cancelled_) return End(absl::CancelledError("the call was cancelled"));
  if (sent_end_) return End(absl::OkStatus());
  const auto has_output = [](const ChoiceDelta& choice) { return !choice.empty(); };
  size_t chosen = pending_.size();
  for (size_t i = 0; i < pending_.size() && chosen == pending_.size(); ++i) {
    const size_t at = (turn_ + i) % pending_.size();
    if (!pending_[at].empty()) chosen = at;
  }
  if (chosen == pending_.size()) {
    if (finished_) End(status_);
    return;
  }
  turn_ = chosen + 1;
  ChoiceDelta delta = std::exchange(pending_[chosen], ChoiceDelta());
  // The last choice's end comes with the request's, so there is a message for the usage.
  sent_end_ =
      finished_ && status_.ok() && std::none_of(pending_.begin(), pending_.end(), has_output);
  writing_message_ = NextMessage(std::move(delta), sent_end_);
  writing_ = true;
  ArmWriteDeadline();
  StartWrite(&writing_message_);
}

v1::GenerateResponse GenerateReactor::NextMessage(ChoiceDelta delta, bool last) {
  const Request& request = generation_->request();
  v1::GenerateResponse message = ToProto(delta);
  message.set_id(request.public_id);
  message.set_model(record_.facts.model);
  if (std::exchange(first_, false)) {
    message.set_seed(request.sampling.seed);
    FillPromptLogprobs(request.prompt, std::exchange(prompt_logprobs_, {}), &message);
  }
  if (!last) return message;
  *message.mutable_usage() = ToProto(usage_);
  if (include_cost_ && cost_.has_value()) {
    *message.mutable_usage()->mutable_cost() = ToProto(*cost_);
  }
  return message;
}

void GenerateReactor::ArmWriteDeadline() {
  write_timer_.expires_after(absl::ToChronoNanoseconds(write_deadline_));
  write_timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const auto alive = weak.lock();
    if (error || alive == nullptr || !alive->writing_ || alive->ended_) return;
    if (alive->write_timer_.expiry() > std::chrono::steady_clock::now()) return;
    alive->context_->TryCancel();  // the client reads too slowly; OnCancel and OnWriteDone follow
  });
}

void GenerateReactor::OnWriteDone(bool ok) {
  executor_.Post([this, self = shared_from_this(), ok] {
    writing_ = false;
    write_timer_.cancel();
    if (!ok) cancelled_ = true;
    if (cancelled_) generation_.reset();
    Send();
  });
}

void GenerateReactor::OnCancel() {
  executor_.Post([this, self = shared_from_this()] {
    cancelled_ = true;
    generation_.reset();  // cancels the request
    Send();
  });
}

void GenerateReactor::OnDone() {
  // Locals: the posted work may be the last to hold this reactor, and run before Post returns.
  const std::shared_ptr<GenerateReactor> self = std::move(self_);
  const SerialExecutor executor = executor_;
  executor.Post([self] {
    self->write_timer_.cancel();
    self->generation_.reset();
    self->body_lease_.Release();
  });
}

void GenerateReactor::End(const absl::Status& status) {
  if (ended_) return;
  ended_ = true;
  write_timer_.cancel();
  if (status.ok() && cost_.has_value()) {
    for (const auto& [name, value] : CostHeaders(*cost_)) {
      context_->AddTrailingMetadata(name, value);
    }
  }
  Finish(EndCall(door_, *context_, record_, status));
}

}  // namespace tessera::api
