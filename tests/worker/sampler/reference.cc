// Counting, sorting and double precision; see reference.h.

#include "reference.h"

#include <algorithm>
#include <cmath>

#include "kernels/philox.h"

namespace tessera {

std::vector<int32_t> ReferenceCut(const std::vector<float>& logits, const SampleRow& row) {
  std::vector<int32_t> order;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isnan(logits[i])) order.push_back(static_cast<int32_t>(i));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (row.top_k > 0 && row.top_k < order.size()) order.resize(row.top_k);
  if (order.empty()) return order;
  const auto weight = [&](int32_t id) {
    return std::exp((static_cast<double>(logits[id]) - logits[order[0]]) / row.temperature);
  };
  std::vector<double> mass;
  double total = 0;
  for (const int32_t id : order) {
    mass.push_back(weight(id));
    total += mass.back();
  }
  size_t keep = order.size();
  if (row.top_p < 1.0f) {
    double sum = 0;
    for (keep = 0; keep < order.size() && (keep == 0 || sum < row.top_p * total);) {
      sum += mass[keep++];
    }
  }
  if (row.min_p > 0) {
    while (keep > 1 && mass[keep - 1] < std::min(row.min_p, 1.0f)) --keep;
  }
  order.resize(keep);
  return order;
}

int32_t ReferenceSample(const std::vector<float>& logits, const SampleRow& row) {
  std::vector<int32_t> kept = ReferenceCut(logits, row);
  if (kept.empty() || logits[kept[0]] == -INFINITY) return Sampler::kNoToken;
  if (row.temperature < Sampler::kTemperatureMin || std::isinf(logits[kept[0]])) return kept[0];
  const float inv_temperature = 1.0f / row.temperature;
  std::sort(kept.begin(), kept.end());
  float best = -INFINITY;
  int32_t token = Sampler::kNoToken;
  for (const int32_t id : kept) {
    const float score = static_cast<float>(static_cast<double>(logits[id]) * inv_temperature +
                                           GumbelNoise(row.seed, row.position, row.choice, id));
    if (score > best) {
      best = score;
      token = id;
    }
  }
  return token;
}

RuleCase RandomRules(std::mt19937& random, int32_t vocab) {
  const auto token = [&]() { return static_cast<int32_t>(random() % vocab); };
  const auto tokens = [&](size_t most) {
    std::vector<int32_t> ids(random() % 2 * (random() % (most + 1)));
    for (int32_t& id : ids) id = token();
    return ids;
  };
  const auto one_of = [&](std::vector<float> values) { return values[random() % values.size()]; };
  RuleCase rules;
  TokenRuleParams& params = rules.params;
  for (const int32_t id : tokens(8)) {
    params.logit_bias.emplace_back(id, one_of({-100.0f, -1.3f, 0.0f, 0.25f, 5.0f, 100.0f}));
  }
  if (random() % 3 == 0) params.allowed = tokens(static_cast<size_t>(vocab));
  params.banned = tokens(8);
  params.min_tokens_banned = tokens(8);
  params.min_tokens = random() % 20;
  params.repetition_penalty = one_of({0.0f, 1.0f, 1.0f, 1.1f, 1.7f, 0.8f});
  params.frequency_penalty = one_of({0.0f, 0.0f, 0.3f, 2.0f, -0.5f});
  params.presence_penalty = one_of({0.0f, 0.0f, 0.7f, 2.0f, -1.0f});
  const int32_t kinds = 1 + token();  // few: tokens come up again and again
  rules.prompt.resize(random() % 30);
  rules.output.resize(random() % 30);
  for (int32_t& id : rules.prompt) id = static_cast<int32_t>(random() % kinds);
  for (int32_t& id : rules.output) id = static_cast<int32_t>(random() % kinds);
  return rules;
}

TokenRules RulesOf(const RuleCase& rules) {
  TokenRules made(rules.params);
  for (const int32_t token : rules.prompt) made.AddPrompt(token);
  for (const int32_t token : rules.output) made.AddOutput(token);
  return made;
}

std::vector<float> ReferenceRules(std::vector<float> logits, const RuleCase& rules) {
  const TokenRuleParams& params = rules.params;
  const auto count = [](const std::vector<int32_t>& ids, int32_t id) {
    return std::count(ids.begin(), ids.end(), id);
  };
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
    float& logit = logits[id];
    float bias = 0;
    for (const auto& [biased, value] : params.logit_bias) {
      if (biased == id) bias = value;
    }
    logit += bias;
    const bool too_early = rules.output.size() < params.min_tokens;
    if (count(params.banned, id) > 0 || (too_early && count(params.min_tokens_banned, id) > 0) ||
        (!params.allowed.empty() && count(params.allowed, id) == 0)) {
      logit = -INFINITY;
    }
    const auto times = count(rules.output, id);
    const float repetition = params.repetition_penalty == 0 ? 1 : params.repetition_penalty;
    if (times > 0 || count(rules.prompt, id) > 0) {
      if (logit > 0) logit /= repetition;
      if (logit < 0) logit *= repetition;
    }
    if (times > 0) logit = logit - params.frequency_penalty * times - params.presence_penalty;
  }
  return logits;
}

}  // namespace tessera
