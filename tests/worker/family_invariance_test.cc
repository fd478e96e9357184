// The bits of invariance_test.cc for every model golden: what is special in a family (windows whose
// blocks are given back, several KvGroups, head norms, two ropes) must not show in them either.
// TESSERA_COMPOSITIONS scales the number of compositions, 1000 being the default's.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "tests/golden/models/golden.h"
#include "tests/worker/invariance_composition.h"
#include "tests/worker/invariance_script.h"
#include "tests/worker/rank_group.h"

namespace tessera {
namespace {

constexpr int kFamilyRequests = 8;
constexpr int64_t kFamilyContext = 64;  // tokens; beyond every golden's window

int64_t FamilyCompositions() {
  const char* wanted = std::getenv("TESSERA_COMPOSITIONS");
  int64_t count = 1000;
  if (wanted != nullptr && !absl::SimpleAtoi(wanted, &count)) ADD_FAILURE() << wanted;
  return std::max<int64_t>(1, count / 100);
}

class FamilyInvarianceTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    absl::StatusOr<golden::Golden> golden = golden::Read(GetParam());
    ASSERT_TRUE(golden.ok()) << golden.status();
    golden_ = *std::move(golden);
  }
  std::unique_ptr<RankGroup> Load(int tp, DType dtype, int64_t block_size, uint32_t num_blocks) {
    auto group = RankGroup::Load(golden_.model_dir, {.tp = tp,
                                                     .dtype = dtype,
                                                     .block_size = block_size,
                                                     .tokens_max = 256,
                                                     .context_max = kFamilyContext,
                                                     .num_blocks = num_blocks});
    EXPECT_TRUE(group.ok()) << group.status();
    return group.ok() ? *std::move(group) : nullptr;
  }
  std::vector<ScriptedRequest> Script(DType dtype, uint64_t seed, int count = kFamilyRequests) {
    const std::unique_ptr<RankGroup> alone = Load(1, dtype, 16, 1024);
    std::mt19937 random(static_cast<uint32_t>(seed));
    return MakeRequests(*alone, count, random);
  }

  golden::Golden golden_;
};

TEST_P(FamilyInvarianceTest, AnyCompositionGivesTheBitsOfTheSequenceAlone) {
  const uint64_t seed = std::random_device()();
  std::cout << "seed " << seed << "\n";
  CompositionCounts counts;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const std::vector<ScriptedRequest> script = Script(dtype, seed);
    for (const int tp : {1, golden_.tp.back()}) {
      // Few blocks, so that sequences push each other out.
      const auto group = Load(tp, dtype, tp == 1 ? 8 : 4, tp == 1 ? 20 : 40);
      ASSERT_NE(group, nullptr);
      const int64_t share = tp == 1 ? FamilyCompositions() : (FamilyCompositions() + 3) / 4;
      for (int64_t i = 0; i < share; ++i) {
        Composition composition(script, *group, seed + i, PlantedFault::kNone, counts);
        const absl::Status status = composition.Run();
        ASSERT_TRUE(status.ok()) << "seed " << seed << ", composition " << i << " of tp " << tp
                                 << " " << DTypeName(dtype) << ": " << status;
      }
    }
  }
  EXPECT_GE(counts.samples, FamilyCompositions());
  if (golden_.Has("window")) {
    EXPECT_GE(counts.dropped, FamilyCompositions());
  }
}

// Test of the test: sequences that grow beyond the switch of their rotary factors.
TEST_P(FamilyInvarianceTest, FindsASwitchThatWasMissed) {
  if (!golden_.Has("rope_switch")) return;
  const uint64_t seed = 7;
  std::vector<ScriptedRequest> script = Script(DType::kFloat32, seed, 60);
  const auto group = Load(1, DType::kFloat32, 4, 40);
  ASSERT_NE(group, nullptr);
  std::erase_if(script, [&](const ScriptedRequest& request) {
    const int64_t end = static_cast<int64_t>(request.choices[0].text.size());
    return group->IsLong(request.num_prompt_tokens) || !group->IsLong(end - 1);
  });
  ASSERT_GE(script.size(), 3u);
  CompositionCounts none;
  for (uint64_t i = 0; i < 40; ++i) {
    const absl::Status status =
        Composition(script, *group, seed + i, PlantedFault::kNone, none).Run();
    ASSERT_TRUE(status.ok()) << status;
  }
  EXPECT_GE(none.switched, 10);
  for (const PlantedFault fault : {PlantedFault::kNoSwitch, PlantedFault::kSharedNames}) {
    CompositionCounts counts;
    int found = 0;
    for (uint64_t i = 0; i < 100; ++i) {
      if (!Composition(script, *group, seed + i, fault, counts).Run().ok()) ++found;
    }
    std::cout << "fault " << static_cast<int>(fault) << " found in " << found << " of 100\n";
    EXPECT_GE(found, 10);
  }
}

// Test of the test: the comparison sees a window's block that went too early.
TEST_P(FamilyInvarianceTest, FindsAWindowThatIsGivenBackTooEarly) {
  if (!golden_.Has("window")) return;
  const uint64_t seed = 7;
  const std::vector<ScriptedRequest> script = Script(DType::kFloat32, seed);
  // So few blocks that what is given back is soon taken by others.
  const auto group = Load(1, DType::kFloat32, 4, 14);
  ASSERT_NE(group, nullptr);
  CompositionCounts counts;
  int faulty = 0;
  int found = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    const int64_t before = counts.faults;
    const absl::Status status =
        Composition(script, *group, seed + i, PlantedFault::kDroppedEarly, counts).Run();
    if (counts.faults == before) continue;
    ++faulty;
    if (!status.ok()) ++found;
  }
  std::cout << "planted in " << faulty << ", found in " << found << "\n";
  // Often nobody takes the block before its sequence is over, most of all with a long window.
  EXPECT_GE(faulty, 50);
  EXPECT_GE(found, 3);
}

INSTANTIATE_TEST_SUITE_P(All, FamilyInvarianceTest, testing::ValuesIn(golden::CaseNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tessera
