// Batch, chunks, prefix hits, preemption, forks, carried tokens and tp leave every logit as it is
// when its sequence is computed alone: bit for bit, on the real CPU backend. One thousand random
// compositions, or TESSERA_COMPOSITIONS of them.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <string>

#include "absl/strings/numbers.h"
#include "tests/models/model_files.h"
#include "tests/worker/invariance_composition.h"
#include "tests/worker/invariance_script.h"
#include "tests/worker/rank_group.h"
#include "tests/worker/tiny_model.h"

namespace tessera {
namespace {

constexpr int kRequests = 24;

// Few blocks, so that sequences push each other out. The composition's seed alone names a failure.
struct GroupShape {
  int tp;
  DType dtype;
  int64_t block_size;
  uint32_t num_blocks;
  int share;  // of the compositions, in 64ths: ranks are threads, and many of them mostly wait
};

constexpr GroupShape kShapes[] = {
    {1, DType::kFloat32, 8, 20, 18},  {1, DType::kFloat32, 16, 12, 14},
    {1, DType::kBFloat16, 4, 40, 16}, {2, DType::kFloat32, 8, 20, 5},
    {2, DType::kBFloat16, 16, 12, 5}, {4, DType::kFloat32, 4, 40, 3},
    {4, DType::kBFloat16, 8, 20, 3},
};

int64_t NumCompositions() {
  const char* wanted = std::getenv("TESSERA_COMPOSITIONS");
  int64_t count = 1000;
  if (wanted != nullptr && !absl::SimpleAtoi(wanted, &count)) ADD_FAILURE() << wanted;
  return count;
}

uint64_t BaseSeed() {
  const char* wanted = std::getenv("TESSERA_COMPOSITION_SEED");
  uint64_t seed = std::random_device()();
  if (wanted != nullptr && !absl::SimpleAtoi(wanted, &seed)) ADD_FAILURE() << wanted;
  return seed;
}

class InvarianceTest : public testing::Test {
 protected:
  void SetUp() override { WriteTinyModel(dir_, TinyConfig(), "F32", 5); }

  std::unique_ptr<RankGroup> Load(const RankGroupOptions& options) {
    auto group = RankGroup::Load(dir_.path(), options);
    EXPECT_TRUE(group.ok()) << group.status();
    return group.ok() ? *std::move(group) : nullptr;
  }
  RankGroupOptions Options(const GroupShape& shape) const {
    return {.tp = shape.tp,
            .dtype = shape.dtype,
            .block_size = shape.block_size,
            .tokens_max = 256,
            .context_max = 64,
            .num_blocks = shape.num_blocks};
  }
  // The requests of a seed are the same for every shape with the dtype.
  std::vector<ScriptedRequest> Script(DType dtype, uint64_t seed) {
    const std::unique_ptr<RankGroup> alone =
        Load({.dtype = dtype, .tokens_max = 256, .context_max = 64});
    std::mt19937 random(static_cast<uint32_t>(seed));
    return MakeRequests(*alone, kRequests, random);
  }

  TempDir dir_;
};

TEST_F(InvarianceTest, AnyCompositionGivesTheBitsOfTheSequenceAlone) {
  const uint64_t seed = BaseSeed();
  const int64_t compositions = NumCompositions();
  std::cout << "seed " << seed << ", " << compositions
            << " compositions; again with TESSERA_COMPOSITION_SEED=" << seed << "\n";
  const std::vector<ScriptedRequest> float_script = Script(DType::kFloat32, seed);
  const std::vector<ScriptedRequest> bfloat_script = Script(DType::kBFloat16, seed);
  CompositionCounts counts;
  for (const GroupShape& shape : kShapes) {
    const auto group = Load(Options(shape));
    ASSERT_NE(group, nullptr);
    const bool bfloat = shape.dtype == DType::kBFloat16;
    const int64_t share = (compositions * shape.share + 63) / 64;
    for (int64_t i = 0; i < share; ++i) {
      Composition composition(bfloat ? bfloat_script : float_script, *group, seed + i,
                              PlantedFault::kNone, counts);
      const absl::Status status = composition.Run();
      ASSERT_TRUE(status.ok()) << "seed " << seed << ", composition " << i << " of tp " << shape.tp
                               << " " << DTypeName(shape.dtype) << " block size "
                               << shape.block_size << ": " << status;
    }
  }
  std::cout << counts.steps << " steps, " << counts.samples << " samples, " << counts.scored
            << " scored prompt tokens, " << counts.hits << " hit blocks, " << counts.preemptions
            << " preemptions, " << counts.copies << " copies, " << counts.carried
            << " carried tokens, " << counts.resets << " resets without need\n";
  // Every kind of event was there, again and again.
  for (int64_t count : {counts.samples, counts.hits, counts.preemptions, counts.copies,
                        counts.carried, counts.resets, counts.scored}) {
    EXPECT_GE(count, compositions / 10);
  }
}

// Test of the test: mistakes in the plans, which no rank can see, must show in the bits.
TEST_F(InvarianceTest, FindsPlantedFaults) {
  const uint64_t seed = 7;
  const std::vector<ScriptedRequest> script = Script(DType::kFloat32, seed);
  const auto group = Load(Options(kShapes[0]));
  ASSERT_NE(group, nullptr);
  for (const PlantedFault fault : {PlantedFault::kWrongBlock, PlantedFault::kForgottenCopy,
                                   PlantedFault::kHitTooLong, PlantedFault::kStaleHit}) {
    CompositionCounts counts;
    int faulty = 0;
    int found = 0;
    for (uint64_t i = 0; i < 100; ++i) {
      const int64_t before = counts.faults;
      const absl::Status status = Composition(script, *group, seed + i, fault, counts).Run();
      if (counts.faults == before) {
        EXPECT_TRUE(status.ok()) << status;
        continue;
      }
      ++faulty;
      if (status.code() == absl::StatusCode::kDataLoss) ++found;
    }
    EXPECT_GE(faulty, 10) << static_cast<int>(fault);
    // A wrong block may by chance hold the right tokens, a victim may be preempted before it draws.
    EXPECT_GE(found, faulty / 2) << static_cast<int>(fault);
    std::cout << "fault " << static_cast<int>(fault) << ": planted in " << faulty << ", found in "
              << found << "\n";
  }
}

// Test of the test: the last bit of one number of the model shows at once.
TEST_F(InvarianceTest, FindsAnotherLastBit) {
  const uint64_t seed = 8;
  const std::vector<ScriptedRequest> script = Script(DType::kFloat32, seed);
  RankGroupOptions options = Options(kShapes[0]);
  options.edit = [](ModelSpec& spec) {
    spec.attention_scale = std::nextafter(spec.attention_scale, 1.0f);
  };
  const auto group = Load(options);
  ASSERT_NE(group, nullptr);
  CompositionCounts counts;
  int found = 0;
  for (uint64_t i = 0; i < 10; ++i) {
    const absl::Status status =
        Composition(script, *group, seed + i, PlantedFault::kNone, counts).Run();
    if (status.code() == absl::StatusCode::kDataLoss) ++found;
  }
  EXPECT_EQ(found, 10);
}

}  // namespace
}  // namespace tessera
