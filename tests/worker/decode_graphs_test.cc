// Buckets, padding, and the life of recordings, on a device that only pretends to record; and that
// rows which stand for nothing change nothing, on the CPU.

#include "worker/decode_graphs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "models/checkpoint.h"
#include "models/weight_spec.h"
#include "tests/models/model_files.h"
#include "tests/worker/comm/fake_ops.h"
#include "tests/worker/tiny_model.h"
#include "worker/comm/solo.h"
#include "worker/decoder.h"
#include "worker/kv_cache.h"
#include "worker/step_timer.h"
#include "worker/weights.h"

namespace tessera {
namespace {

using testing::HasSubstr;

TEST(DecodeRowsBucketTest, GrowsInSmallSteps) {
  const auto bucket = [](int64_t rows) { return DecodeRowsBucket(rows, 256); };
  EXPECT_EQ(bucket(1), 1);
  EXPECT_EQ(bucket(2), 2);
  EXPECT_EQ(bucket(3), 4);
  EXPECT_EQ(bucket(8), 8);
  EXPECT_EQ(bucket(9), 16);
  EXPECT_EQ(bucket(33), 40);
  EXPECT_EQ(bucket(130), 160);
  EXPECT_EQ(bucket(255), 256);
  EXPECT_EQ(DecodeRowsBucket(9, 12), 12) << "no more than the engine has room for";
  int64_t last = 0;
  int buckets = 0;
  for (int64_t rows = 1; rows <= 256; ++rows) {
    ASSERT_GE(bucket(rows), rows);
    ASSERT_GE(bucket(rows), last);
    ASSERT_LE(bucket(rows), std::max<int64_t>(rows + 7, rows * 5 / 4));
    buckets += bucket(rows) != last;
    last = bucket(rows);
  }
  EXPECT_LT(buckets, 32);
}

StepInput TwoRows() {
  StepInput input;
  input.tokens = {5, 7};
  input.positions = {3, 40};
  input.query_begin = {0, 1, 2};
  input.kv_length = {4, 41};
  input.block_tables = {{.width = 3, .entries = {9, 0, 0, 1, 2, 3}}};
  input.runs = {{.num_rows = 2}};
  input.run_query_begin = {0, 1, 2};
  input.output_token = {0, 1};
  return input;
}

TEST(PadDecodeTest, AddsRowsOnTheSpareBlock) {
  StepInput padded;
  PadDecode(TwoRows(), 4, {77}, 100, padded);
  EXPECT_EQ(padded.tokens, (std::vector<int32_t>{5, 7, 0, 0}));
  EXPECT_EQ(padded.positions, (std::vector<int32_t>{3, 40, 0, 0}));
  EXPECT_EQ(padded.kv_length, (std::vector<int32_t>{4, 41, 1, 1}));
  EXPECT_EQ(padded.query_begin, (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(padded.output_token, (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(padded.block_tables[0].width, 4);
  EXPECT_EQ(padded.block_tables[0].entries,
            (std::vector<int32_t>{9, 0, 0, 0, 1, 2, 3, 0, 77, 0, 0, 0, 77, 0, 0, 0}));
  EXPECT_TRUE(IsDecode(padded));
  PadDecode(TwoRows(), 2, {77}, 3, padded);
  EXPECT_EQ(padded.block_tables[0].width, 3) << "no wider than a whole context";
}

TEST(PadDecodeTest, OnlyStepsOfOneTokenARowAreDecode) {
  EXPECT_TRUE(IsDecode(TwoRows()));
  StepInput prompt = TwoRows();
  prompt.tokens.push_back(1);
  EXPECT_FALSE(IsDecode(prompt));
  StepInput mute = TwoRows();
  mute.output_token.pop_back();
  EXPECT_FALSE(IsDecode(mute));
  StepInput mixed = TwoRows();
  mixed.runs.push_back({});
  EXPECT_FALSE(IsDecode(mixed));
}

class RecordingOps : public FakeOps {
 public:
  absl::Status BeginRecording(const ExecContext&) override {
    ++begun;
    return absl::OkStatus();
  }
  absl::StatusOr<Recording> EndRecording(const ExecContext&) override {
    if (!end.ok()) return end;
    return std::make_shared<int>(begun);
  }
  absl::Status Replay(const ExecContext&, const Recording& recording) override {
    replayed.push_back(*static_cast<const int*>(recording.get()));
    return absl::OkStatus();
  }
  int begun = 0;
  absl::Status end;
  std::vector<int> replayed;
};

class DecodeGraphsTest : public testing::Test {
 protected:
  // Runs a step of `rows` rows and tables of `width`; the logits' first dimension is its number.
  int64_t Run(int64_t rows, int64_t width) {
    StepInput padded;
    padded.kv_length.resize(rows);
    padded.block_tables = {{.width = width, .entries = {}}};
    const auto logits = graphs_.Run({}, padded, [&]() -> absl::StatusOr<TensorView> {
      return TensorView(nullptr, DType::kFloat32, {++computed_, 1});
    });
    EXPECT_TRUE(logits.ok()) << logits.status();
    return logits->dims[0];
  }

  RealClock clock_;
  RecordingOps ops_;
  DecodeGraphs graphs_{ops_, clock_};
  int64_t computed_ = 0;
};

TEST_F(DecodeGraphsTest, ComputesThenRecordsThenReplays) {
  EXPECT_EQ(Run(4, 8), 1);
  EXPECT_EQ(ops_.begun, 0);
  EXPECT_EQ(graphs_.TakeNews(), "");
  EXPECT_EQ(Run(4, 8), 2) << "recorded";
  EXPECT_THAT(graphs_.TakeNews(), HasSubstr("recorded decode of 4 rows"));
  EXPECT_EQ(ops_.replayed, std::vector<int>{1}) << "a recorded step is not computed yet";
  EXPECT_EQ(Run(4, 8), 2);
  EXPECT_EQ(Run(4, 8), 2);
  EXPECT_EQ(computed_, 2);
  // Other shapes have their own.
  EXPECT_EQ(Run(4, 16), 3);
  EXPECT_EQ(Run(2, 8), 4);
  EXPECT_EQ(Run(2, 8), 5);
  EXPECT_EQ(Run(4, 8), 2);
  EXPECT_EQ(ops_.replayed, (std::vector<int>{1, 1, 1, 2, 1}));
  EXPECT_EQ(graphs_.recordings(), 2);
}

TEST_F(DecodeGraphsTest, AFailedRecordingEndsRecordingNotTheStep) {
  Run(4, 8);
  ops_.end = absl::InternalError("the stream would not");
  EXPECT_EQ(Run(4, 8), 3) << "tried, then computed";
  EXPECT_THAT(graphs_.TakeNews(), HasSubstr("the stream would not"));
  ops_.end = absl::OkStatus();
  EXPECT_EQ(Run(4, 8), 4);
  EXPECT_EQ(Run(4, 8), 5);
  EXPECT_EQ(ops_.begun, 1);
  EXPECT_TRUE(ops_.replayed.empty());
}

TEST_F(DecodeGraphsTest, KeepsSoManyAndNoMore) {
  for (int64_t rows = 1; rows <= kRecordingsMax + 5; ++rows) {
    Run(rows, 1);
    Run(rows, 1);
  }
  EXPECT_EQ(graphs_.recordings(), kRecordingsMax);
  EXPECT_THAT(graphs_.TakeNews(), HasSubstr("no more"));
}

// Rows that stand for nothing write only to the spare block and leave the others' logits alone.
TEST(PaddedDecodeTest, GivesTheBitsOfTheStepAlone) {
  TempDir dir;
  dir.Write("config.json", TinyConfig().dump());
  const auto checkpoint = Checkpoint::WithoutWeights(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const ModelSpec spec = TinySpec(TinyConfig());
  const auto ops = NewCpuOps();
  const RealClock clock;
  const auto weights = LoadWeights(**ops, {}, spec, **checkpoint, {.dtype = DType::kFloat32}, clock,
                                   [](uint64_t, uint64_t) { return absl::OkStatus(); });
  ASSERT_TRUE(weights.ok()) << weights.status();
  const StepLimits limits = {.rows_max = 8,
                             .tokens_max = 16,
                             .context_max = 64,
                             .block_size = 4,
                             .vocab_size = spec.vocab_size,
                             .num_blocks = {6},
                             .windows = {0}};
  const auto logits_of = [&](int64_t rows) {
    const auto kv = KvCache::Create(
        **ops, spec, HeadsOf(spec, 0, 1),
        {.dtype = DType::kFloat32, .block_size = 4, .num_blocks = {6}, .spare_block = true});
    TESSERA_CHECK(kv.ok()) << kv.status();
    const auto comm = NewSolo(0, 1, **ops);
    auto model = NewDecoder(
        {.spec = spec, .weights = **weights, .kv = **kv, .ops = **ops, .comm = *comm}, limits);
    TESSERA_CHECK(model.ok()) << model.status();
    auto arrays = StepArrays::Create(**ops, limits);
    Buffer workspace = *(*ops)->Allocate((*model)->workspace_bytes());
    ExecContext ctx;
    ctx.workspace = workspace.View(DType::kUInt8, {static_cast<int64_t>(workspace.bytes())});
    StepTimer timer(clock);
    std::vector<float> all;
    for (int32_t position = 0; position < 6; ++position) {
      StepInput input = TwoRows();
      input.tokens = {3 + position, 30 - position};
      input.positions = {position, position};
      input.kv_length = {position + 1, position + 1};
      input.block_tables = {{.width = 2, .entries = {4, 0, 1, 5}}};
      StepInput padded = input;
      if (rows > 2) PadDecode(input, rows, {6}, 16, padded);
      const auto logits = (*model)->Forward(ctx, arrays->Upload(ctx, padded), timer);
      TESSERA_CHECK(logits.ok()) << logits.status();
      const float* values = logits->as<float>();
      all.insert(all.end(), values, values + 2 * spec.vocab_size);
    }
    return all;
  };
  const std::vector<float> alone = logits_of(2);
  EXPECT_NE(alone[0], alone[1]);
  EXPECT_EQ(logits_of(8), alone);
}

}  // namespace
}  // namespace tessera
