// config.json and generation_config.json from an untrusted directory: refused in words, or a spec
// whose numbers are inside their limits and whose tables can be built.

#include <cmath>

#include "base/check.h"
#include "models/generation_defaults.h"
#include "models/memory_plan.h"
#include "models/model_spec.h"
#include "models/rotary.h"
#include "models/weight_spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto defaults = tessera::ParseGenerationDefaults(text, text);
  TESSERA_CHECK(defaults.ok() || !defaults.status().message().empty());
  const auto spec = tessera::ParseModelSpec(text);
  if (!spec.ok()) {
    TESSERA_CHECK(!spec.status().message().empty());
    return 0;
  }
  TESSERA_CHECK(spec->num_layers >= 1 && spec->num_layers <= tessera::kLayersMax);
  TESSERA_CHECK(spec->head_size > 0 && spec->num_heads % spec->num_kv_heads == 0);
  TESSERA_CHECK(tessera::ParameterCount(*spec) > 0);
  TESSERA_CHECK(!spec->ropes.empty());
  for (const tessera::RotarySpec& rope : spec->ropes) {
    TESSERA_CHECK(rope.rotary_size % 2 == 0);
    for (const bool is_long : {false, true}) {
      const tessera::RotaryTable table = tessera::MakeRotaryTable(rope, is_long);
      for (const float frequency : table.inverse_frequencies) {
        TESSERA_CHECK(std::isfinite(frequency) && frequency >= 0.0f);
      }
    }
  }
  for (const int tp : tessera::kTensorParallelSizes) {
    if (!tessera::CheckTensorParallel(*spec, tp).ok()) continue;
    for (const uint64_t budget : {uint64_t{1} << 20, uint64_t{1} << 40}) {
      const auto plan = tessera::PlanMemory(*spec, {.tp = tp, .budget_bytes = budget});
      TESSERA_CHECK(!plan.ok() || plan->total_bytes() <= budget);
    }
  }
  return 0;
}
