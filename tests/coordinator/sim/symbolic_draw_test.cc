// The ranks of the simulation test, and what a draw depends on: tokens, parameters, history,
// choice; and plans that do not hold together.

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/coordinator/sim/symbolic_rank_fixture.h"
#include "tests/simulation/symbolic_model.h"

namespace tessera::simulation {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using SymbolicDrawTest = SymbolicRankTest;

TEST_F(SymbolicDrawTest, AWrongTokenIsSeenAndChangesTheAnswer) {
  for (const bool foreign : {false, true}) {
    Make();
    const std::vector<int32_t> sampled =
        Run({{.tokens = {5, 6, 8}, .blocks = {0, 1}, .reset = true, .foreign = foreign}});
    EXPECT_NE(sampled.front(), Truth(0));
    EXPECT_EQ(violations_.empty(), foreign);
  }
}

TEST_F(SymbolicDrawTest, ASourceThatHasNoTokenOfTheSequenceIsSeen) {
  const std::vector<std::function<void(pb::StepPlan&)>> wrongs = {
      [](pb::StepPlan& plan) { plan.set_source_row(0, 1); },       // another sequence's
      [](pb::StepPlan& plan) { plan.set_source_row(0, 2); },       // no such row
      [](pb::StepPlan& plan) { plan.set_source_step(0, 0); },      // too old
      [](pb::StepPlan& plan) { plan.set_step(plan.step() + 1); },  // a step was left out
  };
  for (size_t i = 0; i < wrongs.size(); ++i) {
    Make();
    Run({{.sequence = 1, .tokens = {5, 6, 7}, .blocks = {0, 1}, .reset = true},
         {.sequence = 2, .tokens = {1}, .blocks = {2}, .reset = true, .foreign = true}});
    ASSERT_EQ(Reported(), "");
    pb::StepPlan plan = PlanOf({{.start = 3, .tokens = {}}});
    wrongs[i](plan);
    Run(plan);
    EXPECT_THAT(Reported(), HasSubstr("takes its token from")) << "way " << i;
  }
}

TEST_F(SymbolicDrawTest, EveryParameterChangesTheAnswer) {
  request_.sampling.presence_penalty = 0.5;  // so that all of them read the history
  const std::vector<std::function<void(pb::SequenceReset&)>> changes = {
      [](pb::SequenceReset&) {},
      [](pb::SequenceReset& reset) { reset.set_choice(1); },
      [](pb::SequenceReset& reset) { reset.set_num_prompt_tokens(2); },
      [](pb::SequenceReset& reset) { reset.mutable_sampling()->set_seed(1 << 8); },
      [](pb::SequenceReset& reset) { reset.mutable_sampling()->set_temperature(0.5); },
      [](pb::SequenceReset& reset) { reset.mutable_sampling()->set_top_k(3); },
      [](pb::SequenceReset& reset) { reset.mutable_sampling()->set_top_p(0.5); },
      [](pb::SequenceReset& reset) { reset.mutable_sampling()->set_min_p(0.1f); },
      [](pb::SequenceReset& reset) { reset.mutable_sampling()->set_presence_penalty(1); },
      [](pb::SequenceReset& reset) { reset.mutable_sampling()->set_frequency_penalty(1); },
      [](pb::SequenceReset& reset) { reset.mutable_sampling()->set_repetition_penalty(2); },
      [](pb::SequenceReset& reset) { (*reset.mutable_sampling()->mutable_logit_bias())[3] = 1; },
      [](pb::SequenceReset& reset) { reset.mutable_sampling()->add_allowed_token_ids(3); },
      [](pb::SequenceReset& reset) { reset.mutable_sampling()->add_banned_token_ids(3); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    Make();
    pb::StepPlan plan = PlanOf({{.tokens = {5, 6, 7}, .blocks = {0, 1}, .reset = true}});
    plan.mutable_resets(0)->mutable_history()->Add(request_.prompt.begin(), request_.prompt.end());
    changes[i](*plan.mutable_resets(0));
    // One of 64 tokens may be the same by chance; three are not.
    std::vector<int32_t> sampled = Run(plan);
    for (const std::vector<uint32_t>& blocks : {std::vector<uint32_t>{}, {2}}) {
      const int64_t start = 3 + (blocks.empty() ? 0 : 1);
      const std::vector<int32_t> next = Run({{.start = start, .tokens = {}, .blocks = blocks}});
      sampled.insert(sampled.end(), next.begin(), next.end());
    }
    EXPECT_EQ(Reported(), "");
    EXPECT_EQ(sampled == std::vector<int32_t>({Truth(0), Truth(1), Truth(2)}), i == 0)
        << "way " << i;
  }
}

TEST_F(SymbolicDrawTest, MinTokensKeepsItsTokensOutUntilThen) {
  request_.sampling.min_tokens = 1;
  request_.sampling.stop_token_ids = {Truth(0)};
  const int32_t without = request_.sampling.stop_token_ids.front();
  Make();
  pb::StepPlan plan = PlanOf({{.tokens = {5, 6, 7}, .blocks = {0, 1}, .reset = true}});
  plan.mutable_resets(0)->mutable_sampling()->set_min_tokens(1);
  plan.mutable_resets(0)->mutable_sampling()->add_min_tokens_banned(without);
  const std::vector<int32_t> sampled = Run(plan);
  EXPECT_THAT(sampled, ElementsAre(Truth(0)));
  EXPECT_NE(sampled.front(), without);
}

TEST_F(SymbolicDrawTest, AHistoryThatIsMissingShortOrWrongIsSeen) {
  request_.sampling.presence_penalty = 0.5;
  const std::vector<int32_t> good = {5, 6, 7};
  const std::vector<std::vector<int32_t>> histories = {good, {}, {5, 6}, {5, 5, 7}};
  for (const std::vector<int32_t>& history : histories) {
    Make();
    pb::StepPlan plan = PlanOf({{.tokens = {5, 6, 7}, .blocks = {0, 1}, .reset = true}});
    plan.mutable_resets(0)->mutable_history()->Add(history.begin(), history.end());
    const std::vector<int32_t> sampled = Run(plan);
    if (history == good) {
      EXPECT_EQ(Reported(), "");
      EXPECT_THAT(sampled, ElementsAre(Truth(0)));
      // The rank adds what it samples.
      EXPECT_THAT(Run({{.start = 3, .tokens = {}}}), ElementsAre(Truth(1)));
      EXPECT_EQ(Reported(), "");
    } else {
      const bool is_short = history.size() < good.size();
      EXPECT_THAT(Reported(), HasSubstr(is_short ? "3 are known" : "wrong history"));
    }
  }
}

TEST_F(SymbolicDrawTest, PromptPositionsAreScoredByTheRowsBeforeThem) {
  request_.sampling.prompt_logprobs = 3;  // itself and two others
  Make();
  pb::StepPlan plan = PlanOf({{.tokens = {5, 6}, .blocks = {0}, .reset = true, .samples = false}});
  plan.mutable_resets(0)->mutable_history()->Add(request_.prompt.begin(), request_.prompt.end());
  const pb::StepResult result = rank_->Execute(plan);
  EXPECT_EQ(Reported(), "");
  EXPECT_THAT(result.num_scored(), ElementsAre(2));
  EXPECT_THAT(result.num_top(), ElementsAre(2, 2));
  const uint64_t first = Extend(0, 5, 0);
  const TokenLogprobs wanted = Score(Extend(first, 6, 1), 7, 2);
  EXPECT_EQ(result.logprobs(0), Score(first, 6, 2).logprob);
  EXPECT_EQ(result.logprobs(1), wanted.logprob);
  EXPECT_EQ(result.top_tokens(3), wanted.top[1].first);
}

TEST_F(SymbolicDrawTest, APlanThatBreaksTheContractIsSeen) {
  const std::vector<std::pair<const char*, std::function<void(pb::StepPlan&)>>> wrongs = {
      {"start_position has", [](pb::StepPlan& plan) { plan.add_start_position(0); }},
      {"num_choices has", [](pb::StepPlan& plan) { plan.add_num_choices(1); }},
      {"tokens has", [](pb::StepPlan& plan) { plan.add_tokens(1); }},
      {"block_ids has", [](pb::StepPlan& plan) { plan.mutable_block_ids()->RemoveLast(); }},
      {"names block 8", [](pb::StepPlan& plan) { plan.set_block_ids(0, 8); }},
      {"names block", [](pb::StepPlan& plan) { plan.set_block_ids(0, kGone); }},
      {"samples 0 choices", [](pb::StepPlan& plan) { plan.set_num_choices(0, 0); }},
      {"unreset", [](pb::StepPlan& plan) { plan.clear_resets(); }},
      {"is reset twice", [](pb::StepPlan& plan) { *plan.add_resets() = plan.resets(0); }},
      {"blocks in KvGroup 0 for 3 tokens",
       [](pb::StepPlan& plan) {
         plan.mutable_block_ids()->RemoveLast();
         plan.set_num_new_blocks(0, 1);
       }},
  };
  for (const auto& [report, wrong] : wrongs) {
    Make();
    pb::StepPlan plan = PlanOf({{.tokens = {5, 6, 7}, .blocks = {0, 1}, .reset = true}});
    wrong(plan);
    Run(plan);
    EXPECT_THAT(Reported(), HasSubstr(report));
  }
  Make();
  std::vector<RowSpec> rows;
  for (uint64_t id = 1; id <= 5; ++id) {
    rows.push_back(
        {.sequence = id, .tokens = {1, 2}, .blocks = {static_cast<uint32_t>(id)}, .reset = true});
  }
  Run(rows);
  EXPECT_THAT(Reported(), HasSubstr("5 rows, at most 4"));
  EXPECT_THAT(Reported(), HasSubstr("10 tokens, at most 8"));
}

}  // namespace
}  // namespace tessera::simulation
