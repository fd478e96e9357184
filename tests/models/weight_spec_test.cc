// Shards: over all ranks they tile every tensor exactly, whatever the model.

#include "models/weight_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "tests/models/random_spec.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// How often each element of a [rows, columns] tensor is kept by the ranks.
std::vector<int> Coverage(const WeightSpec& weight, const ModelSpec& spec, int tp) {
  const int64_t rows = weight.shape[0];
  const int64_t columns = weight.shape.size() > 1 ? weight.shape[1] : 1;
  std::vector<int> kept(rows * columns, 0);
  for (int rank = 0; rank < tp; ++rank) {
    const Shard shard = ShardOf(weight, spec, rank, tp);
    EXPECT_GE(shard.row_begin, 0);
    EXPECT_GE(shard.row_count, 0);
    EXPECT_GE(shard.rows_padded, shard.row_count);
    EXPECT_LE(shard.row_begin + shard.row_count, rows);
    EXPECT_LE(shard.column_begin + shard.column_count, columns);
    for (int64_t r = 0; r < shard.row_count; ++r) {
      for (int64_t c = 0; c < shard.column_count; ++c) {
        ++kept[(shard.row_begin + r) * columns + shard.column_begin + c];
      }
    }
  }
  return kept;
}

TEST(ShardOf, RanksTileEveryTensor) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 60; ++round) {
    const ModelSpec spec = RandomSpec(random);
    for (const int tp : kTensorParallelSizes) {
      if (!CheckTensorParallel(spec, tp).ok()) continue;
      for (const WeightSpec& weight : WeightTable(spec)) {
        if (weight.layer > 0) continue;  // all layers are alike
        int64_t times = 1;
        if (weight.rule == ShardRule::kReplicate) times = tp;
        if (weight.rule == ShardRule::kKvHeads)
          times = std::max<int64_t>(1, tp / spec.num_kv_heads);
        const std::vector<int> kept = Coverage(weight, spec, tp);
        ASSERT_THAT(kept, testing::Each(times)) << weight.name << " tp " << tp;
      }
    }
  }
}

TEST(ShardOf, EveryRankHasTheSamePaddedVocabulary) {
  ModelSpec spec = SpecOf({.heads = 8, .kv_heads = 8, .vocab = 13});
  const WeightSpec embedding = WeightTable(spec).front();
  ASSERT_EQ(embedding.slot, WeightSlot::kEmbedding);
  int64_t rows = 0;
  for (int rank = 0; rank < 8; ++rank) {
    const Shard shard = ShardOf(embedding, spec, rank, 8);
    EXPECT_EQ(shard.rows_padded, 2);
    rows += shard.row_count;
  }
  EXPECT_EQ(rows, 13);
  EXPECT_EQ(ShardOf(embedding, spec, 6, 8).row_count, 1);
  EXPECT_EQ(ShardOf(embedding, spec, 7, 8).row_count, 0);
}

TEST(HeadsOf, QueryHeadsMeetTheirKvHeads) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    const ModelSpec spec = RandomSpec(random);
    const int64_t per_kv = spec.num_heads / spec.num_kv_heads;
    for (const int tp : kTensorParallelSizes) {
      if (!CheckTensorParallel(spec, tp).ok()) continue;
      for (int rank = 0; rank < tp; ++rank) {
        const HeadShard heads = HeadsOf(spec, rank, tp);
        ASSERT_EQ(heads.num_heads * tp, spec.num_heads);
        ASSERT_EQ(heads.num_heads % heads.num_kv_heads, 0);
        for (int64_t h = 0; h < heads.num_heads; ++h) {
          // The rank's own mapping must name the KV head that the whole model's mapping names.
          const int64_t mine = heads.kv_begin + h / (heads.num_heads / heads.num_kv_heads);
          ASSERT_EQ(mine, (rank * heads.num_heads + h) / per_kv) << "tp " << tp << " rank " << rank;
        }
      }
    }
  }
}

TEST(CheckTensorParallel, NamesTheNumberAndWhatWorks) {
  const ModelSpec spec = SpecOf({.heads = 12, .kv_heads = 6, .intermediate = 24});
  EXPECT_TRUE(CheckTensorParallel(spec, 1).ok());
  EXPECT_TRUE(CheckTensorParallel(spec, 2).ok());
  const auto message = [&](const ModelSpec& s, int tp) {
    const absl::Status status = CheckTensorParallel(s, tp);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message(spec, 4),
              AllOf(HasSubstr("tp = 4"), HasSubstr("6 KV heads"), HasSubstr("tp = 1, 2")));
  EXPECT_THAT(message(spec, 8), HasSubstr("12 attention heads"));
  EXPECT_THAT(message(SpecOf({.heads = 8, .kv_heads = 2, .intermediate = 20}), 8),
              AllOf(HasSubstr("intermediate size, 20"), HasSubstr("tp = 1, 2, 4")));
  for (const int tp : {0, -1, 3, 16}) {
    EXPECT_THAT(message(spec, tp), HasSubstr("must be one of 1, 2, 4, 8"));
  }
}

TEST(WeightTable, EveryNameAndPlaceOnce) {
  const ModelSpec spec = SpecOf({.layers = 3, .biases = true});
  std::set<std::string> names;
  std::set<std::pair<int, WeightSlot>> places;
  for (const WeightSpec& weight : WeightTable(spec)) {
    EXPECT_TRUE(names.insert(weight.name).second) << weight.name;
    EXPECT_TRUE(places.insert({weight.layer, weight.slot}).second) << weight.name;
  }
  EXPECT_EQ(names.size(), 3u + 3 * 16);  // 9 weights and 7 biases per layer
  for (const char* bias : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                           "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
    EXPECT_EQ(names.count(std::string("model.layers.2.") + bias + ".bias"), 1u) << bias;
  }
}

TEST(WeightTable, ATiedHeadIsNotInIt) {
  ModelSpec spec = SpecOf({});
  const size_t untied = WeightTable(spec).size();
  EXPECT_FALSE(IsIgnorableTensor(spec, "lm_head.weight"));
  spec.tied_head = true;
  EXPECT_EQ(WeightTable(spec).size(), untied - 1);
  EXPECT_TRUE(IsIgnorableTensor(spec, "lm_head.weight"));
}

}  // namespace
}  // namespace tessera
