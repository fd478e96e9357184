// Streaming a generation over gRPC, see generate_reactor.h.

#include "coordinator/api/grpc/generate_reactor.h"

#include <utility>

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
      method_(method),
      request_id_(CallRequestId(door, *context)),
      arrival_(door.clock.Now()),
      write_timer_(executor_.strand()) {}

GenerateReactor* GenerateReactor::Launch(FrontDoor& door, SerialExecutor executor,
                                         absl::Duration write_deadline,
                                         grpc::CallbackServerContext* context, const char* method,
                                         Prepare prepare) {
  auto reactor =
      std::make_shared<GenerateReactor>(door, std::move(executor), write_deadline, context, method);
  reactor->self_ = reactor;
  reactor->executor_.Post([reactor, prepare = std::move(prepare)] { reactor->Begin(prepare); });
  return reactor.get();
}

void GenerateReactor::Begin(const Prepare& prepare) {
  if (cancelled_) return End(absl::CancelledError("the call was cancelled"));
  auto call = prepare();
  if (!call.ok()) return End(call.status());
  call->params.deadline = CallDeadline(*context_);
  model_ = call->model->name;
  auto generation = door_.Generate(*call->model, call->params, std::move(call->prompt), arrival_,
                                   "gen-", [weak = weak_from_this(), executor = executor_] {
                                     executor.Post([weak] {
                                       if (const auto alive = weak.lock()) alive->Pump();
                                     });
                                   });
  if (!generation.ok()) return End(generation.status());
  generation_ = *std::move(generation);
}

void GenerateReactor::Pump() {
  if (ended_ || generation_ == nullptr) return;
  if (!end_.finished) {
    Generation::Delta delta = generation_->Poll();
    pending_.mutable_text()->append(delta.text);
    pending_.mutable_token_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
    if (delta.finished) end_ = std::move(delta);
  }
  Send();
}

void GenerateReactor::Send() {
  if (ended_ || writing_) return;
  if (cancelled_) return End(absl::CancelledError("the call was cancelled"));
  if (sent_end_) return End(absl::OkStatus());
  const bool has_output = !pending_.text().empty() || pending_.token_ids_size() > 0;
  if (end_.finished && !end_.status.ok() && !has_output) return End(end_.status);
  if (!has_output && !end_.finished) return;
  if (end_.finished && end_.status.ok()) {
    FillEnd(end_, &pending_);
    sent_end_ = true;
  }
  pending_.set_id(generation_->request().public_id);
  pending_.set_model(model_);
  if (std::exchange(first_, false)) pending_.set_seed(generation_->request().sampling.seed);
  writing_message_ = std::exchange(pending_, v1::GenerateResponse());
  writing_ = true;
  ArmWriteDeadline();
  StartWrite(&writing_message_);
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
  });
}

void GenerateReactor::End(const absl::Status& status) {
  if (ended_) return;
  ended_ = true;
  write_timer_.cancel();
  Finish(EndCall(door_, *context_, method_, request_id_, status));
}

}  // namespace tessera::api
