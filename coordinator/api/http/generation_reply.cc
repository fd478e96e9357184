// Answering from a generation, see generation_reply.h.

#include "coordinator/api/http/generation_reply.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

// A stream that has nothing to say says this, so that proxies and clients keep it open.
constexpr absl::Duration kPingInterval = absl::Seconds(15);
constexpr char kPing[] = ": ping\n\n";
constexpr char kEventStream[] = "text/event-stream; charset=utf-8";

}  // namespace

void GenerationReply::Serve(FrontDoor& door, HttpCall& call, const ServedModel& model,
                            const OpenAiRequest& request, Prompt prompt, bool chat,
                            std::optional<std::string> echo_text) {
  auto reply = std::make_shared<GenerationReply>(door, call, request.stream);
  const std::weak_ptr<GenerationReply> weak = reply;
  const auto pump = [weak] {
    if (const auto alive = weak.lock()) alive->Pump();
  };
  auto generation = door.Generate(model, request.params, call.request().caller, std::move(prompt),
                                  call.request().arrival, chat ? "chatcmpl-" : "cmpl-",
                                  [executor = call.executor(), pump] { executor.Post(pump); });
  if (!generation.ok()) return call.ReplyError(generation.status());
  const Request& made = (*generation)->request();
  call.facts().model = model.name;
  call.facts().generation = made.public_id;
  reply->generation_ = *std::move(generation);
  reply->pending_.resize(made.sampling.num_choices);
  AnswerShape shape;
  shape.chat = chat;
  shape.id = made.public_id;
  shape.model = model.name;
  shape.created = absl::ToUnixSeconds(call.request().arrival);
  shape.seed = made.sampling.seed;
  shape.usage_in_chunks = request.include_usage;
  shape.include_cost = request.include_cost;
  shape.choices = static_cast<uint32_t>(request.params.answers());
  shape.top_logprobs = request.params.top_logprobs;
  shape.prompt_logprobs = request.params.prompt_logprobs;
  shape.echo = echo_text.has_value();
  shape.prompt_text = std::move(echo_text).value_or("");
  if (made.sampling.prompt_logprobs > 0) shape.prompt = made.prompt;
  shape.tokenizer = model.tokenizer;
  reply->answer_ = std::make_unique<OpenAiAnswer>(std::move(shape));
  call.SetProducer(reply, pump);
  if (request.stream) reply->Ping();
}

void GenerationReply::Pump() {
  if (done_) return;
  if (!finished_) {
    Generation::Delta delta = generation_->Poll();
    for (ChoiceDelta& choice : delta.choices) pending_[choice.choice].Append(std::move(choice));
    answer_->AddPromptLogprobs(std::move(delta.prompt_logprobs));
    finished_ = delta.finished;
    status_ = std::move(delta.status);
    usage_ = delta.usage;
    if (finished_) {
      cost_ = door_.CostOf(generation_->request(), usage_);
      AddUsage(usage_, &call_.facts());
    }
  }
  if (stream_) return PumpStream();
  if (!finished_) return;
  done_ = true;
  if (!status_.ok()) return call_.ReplyError(status_);
  HttpReply reply = {.status = 200, .body = answer_->Whole(std::move(pending_), usage_, cost_)};
  if (cost_.has_value()) reply.headers = CostHeaders(*cost_);
  call_.Reply(std::move(reply));
}

bool GenerationReply::HasOutput() const {
  return std::any_of(pending_.begin(), pending_.end(),
                     [](const ChoiceDelta& choice) { return !choice.empty(); });
}

void GenerationReply::PumpStream() {
  if (!HasOutput() && !finished_) return;
  // Until the first text a failure can still be told by the HTTP status.
  if (finished_ && !status_.ok() && !call_.streaming()) {
    done_ = true;
    return call_.ReplyError(status_);
  }
  // Each write calls Pump again when it has gone out; what came meanwhile goes in one piece.
  if (!call_.writable()) return;
  if (!call_.streaming()) return call_.BeginStream(kEventStream);
  if (closing_) {
    done_ = true;
    return call_.EndStream();
  }
  std::string events;
  if (!std::exchange(opened_, true)) events += answer_->Opening();
  for (ChoiceDelta& choice : pending_) {
    if (!choice.empty()) events += answer_->Chunks(std::exchange(choice, ChoiceDelta()));
  }
  if (finished_) {
    closing_ = true;
    events += status_.ok() ? answer_->Closing(usage_, cost_) : Failure();
  }
  // Tokens may have come whose text has not.
  if (!events.empty()) call_.Write(std::move(events));
}

// A failure in the middle of a stream: an event of its own, and no [DONE].
std::string GenerationReply::Failure() const {
  const std::string& request_id = call_.request().request_id;
  if (RowOf(status_.code()).internal) {
    spdlog::error("request {} {} failed: {}", request_id, call_.route(), status_.ToString());
  }
  return SseEvent(ErrorJson(status_, request_id));
}

void GenerationReply::Ping() {
  call_.SetTimer(kPingInterval, [weak = weak_from_this()] {
    const auto alive = weak.lock();
    if (alive == nullptr || alive->done_) return;
    HttpCall& call = alive->call_;
    if (call.writable()) {
      if (call.streaming()) {
        call.Write(kPing);
      } else {
        call.BeginStream(kEventStream);
      }
    }
    alive->Ping();
  });
}

}  // namespace tessera::api
