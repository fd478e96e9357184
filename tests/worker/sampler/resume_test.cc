// Tokens are the truth: a sequence that is cut anywhere and resumed from its tokens alone, on other
// shards, in other company, draws the tokens that it would have drawn. The logits are a
// pseudo-random function of all tokens so far, and the rules read the history, so that one wrong
// token or count shows at once. One token after each cut, ten in the long form.

#include <gtest/gtest.h>

#include <array>
#include <iostream>
#include <memory>

#include "ranks.h"
#include "reference.h"

namespace tessera {
namespace {

constexpr uint32_t kResumeSeed = 77;
constexpr int64_t kVocab = 96;
constexpr int kSequences = 400;
constexpr int kLength = 60;  // tokens drawn by the undisturbed run
constexpr int kCuts = 100'000;
constexpr int kTogether = 100;  // resumed in one call

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// A sequence as a rank knows it; everything but the request is made from its tokens.
class SequenceRun {
 public:
  SequenceRun(const RuleCase& request, const SampleRow& row, const std::vector<int32_t>& output)
      : row_(row), rules_(RulesOf({request.params, request.prompt, {}})) {
    for (const int32_t token : request.prompt) Hash(token);
    row_.position = static_cast<uint32_t>(request.prompt.size());
    for (const int32_t token : output) Append(token);
  }

  void Append(int32_t token) {
    Hash(token);
    rules_.AddOutput(token);
    ++row_.position;
  }
  // Appends this shard's part of the next token's logits: quarters in [-4, 4), with ties.
  void AppendLogits(int64_t begin, int64_t end, std::vector<float>& logits) const {
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t bits = Mix(hash_ + static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15u);
      logits.push_back(static_cast<float>(bits >> 59) * 0.25f - 4.0f);
    }
  }
  SampleRow Row(size_t logits_row) const {
    SampleRow row = row_;
    row.logits_row = static_cast<int32_t>(logits_row);
    row.rules = &rules_;
    return row;
  }

 private:
  void Hash(int32_t token) { hash_ = Mix(hash_ * 31 + static_cast<uint64_t>(token) + 1); }

  SampleRow row_;
  TokenRules rules_;
  uint64_t hash_ = 1;
};

// One step of all runs together.
std::vector<int32_t> Step(Sampler& sampler, const RankOfTest& rank,
                          std::vector<std::unique_ptr<SequenceRun>>& runs) {
  std::vector<float> logits;
  std::vector<SampleRow> rows;
  for (size_t r = 0; r < runs.size(); ++r) {
    runs[r]->AppendLogits(rank.begin, rank.end, logits);
    rows.push_back(runs[r]->Row(r));
  }
  std::vector<int32_t> tokens;
  const absl::Status status =
      sampler.Sample(ExecContext(), tokens, ViewOf(logits, runs.size()), rows);
  EXPECT_TRUE(status.ok()) << status;
  for (size_t r = 0; r < runs.size(); ++r) runs[r]->Append(tokens[r]);
  return tokens;
}

struct Request {
  RuleCase rules;
  SampleRow row;
  std::vector<int32_t> output;  // of the undisturbed run
};

std::vector<Request> UndisturbedRuns(std::mt19937& random) {
  std::vector<Request> requests(kSequences);
  std::vector<std::unique_ptr<SequenceRun>> runs;
  for (Request& request : requests) {
    request.rules = RandomRules(random, kVocab);
    request.row = RandomRow(random, 0);
    runs.push_back(
        std::make_unique<SequenceRun>(request.rules, request.row, std::vector<int32_t>()));
  }
  RunRanks(1, kVocab, [&](RankOfTest& rank) {
    Sampler sampler(rank.ops, rank.comm, rank.begin, kVocab);
    for (int i = 0; i < kLength; ++i) {
      const std::vector<int32_t> tokens = Step(sampler, rank, runs);
      for (size_t r = 0; r < runs.size(); ++r) requests[r].output.push_back(tokens[r]);
    }
  });
  return requests;
}

TEST(ResumeTest, CutAnywhereAndResumedFromTokensAloneNothingDiffers) {
  std::cout << "seed " << kResumeSeed << "\n";
  std::mt19937 random(kResumeSeed);
  const std::vector<Request> requests = UndisturbedRuns(random);
  int history_matters = 0;
  for (const Request& request : requests) {
    const RuleCase& rules = request.rules;
    history_matters += RulesOf(rules).Apply(request.output[0], 1.0f) !=
                       RulesOf({rules.params, {}, {}}).Apply(request.output[0], 1.0f);
  }
  EXPECT_GT(history_matters, kSequences / 10);

  const int resumed_tokens = TestScale() > 1 ? 10 : 1;
  int64_t cuts = 0;
  int64_t different = 0;
  for (int batch = 0; cuts < kCuts; ++batch) {
    std::vector<std::pair<const Request*, int>> places;  // request and tokens before the cut
    for (int i = 0; i < kTogether; ++i) {
      places.emplace_back(&requests[random() % kSequences], random() % (kLength - resumed_tokens));
    }
    cuts += kTogether;
    const int shards = std::array{1, 2, 1, 4, 1, 2, 1, 8}[batch % 8];
    std::vector<std::vector<int32_t>> resumed(resumed_tokens);
    RunRanks(shards, kVocab, [&](RankOfTest& rank) {
      Sampler sampler(rank.ops, rank.comm, rank.begin, kVocab);
      std::vector<std::unique_ptr<SequenceRun>> runs;
      for (const auto& [request, cut] : places) {
        const std::vector<int32_t> before(request->output.begin(), request->output.begin() + cut);
        runs.push_back(std::make_unique<SequenceRun>(request->rules, request->row, before));
      }
      for (int i = 0; i < resumed_tokens; ++i) {
        const std::vector<int32_t> tokens = Step(sampler, rank, runs);
        if (rank.comm.rank() == 0) resumed[i] = tokens;
      }
    });
    for (int i = 0; i < resumed_tokens; ++i) {
      for (size_t r = 0; r < places.size(); ++r) {
        different += resumed[i][r] != places[r].first->output[places[r].second + i];
      }
    }
  }
  std::cout << cuts << " cuts\n";
  EXPECT_EQ(different, 0);
}

}  // namespace
}  // namespace tessera
