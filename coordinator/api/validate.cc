// Ranges of parameters and the making of a Request, see validate.h.

#include "coordinator/api/validate.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

absl::Status ValidateStops(const GenerateParams& params, const ServedModel& model) {
  if (params.stop.size() > text::kStopStringsMax) {
    return BadParam("stop", absl::StrCat("takes at most ", text::kStopStringsMax,
                                         " strings, it has ", params.stop.size()));
  }
  for (const std::string& stop : params.stop) {
    if (stop.empty()) return BadParam("stop", "must not hold an empty string");
    if (stop.size() > text::kStopStringBytesMax) {
      return BadParam("stop", absl::StrCat("takes strings of at most ", text::kStopStringBytesMax,
                                           " bytes, one has ", stop.size()));
    }
  }
  if (params.stop_token_ids.size() > kStopTokensMax) {
    return BadParam("stop_token_ids", absl::StrCat("takes at most ", kStopTokensMax,
                                                   " ids, it has ", params.stop_token_ids.size()));
  }
  for (const int32_t id : params.stop_token_ids) {
    if (id < 0 || id >= model.spec.vocab_size) {
      return BadParam("stop_token_ids",
                      absl::StrCat("holds ", id, ", the model's vocabulary has the ids 0 to ",
                                   model.spec.vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateParams(const GenerateParams& params, const ServedModel& model) {
  // Written so that NaN fails.
  if (params.temperature && !(*params.temperature >= 0 && *params.temperature <= kTemperatureMax)) {
    return BadParam("temperature", absl::StrCat("must be from 0 to ", kTemperatureMax, ", it is ",
                                                *params.temperature));
  }
  if (params.top_p && !(*params.top_p > 0 && *params.top_p <= 1)) {
    return BadParam("top_p", absl::StrCat("must be above 0 and at most 1, it is ", *params.top_p));
  }
  if (params.top_k && (*params.top_k < -1 || *params.top_k > model.spec.vocab_size)) {
    return BadParam("top_k", absl::StrCat("must be from 0 (off) to the vocabulary's ",
                                          model.spec.vocab_size, ", it is ", *params.top_k));
  }
  if (params.max_tokens && *params.max_tokens < 1) {
    return BadParam(params.max_tokens_name,
                    absl::StrCat("must be at least 1, it is ", *params.max_tokens));
  }
  return ValidateStops(params, model);
}

absl::StatusOr<std::shared_ptr<const Request>> MakeRequest(const ServedModel& model,
                                                           const GenerateParams& params,
                                                           std::vector<int32_t> prompt,
                                                           RequestIdentity identity) {
  const int64_t left = model.context_max - static_cast<int64_t>(prompt.size());
  const int64_t max_tokens = params.max_tokens.value_or(left);
  if (max_tokens > left) {
    return WithCode(BadParam(params.max_tokens_name,
                             absl::StrCat("is ", max_tokens, ", but after a prompt of ",
                                          prompt.size(), " tokens the model's context of ",
                                          model.context_max, " leaves ", left)),
                    "context_length_exceeded");
  }
  auto request = std::make_shared<Request>();
  request->id = identity.id;
  request->public_id = std::move(identity.public_id);
  request->tenant = "default";
  request->model = model.index;
  request->prompt = std::move(prompt);
  request->arrival = identity.arrival;
  request->deadline = params.deadline;

  SamplingParams& sampling = request->sampling;
  sampling.temperature =
      static_cast<float>(params.temperature.value_or(model.defaults.temperature));
  sampling.top_p = static_cast<float>(params.top_p.value_or(model.defaults.top_p));
  sampling.top_k =
      static_cast<uint32_t>(std::max<int64_t>(0, params.top_k.value_or(model.defaults.top_k)));
  sampling.seed = params.seed.value_or(identity.drawn_seed);
  sampling.max_tokens = static_cast<uint32_t>(max_tokens);
  sampling.stop_token_ids = params.stop_token_ids;
  if (!params.ignore_eos) {
    sampling.stop_token_ids.insert(sampling.stop_token_ids.end(),
                                   model.defaults.eos_token_ids.begin(),
                                   model.defaults.eos_token_ids.end());
  }
  std::sort(sampling.stop_token_ids.begin(), sampling.stop_token_ids.end());
  sampling.stop_token_ids.erase(
      std::unique(sampling.stop_token_ids.begin(), sampling.stop_token_ids.end()),
      sampling.stop_token_ids.end());
  return request;
}

}  // namespace tessera::api
