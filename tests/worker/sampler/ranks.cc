// See ranks.h.

#include "ranks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "spy_ops.h"
#include "worker/comm/loopback.h"

namespace tessera {

void RunRanks(int shards, int64_t vocab, const std::function<void(RankOfTest&)>& body) {
  std::vector<std::unique_ptr<Ops>> ops;
  std::vector<Ops*> pointers;
  for (int r = 0; r < shards; ++r) {
    ops.push_back(std::move(NewCpuOps()).value());
    pointers.push_back(ops.back().get());
  }
  auto comms = NewLoopback(pointers, absl::Seconds(60));
  std::vector<std::thread> threads;
  for (int r = 0; r < shards; ++r) {
    threads.emplace_back([&, r]() {
      CountingCommunicator comm(*comms[r]);
      RankOfTest rank{*ops[r], comm, vocab * r / shards, vocab * (r + 1) / shards};
      body(rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::vector<float> ShardOf(const Matrix& logits, const RankOfTest& rank) {
  std::vector<float> shard;
  for (const auto& row : logits) {
    shard.insert(shard.end(), row.begin() + rank.begin, row.begin() + rank.end);
  }
  return shard;
}

TensorView ViewOf(std::vector<float>& shard, size_t rows) {
  const int64_t columns = rows == 0 ? 0 : static_cast<int64_t>(shard.size() / rows);
  return TensorView(shard.data(), DType::kFloat32, {static_cast<int64_t>(rows), columns});
}

Outcome SampleSharded(const Matrix& logits, const std::vector<SampleRow>& rows, int shards) {
  const int64_t vocab = logits.empty() ? 64 : static_cast<int64_t>(logits[0].size());
  std::vector<Outcome> outcomes(shards);
  RunRanks(shards, vocab, [&](RankOfTest& rank) {
    std::vector<float> shard = ShardOf(logits, rank);
    const std::vector<float> before = shard;
    Outcome& outcome = outcomes[rank.comm.rank()];
    Sampler sampler(rank.ops, rank.comm, rank.begin, vocab);
    const absl::Status status =
        sampler.Sample(ExecContext(), outcome.tokens, ViewOf(shard, logits.size()), rows);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(shard.empty() ||
                std::memcmp(shard.data(), before.data(), shard.size() * sizeof(float)) == 0)
        << "the logits have changed";
    outcome.gathers = rank.comm.gathers();
  });
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.tokens, outcomes[0].tokens);
    EXPECT_EQ(outcome.gathers, outcomes[0].gathers);
  }
  return outcomes[0];
}

std::vector<std::vector<int32_t>> KeptSets(const Matrix& logits, const std::vector<SampleRow>& rows,
                                           int shards) {
  const int64_t vocab = static_cast<int64_t>(logits[0].size());
  std::vector<std::vector<DrawRow>> draws(shards);
  RunRanks(shards, vocab, [&](RankOfTest& rank) {
    std::vector<float> shard = ShardOf(logits, rank);
    SpyOps spy(rank.ops);
    std::vector<int32_t> tokens;
    const absl::Status status =
        Sampler(spy, rank.comm, rank.begin, vocab)
            .Sample(ExecContext(), tokens, ViewOf(shard, logits.size()), rows);
    EXPECT_TRUE(status.ok()) << status;
    draws[rank.comm.rank()] = spy.draws();
  });
  std::vector<std::vector<int32_t>> kept(rows.size());
  for (int s = 0; s < shards; ++s) {
    for (size_t r = 0; r < rows.size(); ++r) {
      const std::vector<float>& x = logits[rows[r].logits_row];
      const DrawRow& draw = draws[s].at(r);
      int64_t ties = draw.ties_kept;
      for (int64_t i = vocab * s / shards; i < vocab * (s + 1) / shards; ++i) {
        if (x[i] > draw.threshold || (x[i] == draw.threshold && ties-- > 0)) {
          kept[r].push_back(static_cast<int32_t>(i));
        }
      }
    }
  }
  return kept;
}

std::vector<SampleRow> EachItsOwn(std::vector<SampleRow> rows) {
  for (size_t r = 0; r < rows.size(); ++r) rows[r].logits_row = static_cast<int32_t>(r);
  return rows;
}

std::vector<float> RandomLogits(std::mt19937& random, size_t vocab, float step) {
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(vocab);
  for (float& x : logits) {
    x = normal(random);
    if (step > 0) x = std::round(x / step) * step;  // makes -0 too
  }
  return logits;
}

SampleRow RandomRow(std::mt19937& random, uint32_t position) {
  SampleRow row;
  const float temperatures[] = {0.0f, 0.3f, 0.7f, 1.0f, 1.8f};
  const uint32_t top_ks[] = {0, 0, 1, 2, 5, 40, 100000};
  const float top_ps[] = {1.0f, 1.0f, 0.0f, 0.1f, 0.5f, 0.9f, 0.999f};
  const float min_ps[] = {0.0f, 0.0f, 0.003f, 0.05f, 0.3f, 0.99f};
  row.temperature = temperatures[random() % 5];
  row.top_k = top_ks[random() % 7];
  row.top_p = top_ps[random() % 7];
  row.min_p = min_ps[random() % 6];
  row.seed = random();
  row.position = position;
  row.choice = random() % 3;
  return row;
}

int TestScale() {
  const char* text = std::getenv("TESSERA_TEST_SCALE");
  return text == nullptr ? 1 : std::max(1, std::atoi(text));
}

}  // namespace tessera
