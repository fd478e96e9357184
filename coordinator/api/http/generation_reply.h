// Connects a generation to the HTTP call it answers: one JSON object at the end, or server-sent
// events as text comes. Lives on the connection's strand, owned by the call; ends, and cancels,
// with it.

#ifndef TESSERA_COORDINATOR_API_HTTP_GENERATION_REPLY_H_
#define TESSERA_COORDINATOR_API_HTTP_GENERATION_REPLY_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/api/front_door.h"
#include "coordinator/api/http/http_call.h"
#include "coordinator/api/http/openai_request.h"
#include "coordinator/api/http/openai_response.h"

namespace tessera::api {

class GenerationReply : public std::enable_shared_from_this<GenerationReply> {
 public:
  // Submits the request and answers the call, now or as tokens come. `echo_text`: what the answer
  // begins with, set where the client asked for its prompt.
  static void Serve(FrontDoor& door, HttpCall& call, const ServedModel& model,
                    const OpenAiRequest& request, Prompt prompt, bool chat,
                    std::optional<std::string> echo_text);

  GenerationReply(const FrontDoor& door, HttpCall& call, bool stream)
      : door_(door), call_(call), stream_(stream) {}

 private:
  void Pump();
  void PumpStream();
  bool HasOutput() const;
  void Ping();
  std::string Failure() const;

  const FrontDoor& door_;
  HttpCall& call_;  // owns this
  const bool stream_;
  std::unique_ptr<Generation> generation_;
  std::unique_ptr<OpenAiAnswer> answer_;
  std::vector<ChoiceDelta> pending_;  // by choice, not sent yet; bounded by the request's limits
  bool finished_ = false;             // then:
  absl::Status status_;
  Usage usage_;
  std::optional<CostReport> cost_;
  bool opened_ = false;   // the opening chunk was sent
  bool closing_ = false;  // the last events were sent
  bool done_ = false;
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_HTTP_GENERATION_REPLY_H_
