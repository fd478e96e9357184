// Bytes per rank, and what is said when they are not there.

#include "models/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "models/describe.h"
#include "tests/models/random_spec.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kGiB = 1ull << 30;

// Llama 3.1 8B.
ModelSpec Llama8b() {
  nlohmann::json config = SmallConfig();
  config.update({{"num_hidden_layers", 32},
                 {"hidden_size", 4096},
                 {"num_attention_heads", 32},
                 {"num_key_value_heads", 8},
                 {"head_dim", 128},
                 {"intermediate_size", 14336},
                 {"vocab_size", 128256},
                 {"max_position_embeddings", 131072}});
  return *ParseModelSpec(config.dump());
}

TEST(MemoryPlan, ParametersOfAKnownModel) { EXPECT_EQ(ParameterCount(Llama8b()), 8'030'261'248); }

TEST(MemoryPlan, BytesOfAKnownModel) {
  const MemoryRequest request = {.tp = 2, .budget_bytes = 40 * kGiB, .context_max = 8192};
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(Llama8b(), request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->weight_bytes_replicated, 65u * 4096 * 2);
  EXPECT_EQ(plan->weight_bytes_sharded, (8'030'261'248ull - 65 * 4096) / 2 * 2);
  EXPECT_EQ(plan->kv_bytes_per_token, 32u * 2 * 4 * 128 * 2);
  EXPECT_EQ(plan->reserve_bytes, 2 * kGiB);
  EXPECT_EQ(plan->kv_tokens, int64_t{16} * plan->num_blocks[0]);
  EXPECT_EQ(plan->kv_bytes, plan->kv_tokens * plan->kv_bytes_per_token);
  EXPECT_DOUBLE_EQ(plan->sequences_at_context_max, plan->kv_tokens / 8192.0);
  EXPECT_LE(plan->total_bytes(), request.budget_bytes);
  EXPECT_GT(plan->total_bytes() + 16 * plan->kv_bytes_per_token, request.budget_bytes)
      << "one more block would not fit";
}

// What the ranks read, as the shards have it.
// Embedding and head stay as they are; of the rest every number takes a byte, every row a scale,
// and a row of what is summed over ranks one for each of the eight slices.
TEST(PlanMemory, Float8WeightsTakeHalf) {
  const MemoryRequest request = {.float8_weights = true, .budget_bytes = 64 * kGiB};
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(Llama8b(), request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const uint64_t vocabulary = 2ull * 128256 * 4096;
  const uint64_t matrices = 8'030'261'248ull - 65 * 4096 - vocabulary;
  const uint64_t scales = 32ull * (6144 + 2 * 14336 + 8 * (4096 + 4096)) * 4;
  EXPECT_EQ(plan->weight_bytes_sharded, 2 * vocabulary + matrices + scales);
}

TEST(MemoryPlan, WeightsAreTheShards) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 60; ++round) {
    const ModelSpec spec = RandomSpec(random);
    for (const int tp : kTensorParallelSizes) {
      if (!CheckTensorParallel(spec, tp).ok()) continue;
      const MemoryRequest request = {.tp = tp, .dtype = DType::kFloat32, .budget_bytes = kGiB};
      const absl::StatusOr<MemoryPlan> plan = PlanMemory(spec, request);
      ASSERT_TRUE(plan.ok()) << plan.status();
      uint64_t replicated = 0;
      uint64_t sharded = 0;
      uint64_t padding_max = 0;  // of every packed matrix 15 rows, and a column of every slice
      for (const WeightSpec& weight : WeightTable(spec)) {
        const Shard shard = ShardOf(weight, spec, 0, tp);
        const uint64_t bytes = 4 * shard.rows_padded * shard.column_count;
        const bool counts_twice = spec.tied_head && weight.slot == WeightSlot::kEmbedding;
        (weight.rule == ShardRule::kReplicate ? replicated : sharded) +=
            bytes * (counts_twice ? 2 : 1);
        if (weight.shape.size() == 2)
          padding_max += 4 * (15 * (shard.column_count + 8) + 8 * shard.rows_padded);
      }
      EXPECT_EQ(plan->weight_bytes_replicated, replicated);
      EXPECT_GE(plan->weight_bytes_sharded, sharded);
      EXPECT_LE(plan->weight_bytes_sharded, sharded + padding_max);
    }
  }
}

TEST(MemoryPlan, KvHeadsAreReplicatedBeyondTheirNumber) {
  const ModelSpec spec = SpecOf({.heads = 8, .kv_heads = 2});
  const auto per_token = [&](int tp) {
    return PlanMemory(spec, {.tp = tp, .budget_bytes = kGiB})->kv_bytes_per_token;
  };
  EXPECT_EQ(per_token(1), 2u * 2 * 2 * 6 * 2);
  EXPECT_EQ(per_token(2), per_token(1) / 2);
  EXPECT_EQ(per_token(8), per_token(2));
}

TEST(MemoryPlan, TheCapBoundsTheKvPool) {
  const ModelSpec spec = SpecOf({});
  const MemoryRequest request = {.budget_bytes = kGiB, .kv_bytes_max = 100'000};
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(spec, request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_LE(plan->kv_bytes, 100'000u);
  EXPECT_GT(plan->kv_bytes, 100'000u - 16 * plan->kv_bytes_per_token);
}

std::string Refusal(const ModelSpec& spec, const MemoryRequest& request) {
  const absl::Status status = PlanMemory(spec, request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  return std::string(status.message());
}

TEST(MemoryPlan, SaysWhatWouldFit) {
  const ModelSpec spec = Llama8b();
  EXPECT_THAT(Refusal(spec, {.tp = 1, .budget_bytes = 12 * kGiB, .context_max = 8192}),
              AllOf(HasSubstr("does not fit one rank of tp = 1"), HasSubstr("weights 14.96 GiB"),
                    HasSubstr("too much"), HasSubstr("what would fit: tp = 2, or "),
                    HasSubstr("GiB per rank")));
  EXPECT_THAT(Refusal(spec, {.tp = 1, .budget_bytes = 20 * kGiB}),
              AllOf(HasSubstr("one sequence of 131072 tokens"),
                    HasSubstr("what would fit: tp = 2, or "), HasSubstr("a context of at most ")));
  EXPECT_THAT(Refusal(spec, {.tp = 8, .budget_bytes = kGiB, .context_max = 8192}),
              AllOf(HasSubstr("what would fit: "), HasSubstr("GiB per rank")));
  EXPECT_THAT(Refusal(spec, {.budget_bytes = 80 * kGiB, .kv_bytes_max = kGiB}),
              AllOf(HasSubstr("KV cap 1.00 GiB"), HasSubstr("a KV cap of at least 16.00 GiB")));
}

TEST(MemoryPlan, TheAdviceIsTrue) {
  const ModelSpec spec = Llama8b();
  MemoryRequest request = {.tp = 1, .budget_bytes = 20 * kGiB};
  const std::string message = Refusal(spec, request);
  const std::string phrase = "a context of at most ";
  const size_t at = message.find(phrase);
  ASSERT_NE(at, std::string::npos) << message;
  request.context_max = std::stoll(message.substr(at + phrase.size()));
  EXPECT_TRUE(PlanMemory(spec, request).ok());
  request.context_max += request.block_size;
  EXPECT_FALSE(PlanMemory(spec, request).ok());
  request.context_max = 0;
  request.tp = 2;
  EXPECT_TRUE(PlanMemory(spec, request).ok());
}

TEST(MemoryPlan, BadRequestsAreRefused) {
  const ModelSpec spec = SpecOf({});
  for (const MemoryRequest& request :
       {MemoryRequest{.tp = 3, .budget_bytes = kGiB},
        MemoryRequest{.budget_bytes = kGiB, .block_size = 0},
        MemoryRequest{.budget_bytes = kGiB, .context_max = 65},
        MemoryRequest{.budget_bytes = kGiB, .context_max = -1},
        MemoryRequest{.budget_bytes = kGiB, .tokens_max = 0},
        MemoryRequest{.budget_bytes = kGiB, .rows_max = -1},
        MemoryRequest{.budget_bytes = kGiB, .reserve_fraction = 1.0}}) {
    EXPECT_EQ(PlanMemory(spec, request).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(Describe, SaysWhatIsNotPlain) {
  const ModelSpec plain = Llama8b();
  for (const char* word : {"GELU", "embedding times", "1 + weight", "scores times"}) {
    EXPECT_THAT(DescribeModel(plain, ""), Not(HasSubstr(word)));
  }
  ModelSpec spec = plain;
  spec.activation = ActivationKind::kGeluTanh;
  spec.embedding_scale = 45.25f;
  spec.norm_plus_one = true;
  spec.attention_scale = 0.0625f;
  EXPECT_THAT(DescribeModel(spec, ""),
              AllOf(HasSubstr("GELU by tanh"), HasSubstr("embedding times 45.25"),
                    HasSubstr("norms by 1 + weight"), HasSubstr("scores times 0.0625")));
}

TEST(Describe, SaysWhatTheModelIs) {
  ModelSpec spec = Llama8b();
  spec.ropes[0].scaling = {RopeScaling::Kind::kLlama3, 8.0, 1.0, 4.0, 8192};
  EXPECT_THAT(DescribeModel(spec, "llama3.1"),
              AllOf(HasSubstr("LlamaForCausalLM (family llama)"),
                    HasSubstr("8.03 billion (8030261248)"), HasSubstr("32 query, 8 KV, of 128"),
                    HasSubstr("131072 tokens"), HasSubstr("llama3 scaling by 8 from 8192 tokens"),
                    HasSubstr("llama3.1"), HasSubstr("1, 2, 4, 8")));
  const MemoryRequest request = {.tp = 2, .budget_bytes = 40 * kGiB, .context_max = 8192};
  EXPECT_THAT(DescribeMemoryPlan(spec, request, *PlanMemory(spec, request)),
              AllOf(HasSubstr("7.48 GiB bfloat16"), HasSubstr("64.0 KiB per token"),
                    HasSubstr("of 40.00 GiB"), HasSubstr("sequences of 8192")));
}

}  // namespace
}  // namespace tessera
