// One request from submission to its end, seen from a front door: engine updates in, text deltas of
// each choice out, with stop strings told to the engine. Owned by an HTTP or gRPC session; Poll
// runs on that session's strand. Destroying it before the end cancels the request.

#ifndef TESSERA_COORDINATOR_API_GENERATION_H_
#define TESSERA_COORDINATOR_API_GENERATION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/api/audit.h"
#include "coordinator/api/lost_models.h"
#include "coordinator/api/served_model.h"
#include "coordinator/api/validate.h"
#include "coordinator/engine/engine.h"
#include "coordinator/engine/request_stream.h"
#include "coordinator/sched/request.h"
#include "coordinator/sched/work.h"
#include "coordinator/tenants/tenant_limits.h"
#include "coordinator/text/text_stream.h"

namespace tessera::api {

struct Usage {
  uint32_t prompt_tokens = 0;
  // Of all choices, also those that best_of leaves out; 0 with GenerateParams::prompt_only.
  uint32_t completion_tokens = 0;
  uint32_t cached_tokens = 0;
  Work work;  // GPU-seconds
};

inline void AddUsage(const Usage& usage, AuditFacts* facts) {
  facts->finished = true;
  facts->prompt_tokens = usage.prompt_tokens;
  facts->cached_tokens = usage.cached_tokens;
  facts->output_tokens = usage.completion_tokens;
}

// What is new of one choice.
struct ChoiceDelta {
  uint32_t choice = 0;
  std::string text;                // valid UTF-8
  std::vector<int32_t> token_ids;  // a token may come before its text
  // Per token id, when the request has SamplingParams::logprobs.
  std::vector<TokenLogprobs> logprobs;
  std::vector<uint32_t> text_offsets;  // characters of the choice's text before the token's own
  // The rest only when ended.
  bool ended = false;
  FinishReason reason = FinishReason::kStop;  // kStop or kLength
  std::string stop_reason;                    // the stop string that matched

  bool empty() const { return text.empty() && token_ids.empty() && !ended; }
  void Append(ChoiceDelta later);
};

class Generation {
 public:
  // What is new since the last Poll.
  struct Delta {
    std::vector<ChoiceDelta> choices;  // those with something new, ascending
    // Of the prompt, from its second token on; all of them have come with the first output token.
    std::vector<TokenLogprobs> prompt_logprobs;
    // The last choice to end does so in the Delta that finishes the request.
    bool finished = false;
    absl::Status status;  // when finished; not OK: how the request failed
    Usage usage;          // when finished
  };

  // Submits. `wake` is called whenever Poll has something, on the engine thread or the one that
  // tells `lost_models`; it must only schedule. Whatever it holds lives until the engine lets go of
  // the request. `lease`: what the request holds of its tenant's limits.
  static absl::StatusOr<std::unique_ptr<Generation>> Start(
      Engine& engine, std::shared_ptr<LostModels> lost_models, const ServedModel& model,
      const GenerateParams& params, std::shared_ptr<const Request> request,
      TenantLimits::Lease lease, std::function<void()> wake);
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  Delta Poll();
  const Request& request() const { return *request_; }

 private:
  struct Choice {
    explicit Choice(text::TextStream stream) : text(std::move(stream)) {}
    text::TextStream text;
    // Tokens that a stop string may still turn out to have cut off wait in `held`.
    ChoiceDelta held;
    ChoiceDelta delta;     // for the next Poll's answer
    uint32_t emitted = 0;  // tokens that went into deltas
    bool ended = false;    // by itself, or at a stop string
  };

  Generation(Engine& engine, const GenerateParams& params, std::shared_ptr<const Request> request,
             TenantLimits::Lease lease, std::shared_ptr<RequestStream> stream,
             std::unique_ptr<LossWatch> loss, std::vector<Choice> choices)
      : engine_(engine),
        stops_(params.stop),
        include_stop_(params.include_stop),
        prompt_only_(params.prompt_only),
        request_(std::move(request)),
        stream_(std::move(stream)),
        loss_(std::move(loss)),
        lease_(std::move(lease)),
        choices_(std::move(choices)) {}
  void Take(RequestUpdate update, Delta* delta);
  void TakeTokens(RequestUpdate& update, Choice& choice);
  void TakeText(text::TextStream::Output output, Choice& choice);
  void Emit(Choice& choice, size_t certain);
  void EndChoice(const RequestUpdate& update, Choice& choice);
  void Finish(const RequestUpdate& update, Delta* delta);
  // Nobody computes the model any more: the request ends here and now.
  void Abandon(absl::Status reason, Delta* delta);
  // What the request takes of its tenant's limits when it has so many output tokens.
  int64_t ChargedTokens(uint32_t output_tokens) const;
  uint32_t EmittedTokens() const;

  Engine& engine_;
  const std::vector<std::string> stops_;
  const bool include_stop_;
  const bool prompt_only_;
  const std::shared_ptr<const Request> request_;
  const std::shared_ptr<RequestStream> stream_;
  const std::unique_ptr<LossWatch> loss_;
  TenantLimits::Lease lease_;
  std::vector<Choice> choices_;
  uint32_t prompt_scores_ = 0;  // prompt log probabilities that have come
  bool finished_ = false;
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_GENERATION_H_
