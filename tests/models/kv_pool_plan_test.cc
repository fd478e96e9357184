// The split of the KV pool over full and windowed groups, and what one sequence holds.

#include "models/kv_pool_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "models/describe.h"
#include "models/memory_plan.h"
#include "tests/models/model_files.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kPoolGiB = 1ull << 30;

// Of Gemma 3's shape: `layers` layers, five of six windowed; heads as in the 4B model.
ModelSpec Mixed(int layers, int64_t window, int64_t context) {
  nlohmann::json config = SmallConfig();
  config.update({{"architectures", {"Gemma3ForCausalLM"}},
                 {"num_hidden_layers", layers},
                 {"num_attention_heads", 8},
                 {"num_key_value_heads", 4},
                 {"head_dim", 256},
                 {"max_position_embeddings", context},
                 {"query_pre_attn_scalar", 256},
                 {"sliding_window", window}});
  return *ParseModelSpec(config.dump());
}

ModelSpec WindowOnly(int64_t window, int64_t context) {
  nlohmann::json config = SmallConfig();
  config.update({{"architectures", {"MistralForCausalLM"}},
                 {"max_position_embeddings", context},
                 {"sliding_window", window}});
  return *ParseModelSpec(config.dump());
}

TEST(KvPoolPlan, ASequenceHoldsItsWindowAndTwoChunksAtMost) {
  const ModelSpec spec = Mixed(34, 1024, 131072);  // 29 windowed layers, 5 full ones
  const MemoryRequest request = {.chunk_max = 512};
  const uint64_t layer = 2 * 4 * 256 * 2;  // bytes of a token in one layer
  // Shorter than the window: the same everywhere.
  EXPECT_EQ(KvBytesAtRest(spec, request, 1000), 34 * layer * 1008);
  EXPECT_EQ(KvBytesAtMost(spec, request, 1000), 34 * layer * 1008);
  EXPECT_EQ(KvBytesAtRest(spec, request, 131072), layer * (5 * 131072 + 29 * (1024 + 16)));
  EXPECT_EQ(KvBytesAtMost(spec, request, 131072),
            layer * (5 * 131072 + 29 * (1024 + 2 * 512 + 2 * 16)));
}

TEST(KvPoolPlan, TypicalSequencesUseUpAllGroupsAlike) {
  const ModelSpec spec = Mixed(34, 1024, 131072);
  const MemoryRequest request = {.chunk_max = 512};
  const KvPoolPlan plan = SplitKvPool(spec, request, 131072, 64 * kPoolGiB);
  ASSERT_EQ(plan.num_blocks.size(), 2u);
  const double full = plan.num_blocks[0] / (8192 / 16.0);
  const double window = plan.num_blocks[1] / ((1024 + 16) / 16.0);
  EXPECT_NEAR(full / window, 1.0, 0.01);
  EXPECT_LE(plan.bytes, 64 * kPoolGiB);
  EXPECT_GT(plan.bytes, 63 * kPoolGiB);
  // Equal numbers of tokens would hold far fewer.
  const uint64_t equal = 64 * kPoolGiB / (34 * 2 * 4 * 256 * 2);
  EXPECT_GT(plan.num_blocks[0] * 16, 3 * equal);
}

TEST(KvPoolPlan, OneLongestSequenceAlwaysFits) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    const int64_t context = 1 + random() % 40000;
    const int64_t window = 1 + random() % 5000;
    const ModelSpec spec = round % 2 == 0
                               ? Mixed(1 + static_cast<int>(random() % 12), window, context)
                               : WindowOnly(window, context);
    const MemoryRequest request = {.block_size = 1 + static_cast<int64_t>(random() % 40),
                                   .chunk_max = 1 + static_cast<int64_t>(random() % 3000)};
    const uint64_t least = KvBytesAtMost(spec, request, context);
    for (const uint64_t pool : {least, least + least / 3, 10 * least}) {
      const KvPoolPlan plan = SplitKvPool(spec, request, context, pool);
      ASSERT_LE(plan.bytes, pool);
      ASSERT_GE(plan.tokens, context);
      for (size_t group = 0; group < spec.kv_groups.size(); ++group) {
        const KvGroup& kv = spec.kv_groups[group];
        // As the scheduler's block manager asks.
        const int64_t kept =
            kv.window == 0
                ? context
                : std::min(context, kv.window + 2 * request.chunk_max + 2 * request.block_size);
        ASSERT_GE(plan.num_blocks[group] * request.block_size, kept);
      }
    }
    const KvPoolPlan short_plan = SplitKvPool(spec, request, context, least - 1);
    ASSERT_LT(short_plan.tokens, context);
    ASSERT_LE(short_plan.bytes, least - 1);
  }
}

TEST(KvPoolPlan, WindowsMakeRoomInThePlan) {
  const MemoryRequest request = {.budget_bytes = kPoolGiB, .kv_bytes_max = 2'000'000};
  const ModelSpec windowed = WindowOnly(256, 32768);
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(windowed, request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->kv_bytes_per_token, 2u * 2 * 2 * 6 * 2);
  EXPECT_EQ(plan->kv_bytes_per_sequence, (256u + 16) * plan->kv_bytes_per_token);
  EXPECT_GT(plan->sequences_at_context_max, 50);
  EXPECT_THAT(DescribeMemoryPlan(windowed, request, *plan), HasSubstr("for 32768 tokens"));
  EXPECT_THAT(DescribeModel(windowed, ""), HasSubstr("256 tokens in 2 of 2 layers"));
  // Without the window not even one sequence fits.
  const absl::Status status = PlanMemory(WindowOnly(32768, 32768), request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("one sequence of 32768 tokens"), HasSubstr("a KV cap of at least")));
}

}  // namespace
}  // namespace tessera
