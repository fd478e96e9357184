// Models and numbers as people read them; for `tessera inspect` and the start of `tessera serve`.

#ifndef TESSERA_MODELS_DESCRIBE_H_
#define TESSERA_MODELS_DESCRIBE_H_

#include <cstdint>
#include <string>

#include "models/model_spec.h"

namespace tessera {

// A table, one line per item: architecture, parameters, layers, heads, context, rope, dtype,
// licence (LicenseOf; left out if empty).
std::string DescribeModel(const ModelSpec& spec, const std::string& license);

// "1.50 GiB", "12.0 MiB", "3.0 KiB".
std::string FormatBytes(uint64_t bytes);

}  // namespace tessera

#endif  // TESSERA_MODELS_DESCRIBE_H_
