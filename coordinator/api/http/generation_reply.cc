// Answering from a generation, see generation_reply.h.

#include "coordinator/api/http/generation_reply.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

// A stream that has nothing to say says this, so that proxies and clients keep it open.
constexpr absl::Duration kPingInterval = absl::Seconds(15);
constexpr char kPing[] = ": ping\n\n";

}  // namespace

void GenerationReply::Serve(FrontDoor& door, HttpCall& call, const ServedModel& model,
                            const OpenAiRequest& request, std::vector<int32_t> prompt, bool chat) {
  auto reply = std::make_shared<GenerationReply>(call, request.stream);
  const std::weak_ptr<GenerationReply> weak = reply;
  const auto pump = [weak] {
    if (const auto alive = weak.lock()) alive->Pump();
  };
  auto generation = door.Generate(model, request.params, std::move(prompt), call.request().arrival,
                                  chat ? "chatcmpl-" : "cmpl-",
                                  [executor = call.executor(), pump] { executor.Post(pump); });
  if (!generation.ok()) return call.ReplyError(generation.status());
  reply->generation_ = *std::move(generation);
  reply->answer_ = std::make_unique<OpenAiAnswer>(
      chat, reply->generation_->request().public_id, model.name,
      absl::ToUnixSeconds(call.request().arrival), request.include_usage);
  call.SetProducer(reply, pump);
  if (request.stream) reply->Ping();
}

void GenerationReply::Pump() {
  if (done_) return;
  if (!end_.finished) {
    Generation::Delta delta = generation_->Poll();
    text_ += delta.text;
    if (delta.finished) end_ = std::move(delta);
  }
  if (stream_) return PumpStream();
  if (!end_.finished) return;
  done_ = true;
  if (!end_.status.ok()) return call_.ReplyError(end_.status);
  call_.Reply({.status = 200, .body = answer_->Whole(text_, end_)});
}

void GenerationReply::PumpStream() {
  if (text_.empty() && !end_.finished) return;
  // Until the first text a failure can still be told by the HTTP status.
  if (end_.finished && !end_.status.ok() && !call_.streaming()) {
    done_ = true;
    return call_.ReplyError(end_.status);
  }
  // Each write calls Pump again when it has gone out; what came meanwhile goes in one piece.
  if (!call_.writable()) return;
  if (!call_.streaming()) return call_.BeginStream("text/event-stream; charset=utf-8");
  if (closing_) {
    done_ = true;
    return call_.EndStream();
  }
  std::string events;
  if (!std::exchange(opened_, true)) events += answer_->Opening();
  if (!text_.empty()) events += answer_->Text(std::exchange(text_, ""));
  if (end_.finished) {
    closing_ = true;
    events += end_.status.ok() ? answer_->Closing(end_) : Failure();
  }
  call_.Write(std::move(events));
}

// A failure in the middle of a stream: an event of its own, and no [DONE].
std::string GenerationReply::Failure() const {
  const std::string& request_id = call_.request().request_id;
  if (RowOf(end_.status.code()).internal) {
    spdlog::error("request {} {} failed: {}", request_id, call_.route(), end_.status.ToString());
  }
  return SseEvent(ErrorJson(end_.status, request_id));
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
        call.BeginStream("text/event-stream; charset=utf-8");
      }
    }
    alive->Ping();
  });
}

}  // namespace tessera::api
