// One line per architecture; each is defined in the file of its family. Read by family.cc only.

#ifndef TESSERA_MODELS_FAMILIES_FAMILIES_H_
#define TESSERA_MODELS_FAMILIES_FAMILIES_H_

#include "models/family.h"

namespace tessera {

extern const Family kLlamaFamily;
extern const Family kMistralFamily;
extern const Family kMinistralFamily;
extern const Family kMistral3ImagesFamily;
extern const Family kQwen2Family;
extern const Family kQwen3Family;
extern const Family kGemmaFamily;
extern const Family kGemma2Family;
extern const Family kGemma3Family;
extern const Family kGemma3ImagesFamily;
extern const Family kPhi3Family;
extern const Family kPhiMoeAuthorsFamily;
extern const Family kPhiMoeFamily;
extern const Family kMixtralFamily;
extern const Family kQwen2MoeFamily;
extern const Family kQwen3MoeFamily;
extern const Family kDeepseekV2Family;
extern const Family kDeepseekV3Family;

}  // namespace tessera

#endif  // TESSERA_MODELS_FAMILIES_FAMILIES_H_
