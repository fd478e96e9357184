// What the features of a model golden are to the model: for each a way to switch it off, or the
// word that there is nothing to switch. Used by the parity test, which must fail with any of them
// off: not load where that is all that can be seen, else give other logits or other tokens.

#ifndef TESSERA_TESTS_WORKER_FEATURE_MUTATIONS_H_
#define TESSERA_TESTS_WORKER_FEATURE_MUTATIONS_H_

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "models/model_spec.h"
#include "tests/worker/rank_group.h"
#include "worker/weights.h"

namespace tessera {

struct Mutation {
  std::string name;
  std::function<void(ModelSpec&)> edit = nullptr;
  std::function<void(Weights&)> edit_weights = nullptr;
  // Of a copy of the model's directory.
  std::function<void(const std::string& dir, const ModelSpec&)> edit_files = nullptr;
  // Where it applies; null: everywhere.
  std::function<bool(const ModelSpec&)> applies = nullptr;
  // Something else than kComputeAnew: the greedy tokens must differ, logits of prompts need not.
  AtSwitch at_switch = AtSwitch::kComputeAnew;
  // What the refusal to load says, where the shapes of tensors already tell. Empty: it must load.
  std::string refusal = "";
};

// Those that every model must notice.
std::vector<Mutation> CommonMutations();

// By feature. One that is not in it is unknown.
std::map<std::string, std::vector<Mutation>> FeatureMutations();

// Features that say how a checkpoint is made or stored and have no mutation: models_test reads them
// off the files.
std::set<std::string> FeaturesOfFiles();

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_FEATURE_MUTATIONS_H_
