// The same metrics under the names, labels and buckets that vLLM gives them, for the tools that
// know no others (--metrics-compat vllm). Nothing is counted here: what is collected for /metrics
// is shown a second time. Pure.

#ifndef TESSERA_COORDINATOR_TELEMETRY_VLLM_NAMES_H_
#define TESSERA_COORDINATOR_TELEMETRY_VLLM_NAMES_H_

#include <prometheus/metric_family.h>

#include <vector>

namespace tessera {

// How a series gets its labels; all have model_name and engine="0" too.
enum class VllmLabels {
  kSame,
  kFinishReason,     // finish_reason -> finished_reason in vLLM's words, rejected ones left out
  kWaitsForRoom,     // + reason="capacity"
  kCacheConfigInfo,  // + block_size, num_gpu_blocks; the value is 1
};

struct VllmName {
  const char* name;
  const char* source;  // the tessera_* family
  VllmLabels labels = VllmLabels::kSame;
  // Of histograms: which bounds are kept, all of them when empty.
  std::vector<double> bounds = {};
};

std::vector<VllmName> VllmNames();
// Appends them to what was collected.
void AppendVllmNames(std::vector<prometheus::MetricFamily>& families);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TELEMETRY_VLLM_NAMES_H_
