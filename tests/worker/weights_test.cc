// Loading a shard: how much is read and kept, what is refused, that values arrive where they
// belong, and that progress and cancellation work.

#include "worker/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/clock.h"
#include "models/weight_spec.h"
#include "tests/models/model_files.h"
#include "tests/worker/tiny_model.h"

namespace tessera {
namespace {

using testing::HasSubstr;

class WeightsTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Ops>> ops = NewCpuOps();
    ASSERT_TRUE(ops.ok()) << ops.status();
    ops_ = *std::move(ops);
  }

  absl::StatusOr<std::unique_ptr<Weights>> Load(const ModelSpec& spec,
                                                const WeightsOptions& options,
                                                const LoadProgressFn& progress = Quiet()) {
    absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = Checkpoint::Open(dir_.path());
    if (!checkpoint.ok()) return checkpoint.status();
    const RealClock clock;
    return LoadWeights(*ops_, {}, spec, **checkpoint, options, clock, progress);
  }
  static LoadProgressFn Quiet() {
    return [](uint64_t, uint64_t) { return absl::OkStatus(); };
  }

  TempDir dir_;
  std::unique_ptr<Ops> ops_;
};

// A model large enough that panels and rounding do not hide what is read twice.
nlohmann::json MediumConfig() {
  nlohmann::json config = TinyConfig();
  config["hidden_size"] = 128;
  config["head_dim"] = 16;
  config["intermediate_size"] = 256;
  config["vocab_size"] = 512;
  return config;
}

TEST_F(WeightsTest, ReadsAndKeepsOnlyItsShard) {
  // Phi keeps query, key and value, and gate and up, in one tensor; each is divided for itself.
  for (const auto& [architecture, tied] :
       {std::pair("LlamaForCausalLM", false), std::pair("LlamaForCausalLM", true),
        std::pair("Phi3ForCausalLM", false)}) {
    SCOPED_TRACE(architecture);
    nlohmann::json config = MediumConfig();
    config["architectures"] = {architecture};
    config["tie_word_embeddings"] = tied;
    WriteTinyModel(dir_, config, "BF16", 5);
    const ModelSpec spec = TinySpec(config);
    uint64_t sharded = 0;
    uint64_t replicated = 0;
    uint64_t tied_bytes = 0;
    for (const WeightSpec& weight : WeightTable(spec)) {
      uint64_t bytes = 2;
      for (int64_t n : weight.shape) bytes *= n;
      (weight.rule == ShardRule::kReplicate ? replicated : sharded) += bytes;
      if (tied && weight.slot == WeightSlot::kEmbedding) tied_bytes = bytes;
    }
    for (int tp : {1, 2, 4}) {
      uint64_t read_together = 0;
      for (int rank = 0; rank < tp; ++rank) {
        const auto weights = Load(spec, {.rank = rank, .tp = tp, .dtype = DType::kBFloat16});
        ASSERT_TRUE(weights.ok()) << weights.status();
        const double share = static_cast<double>(sharded) / tp + static_cast<double>(replicated);
        EXPECT_LE((*weights)->bytes_read, share * 1.05) << "tp " << tp << " rank " << rank;
        // A tied head is resident twice (rows to gather, panels to multiply) and read once.
        const double resident = share + static_cast<double>(tied_bytes) / tp;
        EXPECT_LE((*weights)->resident_bytes, resident * 1.05) << "tp " << tp << " rank " << rank;
        EXPECT_GE((*weights)->resident_bytes, (*weights)->bytes_read);
        read_together += (*weights)->bytes_read;
      }
      EXPECT_EQ(read_together, sharded + replicated * tp);
    }
  }
}

// Experts go to one rank each, latent projections to all, heads of the latent are turned round.
TEST_F(WeightsTest, ReadsAndKeepsOnlyItsExpertsAndHeads) {
  nlohmann::json config = MediumConfig();
  config.update({{"architectures", {"DeepseekV3ForCausalLM"}},
                 {"num_key_value_heads", 8},
                 {"q_lora_rank", 96},
                 {"kv_lora_rank", 64},
                 {"qk_nope_head_dim", 32},
                 {"qk_rope_head_dim", 16},
                 {"v_head_dim", 48},
                 {"first_k_dense_replace", 1},
                 {"moe_intermediate_size", 64},
                 {"n_routed_experts", 16},
                 {"n_shared_experts", 2},
                 {"num_experts_per_tok", 2},
                 {"n_group", 4},
                 {"topk_group", 2},
                 {"routed_scaling_factor", 1.0}});
  config.erase("head_dim");
  WriteTinyModel(dir_, config, "BF16", 6);
  const ModelSpec spec = TinySpec(config);
  uint64_t sharded = 0;
  uint64_t replicated = 0;
  for (const WeightSpec& weight : WeightTable(spec)) {
    const uint64_t bytes = 2 * weight.Elements();
    (weight.rule == ShardRule::kReplicate ? replicated : sharded) += bytes;
  }
  for (int tp : {1, 2, 4, 8}) {
    uint64_t read_together = 0;
    for (int rank = 0; rank < tp; ++rank) {
      const auto weights = Load(spec, {.rank = rank, .tp = tp, .dtype = DType::kBFloat16});
      ASSERT_TRUE(weights.ok()) << weights.status();
      const double share = static_cast<double>(sharded) / tp + static_cast<double>(replicated);
      EXPECT_LE((*weights)->bytes_read, share * 1.05) << "tp " << tp << " rank " << rank;
      EXPECT_LE((*weights)->resident_bytes, share * 1.05) << "tp " << tp << " rank " << rank;
      EXPECT_EQ((*weights)->layers[0].experts.size(), 0u);
      EXPECT_EQ((*weights)->layers[1].experts.size(), 16u / tp);
      EXPECT_EQ((*weights)->layers[1].router_correction.dtype, DType::kFloat32);
      read_together += (*weights)->bytes_read;
    }
    EXPECT_EQ(read_together, sharded + replicated * tp);
  }
}

TEST_F(WeightsTest, EmbeddingRowsArriveInEveryStoredAndComputeDType) {
  for (const char* stored : {"F32", "BF16", "F16"}) {
    WriteTinyModel(dir_, TinyConfig(), stored, 9);
    const ModelSpec spec = TinySpec(TinyConfig());
    for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      const auto loaded = Load(spec, {.rank = 1, .tp = 2, .dtype = dtype});
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      const Weights& weights = **loaded;
      // 37 tokens over 2 ranks: 19 and 18.
      ASSERT_EQ(weights.vocab_begin, 19);
      ASSERT_EQ(weights.vocab_count, 18);
      for (int64_t i = 0; i < weights.embedding.size(); ++i) {
        const float value =
            TinyValue("model.embed_tokens.weight", 19 * spec.hidden_size + i, stored, 9);
        if (dtype == DType::kFloat32) {
          ASSERT_EQ(weights.embedding.as<float>()[i], value) << stored << " " << i;
        } else {
          ASSERT_EQ(weights.embedding.as<BFloat16>()[i].bits, ToBFloat16(value).bits) << i;
        }
      }
    }
  }
}

TEST_F(WeightsTest, RefusesAMissingAnExtraAndAMisshapenTensor) {
  const ModelSpec spec = TinySpec(TinyConfig());
  dir_.Write("config.json", TinyConfig().dump());
  const std::vector<FakeTensor> good = TensorsOf(spec);
  const auto load = [&](const std::vector<FakeTensor>& tensors) {
    dir_.Write("model.safetensors", SafetensorsFile(tensors));
    return Load(spec, {}).status();
  };
  ASSERT_TRUE(load(good).ok());

  std::vector<FakeTensor> missing = good;
  missing.erase(std::find_if(missing.begin(), missing.end(), [](const FakeTensor& t) {
    return t.name == "model.layers.1.mlp.down_proj.weight";
  }));
  EXPECT_THAT(std::string(load(missing).message()),
              HasSubstr("model.layers.1.mlp.down_proj.weight"));

  std::vector<FakeTensor> extra = good;
  extra.push_back({"model.layers.0.self_attn.surprise.weight", {4}});
  EXPECT_THAT(std::string(load(extra).message()),
              HasSubstr("model.layers.0.self_attn.surprise.weight"));

  std::vector<FakeTensor> misshapen = good;
  misshapen.front().shape[0] += 1;
  EXPECT_THAT(std::string(load(misshapen).message()), HasSubstr(misshapen.front().name));

  std::vector<FakeTensor> integers = good;
  integers.front().dtype = "I64";
  EXPECT_FALSE(load(integers).ok());
}

TEST_F(WeightsTest, TpThatDoesNotDivideIsRefused) {
  WriteTinyModel(dir_, TinyConfig(), "F32", 1);
  const auto weights = Load(TinySpec(TinyConfig()), {.rank = 0, .tp = 3});
  ASSERT_FALSE(weights.ok());
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr("tp = 3"));
}

TEST_F(WeightsTest, ProgressGrowsToTheTotalAndCanStopTheLoad) {
  WriteTinyModel(dir_, MediumConfig(), "F32", 3);
  const ModelSpec spec = TinySpec(MediumConfig());
  uint64_t last = 0;
  uint64_t total = 0;
  auto weights = Load(spec, {.dtype = DType::kFloat32}, [&](uint64_t read, uint64_t of) {
    EXPECT_GT(read, last);
    last = read;
    total = of;
    return absl::OkStatus();
  });
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(last, total);
  EXPECT_EQ(last, (*weights)->bytes_read);

  int calls = 0;
  weights = Load(spec, {.dtype = DType::kFloat32}, [&](uint64_t, uint64_t) {
    return ++calls == 3 ? absl::CancelledError("enough") : absl::OkStatus();
  });
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(calls, 3);
}

TEST_F(WeightsTest, TensorsAtOddAddressesAreLoaded) {
  // One more byte of header moves every tensor to an odd address.
  WriteTinyModel(dir_, TinyConfig(), "F32", 4);
  const ModelSpec spec = TinySpec(TinyConfig());
  const auto aligned = Load(spec, {.dtype = DType::kFloat32});
  ASSERT_TRUE(aligned.ok()) << aligned.status();
  nlohmann::json header;
  uint64_t offset = 0;
  std::string data;
  for (const WeightSpec& weight : WeightTable(spec)) {
    int64_t size = 1;
    for (int64_t n : weight.shape) size *= n;
    for (int64_t i = 0; i < size; ++i) {
      const float value = TinyValue(weight.name, i, "F32", 4);
      data.append(reinterpret_cast<const char*>(&value), 4);
    }
    header[weight.name] = {
        {"dtype", "F32"}, {"shape", weight.shape}, {"data_offsets", {offset, data.size()}}};
    offset = data.size();
  }
  std::string text = header.dump();
  while (text.size() % 4 != 1) text.push_back(' ');
  dir_.Write("model.safetensors", SafetensorsFile(text, data));
  const auto odd = Load(spec, {.dtype = DType::kFloat32});
  ASSERT_TRUE(odd.ok()) << odd.status();
  const TensorView a = (*aligned)->embedding;
  const TensorView b = (*odd)->embedding;
  EXPECT_TRUE(std::equal(a.as<float>(), a.as<float>() + a.size(), b.as<float>()));
}

}  // namespace
}  // namespace tessera
