// What the front doors know of one served model. Made once by main, immutable from then on, read by
// every I/O thread.

#ifndef TESSERA_COORDINATOR_API_SERVED_MODEL_H_
#define TESSERA_COORDINATOR_API_SERVED_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/dtype.h"
#include "coordinator/text/chat_template.h"
#include "coordinator/text/tokenizer.h"
#include "models/generation_defaults.h"
#include "models/model_spec.h"

namespace tessera {

struct ServedModel {
  uint32_t index = 0;     // Request::model; place in the coordinator's model list
  std::string name;       // as clients say it
  std::string directory;  // where the coordinator read it
  ModelSpec spec;
  GenerationDefaults defaults;  // what a request gets that does not say
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::shared_ptr<const text::ChatTemplate>
      chat_template;        // null: the model has none, chat is refused
  int64_t context_max = 0;  // tokens, prompt and output together
  int tensor_parallel = 1;
  DType dtype = DType::kBFloat16;
  std::string license;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_API_SERVED_MODEL_H_
