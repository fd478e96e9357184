// OpenAI response objects, see openai_response.h. Text deltas are valid UTF-8, so dump cannot
// throw; it replaces what is not, all the same.

#include "coordinator/api/http/openai_response.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/text/utf8.h"

namespace tessera::api {
namespace {

std::string Dump(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

// What the tenant pays, and for what.
OrderedJson CostJson(const CostReport& report) {
  OrderedJson json;
  json["total"] = report.cost.total();
  json["currency"] = report.cost.currency;
  json["input"] = report.cost.input;
  json["output"] = report.cost.output;
  json["energy"] = report.cost.energy;
  json["saved"] = report.cost.saved;
  json["gpu_seconds"]["prefill"] = report.work[WorkKind::kPrefill];
  json["gpu_seconds"]["decode"] = report.work[WorkKind::kDecode];
  json["energy_joules"] = report.energy_joules;
  return json;
}

void EndJson(const ChoiceDelta& end, OrderedJson* choice) {
  (*choice)["finish_reason"] = end.reason == FinishReason::kLength ? "length" : "stop";
  if (!end.stop_reason.empty()) (*choice)["stop_reason"] = end.stop_reason;
}

double MeanLogprob(const ChoiceDelta& choice) {
  double sum = 0;
  for (const TokenLogprobs& token : choice.logprobs) sum += token.logprob;
  return sum / static_cast<double>(std::max<size_t>(1, choice.logprobs.size()));
}

// The best of what was generated, best first, under new numbers.
void KeepBest(size_t count, std::vector<ChoiceDelta>* choices) {
  std::stable_sort(
      choices->begin(), choices->end(),
      [](const ChoiceDelta& a, const ChoiceDelta& b) { return MeanLogprob(a) > MeanLogprob(b); });
  choices->resize(count);
  for (size_t i = 0; i < count; ++i) (*choices)[i].choice = static_cast<uint32_t>(i);
}

}  // namespace

std::string SseEvent(const std::string& data) { return absl::StrCat("data: ", data, "\n\n"); }

OpenAiAnswer::OpenAiAnswer(AnswerShape shape)
    : shape_(std::move(shape)),
      prompt_characters_(
          shape_.echo ? static_cast<uint32_t>(text::CountCharacters(shape_.prompt_text)) : 0),
      begun_(shape_.choices, false) {}

void OpenAiAnswer::AddPromptLogprobs(std::vector<TokenLogprobs> scores) {
  prompt_scores_.insert(prompt_scores_.end(), std::make_move_iterator(scores.begin()),
                        std::make_move_iterator(scores.end()));
}

OrderedJson OpenAiAnswer::Envelope(const char* object) const {
  OrderedJson json;
  json["id"] = shape_.id;
  json["object"] = object;
  json["created"] = shape_.created;
  json["model"] = shape_.model;
  json["choices"] = OrderedJson::array();
  return json;
}

const char* OpenAiAnswer::ChunkName() const {
  return shape_.chat ? "chat.completion.chunk" : "text_completion";
}

OrderedJson OpenAiAnswer::Logprobs(const ChoiceDelta& delta, bool first) const {
  if (!shape_.top_logprobs.has_value()) return nullptr;
  if (shape_.chat) return ChatLogprobs(*shape_.tokenizer, delta);
  CompletionLogprobs logprobs(*shape_.tokenizer, *shape_.top_logprobs);
  if (shape_.echo && first) logprobs.AddPrompt(shape_.prompt, prompt_scores_);
  logprobs.Add(delta, prompt_characters_);
  return logprobs.Take();
}

OrderedJson OpenAiAnswer::UsageJson(const Usage& usage,
                                    const std::optional<CostReport>& cost) const {
  OrderedJson json;
  json["prompt_tokens"] = usage.prompt_tokens;
  json["completion_tokens"] = usage.completion_tokens;
  json["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  json["prompt_tokens_details"]["cached_tokens"] = usage.cached_tokens;
  if (shape_.include_cost && cost.has_value()) json["cost"] = CostJson(*cost);
  return json;
}

std::string OpenAiAnswer::Whole(std::vector<ChoiceDelta> choices, const Usage& usage,
                                const std::optional<CostReport>& cost) const {
  if (choices.size() > shape_.choices) KeepBest(shape_.choices, &choices);
  OrderedJson json = Envelope(shape_.chat ? "chat.completion" : "text_completion");
  OrderedJson prompt_logprobs;
  if (shape_.prompt_logprobs.has_value()) {
    prompt_logprobs =
        PromptLogprobs(*shape_.tokenizer, shape_.prompt, prompt_scores_, *shape_.prompt_logprobs);
  }
  for (ChoiceDelta& delta : choices) {
    OrderedJson choice;
    choice["index"] = delta.choice;
    if (shape_.chat) {
      choice["message"] = {{"role", "assistant"}, {"content", delta.text}, {"refusal", nullptr}};
    } else {
      choice["text"] = shape_.echo ? shape_.prompt_text + delta.text : delta.text;
    }
    choice["logprobs"] = Logprobs(delta, true);
    EndJson(delta, &choice);
    if (!shape_.chat && shape_.prompt_logprobs) choice["prompt_logprobs"] = prompt_logprobs;
    json["choices"].push_back(std::move(choice));
  }
  json["usage"] = UsageJson(usage, cost);
  json["seed"] = shape_.seed;
  if (shape_.chat && shape_.prompt_logprobs) json["prompt_logprobs"] = std::move(prompt_logprobs);
  return Dump(json);
}

std::string OpenAiAnswer::Chunk(OrderedJson choice) const {
  OrderedJson json = Envelope(ChunkName());
  json["choices"].push_back(std::move(choice));
  if (shape_.usage_in_chunks) json["usage"] = nullptr;
  return SseEvent(Dump(json));
}

std::string OpenAiAnswer::Opening() const {
  std::string events;
  if (!shape_.chat) return events;
  for (uint32_t index = 0; index < shape_.choices; ++index) {
    OrderedJson choice;
    choice["index"] = index;
    choice["delta"] = {{"role", "assistant"}, {"content", ""}};
    choice["logprobs"] = nullptr;
    choice["finish_reason"] = nullptr;
    events += Chunk(std::move(choice));
  }
  return events;
}

std::string OpenAiAnswer::Chunks(const ChoiceDelta& delta) {
  std::string events;
  const bool first = !begun_[delta.choice];
  const bool echoes = shape_.echo && first;
  // Tokens whose text is still to come make a chunk only where they have something to say.
  const bool scores = shape_.top_logprobs.has_value() && !delta.token_ids.empty();
  OrderedJson choice;
  choice["index"] = delta.choice;
  if (!delta.text.empty() || scores || echoes) {
    begun_[delta.choice] = true;
    const std::string text = echoes ? shape_.prompt_text + delta.text : delta.text;
    if (shape_.chat) {
      choice["delta"]["content"] = text;
    } else {
      choice["text"] = text;
    }
    choice["logprobs"] = Logprobs(delta, first);
    choice["finish_reason"] = nullptr;
    events += Chunk(choice);
  }
  if (!delta.ended) return events;
  if (shape_.chat) {
    choice["delta"] = OrderedJson::object();
  } else {
    choice["text"] = "";
  }
  choice["logprobs"] = nullptr;
  EndJson(delta, &choice);
  return events + Chunk(std::move(choice));
}

std::string OpenAiAnswer::Closing(const Usage& usage, const std::optional<CostReport>& cost) const {
  std::string events;
  if (shape_.usage_in_chunks || shape_.include_cost) {
    OrderedJson json = Envelope(ChunkName());
    json["usage"] = UsageJson(usage, cost);
    json["seed"] = shape_.seed;
    events = SseEvent(Dump(json));
  }
  return events + SseEvent("[DONE]");
}

}  // namespace tessera::api
