// Sorting and double precision; see reference.h.

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
  if (row.top_p >= 1.0f || order.empty()) return order;
  std::vector<double> mass;
  double total = 0;
  for (const int32_t id : order) {
    mass.push_back(
        std::exp((static_cast<double>(logits[id]) - logits[order[0]]) / row.temperature));
    total += mass.back();
  }
  double sum = 0;
  size_t keep = 0;
  while (keep < order.size() && (keep == 0 || sum < row.top_p * total)) sum += mass[keep++];
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

}  // namespace tessera
