// `tessera inspect` of directories that hold something, but no model: exit 1, and what is wrong.

#include "cli/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "tests/models/model_files.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

struct Outcome {
  int code = 0;
  std::string output;
  std::string error;
};

Outcome InspectModel(const std::string& directory) {
  InspectOptions options;
  options.model = directory;
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Outcome outcome;
  outcome.code = RunInspect(options);
  outcome.output = testing::internal::GetCapturedStdout();
  outcome.error = testing::internal::GetCapturedStderr();
  return outcome;
}

TEST(Inspect, AConfigAloneIsPlanned) {
  const TempDir dir;
  dir.Write("config.json", SmallConfig().dump());
  dir.Write("tokenizer.json", "{}");
  const Outcome outcome = InspectModel(dir.path());
  EXPECT_EQ(outcome.code, 0) << outcome.error;
  EXPECT_THAT(outcome.output, HasSubstr("none here"));
}

TEST(Inspect, WeightsThatAreThereInPartAreNamed) {
  const std::string first = "model-00001-of-00002.safetensors";
  const std::string index =
      Json{{"weight_map",
            {{"model.norm.weight", first}, {"lm_head.weight", "model-00002-of-00002.safetensors"}}}}
          .dump();
  struct Case {
    std::string name;
    std::string content;  // empty: a link to nowhere
    std::string says;
  };
  for (const Case& one :
       {Case{"model.safetensors.index.json", index, first},
        Case{"model.safetensors.index.json", "", "model.safetensors.index.json"},
        Case{"model.safetensors", "", "model.safetensors"}, Case{first, "x", first},
        Case{"pytorch_model.bin", "x", "pytorch_model.bin"},
        Case{"pytorch_model.bin.index.json", "{}", "pytorch_model.bin.index.json"}}) {
    const TempDir dir;
    dir.Write("config.json", SmallConfig().dump());
    if (one.content.empty()) {
      std::filesystem::create_symlink(dir.path() + "/blob", dir.path() + "/" + one.name);
    } else {
      dir.Write(one.name, one.content);
    }
    const Outcome outcome = InspectModel(dir.path());
    EXPECT_EQ(outcome.code, 1) << one.name;
    EXPECT_THAT(outcome.error, HasSubstr(one.says));
  }
}

// The largest numbers that a config may say.
TEST(Inspect, NoConfigTakesLong) {
  Json config = SmallConfig();
  config.update({{"architectures", {"MixtralForCausalLM"}},
                 {"num_hidden_layers", 1024},
                 {"num_local_experts", 325},
                 {"num_experts_per_tok", 2},
                 {"max_position_embeddings", 16777216},
                 {"hidden_size", 131072},
                 {"intermediate_size", 1048576},
                 {"num_attention_heads", 4096},
                 {"num_key_value_heads", 4096},
                 {"head_dim", 512},
                 {"vocab_size", 4194304},
                 {"sliding_window", nullptr}});
  const TempDir dir;
  dir.Write("config.json", config.dump());
  const auto start = std::chrono::steady_clock::now();
  const Outcome outcome = InspectModel(dir.path());
  EXPECT_EQ(outcome.code, 0) << outcome.error;
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

}  // namespace
}  // namespace tessera
