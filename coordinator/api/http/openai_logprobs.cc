// Writing log probabilities, see openai_logprobs.h.

#include "coordinator/api/http/openai_logprobs.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/text/detokenizer.h"
#include "coordinator/text/utf8.h"

namespace tessera::api {
namespace {

double Finite(float logprob) { return logprob > kLogprobMin ? double{logprob} : kLogprobMin; }

// The bytes of a token that is part of a character are no text: "bytes:\xe6\x9d".
std::string CompletionToken(const text::Tokenizer& tokenizer, int32_t id) {
  const std::string_view bytes = tokenizer.PieceOf(id).bytes;
  if (text::IsUtf8(bytes)) return std::string(bytes);
  std::string escaped = "bytes:";
  for (const char byte : bytes) {
    absl::StrAppend(&escaped, "\\x", absl::Hex(static_cast<uint8_t>(byte), absl::kZeroPad2));
  }
  return escaped;
}

// With broken parts as U+FFFD; the bytes stand beside it.
std::string TokenText(const text::Tokenizer& tokenizer, int32_t id) {
  std::string pending(tokenizer.PieceOf(id).bytes);
  std::string text;
  text::SettleUtf8(&pending, &text);
  if (!pending.empty()) text += text::kReplacement;
  return text;
}

OrderedJson ChatToken(const text::Tokenizer& tokenizer, int32_t id, float logprob) {
  OrderedJson json;
  json["token"] = TokenText(tokenizer, id);
  json["logprob"] = Finite(logprob);
  json["bytes"] = OrderedJson::array();
  for (const char byte : tokenizer.PieceOf(id).bytes) {
    json["bytes"].push_back(static_cast<uint8_t>(byte));
  }
  return json;
}

}  // namespace

OrderedJson ChatLogprobs(const text::Tokenizer& tokenizer, const ChoiceDelta& delta) {
  OrderedJson content = OrderedJson::array();
  for (size_t i = 0; i < delta.token_ids.size(); ++i) {
    OrderedJson token = ChatToken(tokenizer, delta.token_ids[i], delta.logprobs[i].logprob);
    token["top_logprobs"] = OrderedJson::array();
    for (const auto& [id, logprob] : delta.logprobs[i].top) {
      token["top_logprobs"].push_back(ChatToken(tokenizer, id, logprob));
    }
    content.push_back(std::move(token));
  }
  OrderedJson json;
  json["content"] = std::move(content);
  json["refusal"] = nullptr;
  return json;
}

CompletionLogprobs::CompletionLogprobs(const text::Tokenizer& tokenizer, uint32_t top)
    : tokenizer_(tokenizer), top_(top) {
  for (const char* column : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    json_[column] = OrderedJson::array();
  }
}

void CompletionLogprobs::AddToken(int32_t id, uint32_t offset, const TokenLogprobs* scores) {
  const std::string token = CompletionToken(tokenizer_, id);
  OrderedJson top;
  if (scores != nullptr) {
    top = OrderedJson::object();
    const size_t count = std::min<size_t>(top_, scores->top.size());
    for (size_t i = 0; i < count; ++i) {
      // Of several that look alike the most likely stays.
      top.emplace(CompletionToken(tokenizer_, scores->top[i].first), Finite(scores->top[i].second));
    }
    top.emplace(token, Finite(scores->logprob));
  }
  json_["tokens"].push_back(token);
  json_["token_logprobs"].push_back(scores != nullptr ? OrderedJson(Finite(scores->logprob))
                                                      : OrderedJson());
  json_["top_logprobs"].push_back(std::move(top));
  json_["text_offset"].push_back(offset);
}

void CompletionLogprobs::AddPrompt(absl::Span<const int32_t> ids,
                                   absl::Span<const TokenLogprobs> scores) {
  TESSERA_CHECK(scores.size() + 1 == ids.size())
      << scores.size() << " log probabilities of a prompt of " << ids.size() << " tokens";
  // Offsets into the text that these tokens make; not owning, it lives for this call.
  text::Detokenizer detokenizer(
      std::shared_ptr<const text::Tokenizer>(std::shared_ptr<void>(), &tokenizer_));
  size_t characters = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    AddToken(ids[i], static_cast<uint32_t>(characters), i == 0 ? nullptr : &scores[i - 1]);
    characters += text::CountCharacters(detokenizer.Push(ids[i]).text);
  }
}

void CompletionLogprobs::Add(const ChoiceDelta& delta, uint32_t text_before) {
  for (size_t i = 0; i < delta.token_ids.size(); ++i) {
    AddToken(delta.token_ids[i], text_before + delta.text_offsets[i], &delta.logprobs[i]);
  }
}

OrderedJson PromptLogprobs(const text::Tokenizer& tokenizer, absl::Span<const int32_t> ids,
                           absl::Span<const TokenLogprobs> scores, uint32_t top) {
  OrderedJson list = OrderedJson::array();
  list.push_back(nullptr);
  for (size_t i = 0; i < scores.size(); ++i) {
    OrderedJson position = OrderedJson::object();
    const auto& likely = scores[i].top;  // most likely first
    // `place` in `likely`; beyond it the rank is not known.
    const auto add = [&](int32_t id, float logprob, size_t place) {
      OrderedJson entry;
      entry["logprob"] = Finite(logprob);
      if (place < likely.size()) entry["rank"] = place + 1;
      entry["decoded_token"] = TokenText(tokenizer, id);
      position.emplace(absl::StrCat(id), std::move(entry));
    };
    const size_t count = std::min<size_t>(top, likely.size());
    for (size_t place = 0; place < count; ++place) {
      add(likely[place].first, likely[place].second, place);
    }
    const auto own = std::find_if(likely.begin(), likely.end(),
                                  [&](const auto& token) { return token.first == ids[i + 1]; });
    // Adds nothing where it is among the first `count` already.
    add(ids[i + 1], scores[i].logprob, static_cast<size_t>(own - likely.begin()));
    list.push_back(std::move(position));
  }
  return list;
}

}  // namespace tessera::api
