// See family.h. The table below is the list of supported architectures.

#include "models/family.h"

#include "absl/strings/str_join.h"
#include "models/families/families.h"

namespace tessera {
namespace {

constexpr const Family* kFamilies[] = {
    &kLlamaFamily,        &kMistralFamily,        &kMinistralFamily,  &kQwen2Family,
    &kQwen3Family,        &kGemmaFamily,          &kGemma2Family,     &kGemma3Family,
    &kGemma3ImagesFamily, &kPhi3Family,           &kMixtralFamily,    &kQwen3MoeFamily,
    &kQwen2MoeFamily,     &kDeepseekV2Family,     &kDeepseekV3Family, &kPhiMoeAuthorsFamily,
    &kPhiMoeFamily,       &kMistral3ImagesFamily,
};

}  // namespace

absl::Span<const Family* const> Families() { return kFamilies; }

const Family* FindFamily(std::string_view architecture) {
  for (const Family* family : kFamilies) {
    if (family->architecture == architecture) return family;
  }
  return nullptr;
}

std::string SupportedArchitectures() {
  return absl::StrJoin(kFamilies, ", ", [](std::string* out, const Family* family) {
    out->append(family->architecture);
  });
}

}  // namespace tessera
