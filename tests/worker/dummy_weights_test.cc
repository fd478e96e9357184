// Weights that are made up: nothing but config.json is needed, and every tp has parts of the same
// model.

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "models/checkpoint.h"
#include "tests/models/model_files.h"
#include "tests/worker/rank_group.h"
#include "tests/worker/tiny_model.h"

namespace tessera {
namespace {

using Rows = std::vector<std::vector<std::vector<float>>>;

class DummyWeightsTest : public testing::Test {
 protected:
  void SetUp() override { dir_.Write("config.json", TinyConfig().dump()); }

  Rows Logits(int tp, RankGroupOptions options = {}) {
    options.tp = tp;
    options.dummy_weights = true;
    auto group = RankGroup::Load(dir_.path(), options);
    EXPECT_TRUE(group.ok()) << group.status();
    return (*group)->Step({{1, {3, 1, 4, 1, 5}}, {2, {9, 2, 6}}});
  }

  TempDir dir_;
};

TEST_F(DummyWeightsTest, EveryTpHasTheSameModel) {
  const Rows whole = Logits(1);
  std::set<float> values;
  for (float value : whole[0][4]) {
    ASSERT_TRUE(std::isfinite(value));
    values.insert(value);
  }
  EXPECT_GT(values.size(), 30u) << "logits must tell tokens apart";
  EXPECT_NE(whole[0][4], whole[1][2]);
  for (int tp : {2, 4, 8}) EXPECT_EQ(Logits(tp), whole) << "tp " << tp;
}

// Float8 weights are near what they stand for, take half the memory, and tp does not show in them.
TEST_F(DummyWeightsTest, Float8IsNearAndTheSameForEveryTp) {
  RankGroupOptions options;
  const Rows exact = Logits(1, options);
  options.float8 = true;
  const Rows whole = Logits(1, options);
  double difference = 0;
  double size = 0;
  for (size_t i = 0; i < exact[0][4].size(); ++i) {
    difference += std::pow(exact[0][4][i] - whole[0][4][i], 2);
    size += std::pow(exact[0][4][i], 2);
  }
  EXPECT_GT(difference, 0) << "nothing was rounded";
  EXPECT_LT(std::sqrt(difference / size), 0.2);
  for (int tp : {2, 4}) EXPECT_EQ(Logits(tp, options), whole) << "tp " << tp;
}

TEST_F(DummyWeightsTest, FamiliesWithRunsAndLatentsToo) {
  for (const char* name : {"deepseek_v2", "phi3_window", "qwen2_moe", "gemma2"}) {
    const std::string from = std::string(TESSERA_SOURCE_DIR) + "/tests/golden/models/" + name;
    RankGroupOptions options;
    options.dummy_weights = true;
    auto one = RankGroup::Load(from, options);
    ASSERT_TRUE(one.ok()) << name << ": " << one.status();
    options.tp = 2;
    auto two = RankGroup::Load(from, options);
    ASSERT_TRUE(two.ok()) << name << ": " << two.status();
    const std::vector<RowTokens> rows = {{1, {3, 1, 4}}};
    EXPECT_EQ((*one)->Step(rows), (*two)->Step(rows)) << name;
  }
}

TEST_F(DummyWeightsTest, DigestIsThatOfTheConfiguration) {
  const auto digest = [&] { return (*Checkpoint::WithoutWeights(dir_.path()))->digest(); };
  const std::string bare = digest();
  WriteTinyModel(dir_, TinyConfig(), "BF16", 3);
  EXPECT_EQ(digest(), bare) << "weights do not matter";
  EXPECT_NE((*Checkpoint::Open(dir_.path()))->digest(), bare);
  nlohmann::json config = TinyConfig();
  config["rope_theta"] = 12345.0;
  dir_.Write("config.json", config.dump());
  EXPECT_NE(digest(), bare);
}

}  // namespace
}  // namespace tessera
