// Ranges of parameters and the making of a Request, see validate.h.

#include "coordinator/api/validate.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/status_map.h"
#include "coordinator/text/stop_strings.h"

namespace tessera::api {
namespace {

absl::Status CheckTokens(const char* param, const std::vector<int32_t>& ids, size_t max,
                         const ServedModel& model) {
  if (ids.size() > max) {
    return BadParam(param, absl::StrCat("takes at most ", max, " ids, it has ", ids.size()));
  }
  for (const int32_t id : ids) {
    if (id < 0 || id >= model.spec.vocab_size) {
      return BadParam(param,
                      absl::StrCat("holds ", id, ", the model's vocabulary has the ids 0 to ",
                                   model.spec.vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckStrings(const char* param, const std::vector<std::string>& strings, size_t max,
                          size_t bytes_max) {
  if (strings.size() > max) {
    return BadParam(param,
                    absl::StrCat("takes at most ", max, " strings, it has ", strings.size()));
  }
  for (const std::string& string : strings) {
    if (string.empty()) return BadParam(param, "must not hold an empty string");
    if (string.size() > bytes_max) {
      return BadParam(param, absl::StrCat("takes strings of at most ", bytes_max,
                                          " bytes, one has ", string.size()));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRange(const char* param, const std::optional<int64_t>& value, int64_t min,
                        int64_t max) {
  if (!value || (*value >= min && *value <= max)) return absl::OkStatus();
  return BadParam(param, absl::StrCat("must be from ", min, " to ", max, ", it is ", *value));
}

absl::Status CheckRange(const char* param, const std::optional<double>& value, double min,
                        double max) {
  // Written so that NaN fails.
  if (!value || (*value >= min && *value <= max)) return absl::OkStatus();
  return BadParam(param, absl::StrCat("must be from ", min, " to ", max, ", it is ", *value));
}

absl::Status CheckDistribution(const GenerateParams& params, const ServedModel& model) {
  TESSERA_RETURN_IF_ERROR(CheckRange("temperature", params.temperature, 0, kTemperatureMax));
  // As the ranks get them, so that rounding leaves no range.
  const auto single = [](double value) { return static_cast<float>(value); };
  if (params.top_p && !(single(*params.top_p) > 0 && *params.top_p <= 1)) {
    return BadParam("top_p", absl::StrCat("must be above 0 and at most 1, it is ", *params.top_p));
  }
  if (params.top_k && (*params.top_k < -1 || *params.top_k > model.spec.vocab_size)) {
    return BadParam("top_k",
                    absl::StrCat("must be from 1 to the vocabulary's ", model.spec.vocab_size,
                                 ", or 0 or -1 (off), it is ", *params.top_k));
  }
  if (params.min_p && !(*params.min_p >= 0 && single(*params.min_p) < 1)) {
    return BadParam("min_p", absl::StrCat("must be from 0 to below 1, it is ", *params.min_p));
  }
  TESSERA_RETURN_IF_ERROR(
      CheckRange("presence_penalty", params.presence_penalty, -kPenaltyMax, kPenaltyMax));
  TESSERA_RETURN_IF_ERROR(
      CheckRange("frequency_penalty", params.frequency_penalty, -kPenaltyMax, kPenaltyMax));
  if (params.repetition_penalty && !(single(*params.repetition_penalty) > 0 &&
                                     *params.repetition_penalty <= kRepetitionPenaltyMax)) {
    return BadParam("repetition_penalty",
                    absl::StrCat("must be above 0 and at most ", kRepetitionPenaltyMax, ", it is ",
                                 *params.repetition_penalty));
  }
  return absl::OkStatus();
}

absl::Status CheckBias(const GenerateParams& params, const ServedModel& model) {
  std::vector<int32_t> ids;
  for (const auto& [id, bias] : params.logit_bias) {
    ids.push_back(id);
    if (!(bias >= -kLogitBiasValueMax && bias <= kLogitBiasValueMax)) {
      return BadParam("logit_bias",
                      absl::StrCat("takes values from ", -kLogitBiasValueMax, " to ",
                                   kLogitBiasValueMax, ", that of token ", id, " is ", bias));
    }
  }
  TESSERA_RETURN_IF_ERROR(CheckTokens("logit_bias", ids, kLogitBiasMax, model));
  std::sort(ids.begin(), ids.end());
  if (const auto twice = std::adjacent_find(ids.begin(), ids.end()); twice != ids.end()) {
    return BadParam("logit_bias", absl::StrCat("names the token ", *twice, " twice"));
  }
  return absl::OkStatus();
}

absl::Status CheckLists(const GenerateParams& params, const ServedModel& model) {
  TESSERA_RETURN_IF_ERROR(
      CheckStrings("stop", params.stop, text::kStopStringsMax, text::kStopStringBytesMax));
  TESSERA_RETURN_IF_ERROR(
      CheckStrings("bad_words", params.bad_words, kBadWordsMax, kBadWordBytesMax));
  TESSERA_RETURN_IF_ERROR(
      CheckTokens("stop_token_ids", params.stop_token_ids, kStopTokensMax, model));
  TESSERA_RETURN_IF_ERROR(
      CheckTokens("allowed_token_ids", params.allowed_token_ids, kTokenListMax, model));
  TESSERA_RETURN_IF_ERROR(
      CheckTokens("banned_token_ids", params.banned_token_ids, kTokenListMax, model));
  return CheckBias(params, model);
}

absl::Status CheckCounts(const GenerateParams& params) {
  TESSERA_RETURN_IF_ERROR(CheckRange("n", params.n, 1, kChoicesMax));
  TESSERA_RETURN_IF_ERROR(CheckRange("best_of", params.best_of, params.answers(), kChoicesMax));
  if (params.max_tokens && *params.max_tokens < 1 && !params.prompt_only) {
    return BadParam(params.max_tokens_name,
                    absl::StrCat("must be at least 1, it is ", *params.max_tokens,
                                 "; 0 is for /v1/completions with `echo`, to score a prompt"));
  }
  TESSERA_RETURN_IF_ERROR(
      CheckRange("min_tokens", params.min_tokens, 0,
                 params.max_tokens.value_or(std::numeric_limits<int32_t>::max())));
  TESSERA_RETURN_IF_ERROR(
      CheckRange(params.top_logprobs_name, params.top_logprobs, 0, kTopLogprobsMax));
  return CheckRange("prompt_logprobs", params.prompt_logprobs, 0, kTopLogprobsMax);
}

void SortUnique(std::vector<int32_t>* ids) {
  std::sort(ids->begin(), ids->end());
  ids->erase(std::unique(ids->begin(), ids->end()), ids->end());
}

// A word is banned as the token it is, and as the one it is after a space where that is one token
// too. Words of several tokens would need the ranks to look back.
absl::StatusOr<std::vector<int32_t>> TokensOfBadWords(const GenerateParams& params,
                                                      const ServedModel& model) {
  std::vector<int32_t> banned;
  for (const std::string& given : params.bad_words) {
    const std::string word(absl::StripLeadingAsciiWhitespace(given));
    auto alone = model.tokenizer->Encode(word, {});
    auto spaced = model.tokenizer->Encode(absl::StrCat(" ", word), {});
    const bool single =
        alone.ok() && spaced.ok() && alone->size() == 1 && alone->front() < model.spec.vocab_size;
    if (!single) {
      return BadParam("bad_words", absl::StrCat("holds \"", given,
                                                "\", which is not a single token of this model; "
                                                "only single tokens can be banned"));
    }
    banned.push_back(alone->front());
    if (spaced->size() == 1 && spaced->front() < model.spec.vocab_size)
      banned.push_back(spaced->front());
  }
  return banned;
}

absl::Status FillTokenSets(const ServedModel& model, const GenerateParams& params,
                           SamplingParams* sampling) {
  for (const auto& [id, bias] : params.logit_bias) {
    sampling->logit_bias.emplace_back(id, static_cast<float>(bias));
  }
  std::sort(sampling->logit_bias.begin(), sampling->logit_bias.end());
  sampling->stop_token_ids = params.stop_token_ids;
  if (!params.ignore_eos) {
    sampling->stop_token_ids.insert(sampling->stop_token_ids.end(),
                                    model.defaults.eos_token_ids.begin(),
                                    model.defaults.eos_token_ids.end());
  }
  SortUnique(&sampling->stop_token_ids);
  sampling->allowed_token_ids = params.allowed_token_ids;
  SortUnique(&sampling->allowed_token_ids);
  TESSERA_ASSIGN_OR_RETURN(sampling->banned_token_ids, TokensOfBadWords(params, model));
  sampling->banned_token_ids.insert(sampling->banned_token_ids.end(),
                                    params.banned_token_ids.begin(), params.banned_token_ids.end());
  SortUnique(&sampling->banned_token_ids);
  const auto drawable = [sampling](int32_t id) {
    const auto holds = [id](const std::vector<int32_t>& ids) {
      return std::binary_search(ids.begin(), ids.end(), id);
    };
    return !holds(sampling->banned_token_ids) &&
           (sampling->min_tokens == 0 || !holds(sampling->stop_token_ids));
  };
  const auto& allowed = sampling->allowed_token_ids;
  if (!allowed.empty() && std::none_of(allowed.begin(), allowed.end(), drawable)) {
    return BadParam("allowed_token_ids",
                    "leaves no token to draw: all of them are banned, or end the answer before "
                    "`min_tokens`");
  }
  return absl::OkStatus();
}

absl::Status FillScores(const GenerateParams& params, int64_t prompt_tokens,
                        SamplingParams* sampling) {
  sampling->logprobs = params.top_logprobs.has_value() || params.choices() > params.answers();
  sampling->top_logprobs = static_cast<uint32_t>(params.top_logprobs.value_or(0));
  int64_t prompt = params.prompt_logprobs.has_value() ? 1 + *params.prompt_logprobs : 0;
  if (params.score_prompt && params.top_logprobs) {
    prompt = std::max(prompt, 1 + *params.top_logprobs);
  }
  sampling->prompt_logprobs = static_cast<uint32_t>(prompt);
  const int64_t output =
      sampling->logprobs ? params.choices() * sampling->max_tokens * (1 + sampling->top_logprobs)
                         : 0;
  const int64_t scored = prompt_tokens * prompt + output;
  if (scored <= kScoredValuesMax) return absl::OkStatus();
  return BadParam(params.top_logprobs ? params.top_logprobs_name : "prompt_logprobs",
                  absl::StrCat("may make ", scored, " log probabilities (prompt of ", prompt_tokens,
                               " tokens, ", params.choices(), " choices of ", sampling->max_tokens,
                               " tokens), the limit is ", kScoredValuesMax,
                               "; ask for fewer alternatives, choices or tokens"));
}

absl::StatusOr<uint32_t> MaxTokens(const ServedModel& model, const GenerateParams& params,
                                   size_t prompt_tokens) {
  if (params.prompt_only) return 1;
  const int64_t left = model.context_max - static_cast<int64_t>(prompt_tokens);
  const int64_t usual =
      std::max(model.defaults.max_new_tokens.value_or(left), params.min_tokens.value_or(0));
  const int64_t max_tokens = params.max_tokens.value_or(std::min(usual, left));
  const bool is_max = max_tokens > left;
  if (is_max || params.min_tokens.value_or(0) > max_tokens) {
    const char* name = is_max ? params.max_tokens_name : "min_tokens";
    return WithCode(BadParam(name, absl::StrCat("is ", is_max ? max_tokens : *params.min_tokens,
                                                ", but after a prompt of ", prompt_tokens,
                                                " tokens the model's context of ",
                                                model.context_max, " leaves ", left)),
                    "context_length_exceeded");
  }
  return static_cast<uint32_t>(max_tokens);
}

}  // namespace

absl::Status ValidateParams(const GenerateParams& params, const ServedModel& model,
                            const Caller& caller) {
  TESSERA_RETURN_IF_ERROR(CheckDistribution(params, model));
  TESSERA_RETURN_IF_ERROR(CheckCounts(params));
  TESSERA_RETURN_IF_ERROR(
      CheckRange("priority", params.priority, caller.priority_min, caller.priority_max));
  return CheckLists(params, model);
}

absl::StatusOr<std::shared_ptr<const Request>> MakeRequest(const ServedModel& model,
                                                           const GenerateParams& params,
                                                           const Caller& caller, Prompt prompt,
                                                           RequestIdentity identity) {
  auto request = std::make_shared<Request>();
  request->id = identity.id;
  request->public_id = std::move(identity.public_id);
  request->tenant = caller.tenant;
  request->model = model.index;
  request->cache = caller.cache;
  request->cache.num_shared_tokens = prompt.num_shared_tokens;
  request->arrival = identity.arrival;
  request->deadline = params.deadline;
  request->traceparent = params.traceparent;
  request->priority = static_cast<int>(params.priority.value_or(caller.priority));

  SamplingParams& sampling = request->sampling;
  TESSERA_ASSIGN_OR_RETURN(sampling.max_tokens, MaxTokens(model, params, prompt.ids.size()));
  sampling.min_tokens = static_cast<uint32_t>(params.min_tokens.value_or(0));
  sampling.temperature =
      static_cast<float>(params.temperature.value_or(model.defaults.temperature));
  sampling.top_p = static_cast<float>(params.top_p.value_or(model.defaults.top_p));
  sampling.top_k =
      static_cast<uint32_t>(std::max<int64_t>(0, params.top_k.value_or(model.defaults.top_k)));
  sampling.min_p = static_cast<float>(params.min_p.value_or(model.defaults.min_p));
  sampling.presence_penalty = static_cast<float>(params.presence_penalty.value_or(0));
  sampling.frequency_penalty = static_cast<float>(params.frequency_penalty.value_or(0));
  sampling.repetition_penalty =
      static_cast<float>(params.repetition_penalty.value_or(model.defaults.repetition_penalty));
  sampling.seed = params.seed.value_or(identity.drawn_seed);
  sampling.has_stop_strings = !params.stop.empty();
  sampling.num_choices = static_cast<uint32_t>(params.choices());
  TESSERA_RETURN_IF_ERROR(FillTokenSets(model, params, &sampling));
  TESSERA_RETURN_IF_ERROR(FillScores(params, static_cast<int64_t>(prompt.ids.size()), &sampling));
  request->prompt = std::move(prompt.ids);
  return request;
}

}  // namespace tessera::api
