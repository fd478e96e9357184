// One request from submission to its end, seen from a front door: engine updates in, text deltas
// out, with stop strings told to the engine. Owned by an HTTP or gRPC session; Poll runs on that
// session's strand. Destroying it before the end cancels the request.

#ifndef TESSERA_COORDINATOR_API_GENERATION_H_
#define TESSERA_COORDINATOR_API_GENERATION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "coordinator/api/served_model.h"
#include "coordinator/api/validate.h"
#include "coordinator/engine/engine.h"
#include "coordinator/engine/request_stream.h"
#include "coordinator/sched/request.h"
#include "coordinator/text/text_stream.h"

namespace tessera::api {

struct Usage {
  uint32_t prompt_tokens = 0;
  uint32_t completion_tokens = 0;
  uint32_t cached_tokens = 0;
};

class Generation {
 public:
  // What is new since the last Poll.
  struct Delta {
    std::string text;                // valid UTF-8
    std::vector<int32_t> token_ids;  // all of them together are usage.completion_tokens
    // The rest only when finished.
    bool finished = false;
    absl::Status status;                        // not OK: how the request failed
    FinishReason reason = FinishReason::kStop;  // kStop or kLength when OK
    std::string stop_reason;                    // the stop string that matched
    Usage usage;
  };

  // Submits. `wake` is called on the engine thread whenever Poll has something; it must only
  // schedule. Whatever it holds lives until the engine lets go of the request.
  static absl::StatusOr<std::unique_ptr<Generation>> Start(Engine& engine, const ServedModel& model,
                                                           const GenerateParams& params,
                                                           std::shared_ptr<const Request> request,
                                                           std::function<void()> wake);
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  Delta Poll();
  const Request& request() const { return *request_; }

 private:
  Generation(Engine& engine, const GenerateParams& params, std::shared_ptr<const Request> request,
             std::shared_ptr<RequestStream> stream, text::TextStream text)
      : engine_(engine),
        stops_(params.stop),
        include_stop_(params.include_stop),
        request_(std::move(request)),
        stream_(std::move(stream)),
        text_(std::move(text)) {}
  void TakeTokens(absl::Span<const int32_t> tokens, Delta* delta);
  void TakeText(text::TextStream::Output output, Delta* delta);
  void Finish(const RequestUpdate& update, Delta* delta);

  Engine& engine_;
  const std::vector<std::string> stops_;
  const bool include_stop_;
  const std::shared_ptr<const Request> request_;
  const std::shared_ptr<RequestStream> stream_;
  text::TextStream text_;
  uint32_t tokens_ = 0;   // emitted in deltas
  bool stopped_ = false;  // a stop string matched; tokens_ is final
  std::string stop_reason_;
  bool finished_ = false;
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_GENERATION_H_
