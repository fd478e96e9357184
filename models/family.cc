// See family.h. The table below is the list of supported architectures.

#include "models/family.h"

#include "absl/strings/str_join.h"
#include "models/families/llama.h"

namespace tessera {
namespace {

constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", llama::Parse, llama::Weights, llama::Ignorable},
};

}  // namespace

absl::Span<const Family> Families() { return kFamilies; }

const Family* FindFamily(std::string_view architecture) {
  for (const Family& family : kFamilies) {
    if (family.architecture == architecture) return &family;
  }
  return nullptr;
}

std::string SupportedArchitectures() {
  return absl::StrJoin(kFamilies, ", ", [](std::string* out, const Family& family) {
    out->append(family.architecture);
  });
}

}  // namespace tessera
