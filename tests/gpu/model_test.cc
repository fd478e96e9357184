// Whole models on the GPU: the goldens of Hugging Face transformers, at every tp over loopback on
// one GPU, and the promise that batch, chunks and ranks do not show in the bits.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>

#include "tests/golden/models/golden.h"
#include "tests/gpu/device_loopback.h"
#include "tests/gpu/side.h"
#include "tests/worker/rank_group.h"

namespace tessera::gpu {
namespace {

using golden::Golden;
using golden::Prompt;
using Logits = std::vector<std::vector<std::vector<float>>>;  // [row][token][V]

RankGroupOptions OptionsFor(int tp, DType dtype) {
  RankGroupOptions options;
  options.tp = tp;
  options.dtype = dtype;
  options.new_ops = NewTestedOps;
  if (!TestedIsCpu()) options.new_comms = NewDeviceLoopback;
  return options;
}

std::vector<RowTokens> PromptRows(const Golden& golden) {
  std::vector<RowTokens> rows;
  for (const Prompt& prompt : golden.prompts) rows.push_back({rows.size() + 1, prompt.tokens});
  return rows;
}

struct Difference {
  double max = 0;
  double mean = 0;
};

Difference Compare(const Golden& golden, const Logits& logits) {
  Difference difference;
  int64_t count = 0;
  for (size_t p = 0; p < golden.prompts.size(); ++p) {
    const Prompt& prompt = golden.prompts[p];
    for (size_t i = prompt.logits_begin; i < prompt.tokens.size(); ++i) {
      const absl::Span<const float> wanted = prompt.LogitsAt(static_cast<int64_t>(i));
      for (size_t v = 0; v < wanted.size(); ++v, ++count) {
        const double d = std::abs(static_cast<double>(wanted[v]) - logits[p][i][v]);
        // A NaN must not slip through the comparison.
        difference.max = d <= difference.max ? difference.max : d;
        difference.mean += d;
      }
    }
  }
  difference.mean /= static_cast<double>(count);
  return difference;
}

class GpuModelTest : public GpuTest, public testing::WithParamInterface<std::string> {};

TEST_P(GpuModelTest, GoldenInFloat32AndBFloat16) {
  absl::StatusOr<Golden> golden = golden::Read(GetParam());
  ASSERT_TRUE(golden.ok()) << golden.status();
  for (const DType dtype : {kF32, kBf16}) {
    Logits first;
    for (const int tp : golden->tp) {
      auto group = RankGroup::Load(golden->model_dir, OptionsFor(tp, dtype));
      ASSERT_TRUE(group.ok()) << group.status();
      const Logits logits = (*group)->Step(PromptRows(*golden));
      const Difference difference = Compare(*golden, logits);
      std::cout << GetParam() << " " << DTypeName(dtype) << " tp " << tp << ": largest difference "
                << difference.max << ", mean " << difference.mean << "\n";
      EXPECT_LE(difference.max, dtype == kF32 ? golden->fp32_tolerance : golden->bf16_tolerance);
      if (dtype == kBf16) {
        EXPECT_LE(difference.mean, golden->bf16_mean_tolerance);
      }
      if (first.empty()) first = logits;
      EXPECT_EQ(logits, first) << "tp " << tp << " gives other bits than tp " << golden->tp[0];
    }
  }
}

TEST_P(GpuModelTest, GreedyTokensOfTheGolden) {
  absl::StatusOr<Golden> golden = golden::Read(GetParam());
  ASSERT_TRUE(golden.ok()) << golden.status();
  auto group = RankGroup::Load(golden->model_dir, OptionsFor(golden->tp.back(), kF32));
  ASSERT_TRUE(group.ok()) << group.status();
  Logits logits = (*group)->Step(PromptRows(*golden));
  for (size_t step = 0; step < golden->prompts[0].greedy.size(); ++step) {
    std::vector<RowTokens> rows;
    for (size_t p = 0; p < golden->prompts.size(); ++p) {
      const int32_t token = ArgMaxOf(logits[p].back());
      ASSERT_EQ(token, golden->prompts[p].greedy[step]) << "prompt " << p << ", step " << step;
      rows.push_back({p + 1, {token}});
    }
    logits = (*group)->Step(rows);
  }
}

TEST_P(GpuModelTest, ChunksAndCompanyDoNotShowInTheBits) {
  absl::StatusOr<Golden> golden = golden::Read(GetParam());
  ASSERT_TRUE(golden.ok()) << golden.status();
  auto group = RankGroup::Load(golden->model_dir, OptionsFor(1, kBf16));
  ASSERT_TRUE(group.ok()) << group.status();
  const Logits together = (*group)->Step(PromptRows(*golden));
  (*group)->Clear();
  for (size_t p = 0; p < golden->prompts.size(); ++p) {
    const std::vector<int32_t>& tokens = golden->prompts[p].tokens;
    for (size_t at = 0; at < tokens.size();) {
      const size_t n = std::min<size_t>(1 + random()() % 23, tokens.size() - at);
      const bool is_long = (*group)->IsLong(static_cast<int64_t>(tokens.size()));
      const Logits part =
          (*group)->Step({{p + 1, {tokens.begin() + at, tokens.begin() + at + n}, is_long}});
      for (size_t i = 0; i < n; ++i) {
        ASSERT_EQ(part[0][i], together[p][at + i]) << "prompt " << p << ", token " << at + i;
      }
      at += n;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GpuModelTest, testing::ValuesIn(golden::CaseNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tessera::gpu
