// What the features of a model golden are to the model: for each a way to switch it off, or the
// word that there is nothing to switch. Used by the parity test, which must fail with any of them
// off.

#ifndef TESSERA_TESTS_WORKER_FEATURE_MUTATIONS_H_
#define TESSERA_TESTS_WORKER_FEATURE_MUTATIONS_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "models/model_spec.h"
#include "worker/weights.h"

namespace tessera {

struct Mutation {
  std::string name;
  std::function<void(ModelSpec&)> edit = nullptr;
  std::function<void(Weights&)> edit_weights = nullptr;
};

// Those that every model must notice.
std::vector<Mutation> CommonMutations();

// By feature; empty for one that says how a checkpoint is made or stored. One that is not in it is
// unknown.
std::map<std::string, std::vector<Mutation>> FeatureMutations();

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_FEATURE_MUTATIONS_H_
