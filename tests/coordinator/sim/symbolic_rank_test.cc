// The ranks of the simulation test, one plan at a time, and what they see of block tables: what is
// right passes and gives the tokens of the undisturbed run; every alias, stale block, lost copy and
// wrong position is reported or changes the answer. What the simulation proves is worth no more.

#include "tests/simulation/symbolic_rank.h"

#include <string>
#include <utility>
#include <vector>

#include "tests/coordinator/sim/symbolic_rank_fixture.h"

namespace tessera::simulation {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(SymbolicRankTest, ChunksStepsAndLastSampledGiveTheUndisturbedRun) {
  Make();
  EXPECT_THAT(Run({{.tokens = {5, 6}, .blocks = {3}, .reset = true, .samples = false}}),
              ElementsAre());
  EXPECT_THAT(Run({{.start = 2, .tokens = {7}, .blocks = {0}}}), ElementsAre(Truth(0)));
  EXPECT_THAT(Run({{.start = 3, .tokens = {}}}), ElementsAre(Truth(1)));
  EXPECT_THAT(Run({{.start = 4, .tokens = {Truth(1)}, .blocks = {5}}}), ElementsAre(Truth(2)));
  EXPECT_EQ(Reported(), "");
  EXPECT_EQ(rank_->num_sequences(), 1);
  pb::StepPlan last = PlanOf({});
  last.add_finished_sequences(1);
  Run(last);
  EXPECT_EQ(rank_->num_sequences(), 0);
  Run({{.start = 5, .tokens = {Truth(2)}, .reset = true}});
  EXPECT_THAT(Reported(), HasSubstr("finished")) << "its number is used up";
}

TEST_F(SymbolicRankTest, RowsOfOneStepDoNotDisturbEachOther) {
  Make();
  EXPECT_THAT(Run({{.sequence = 1, .tokens = {5, 6, 7}, .blocks = {0, 1}, .reset = true},
                   {.sequence = 2, .tokens = {5, 6, 7}, .blocks = {2, 3}, .reset = true}}),
              ElementsAre(Truth(0), Truth(0)));
  EXPECT_THAT(Run({{.sequence = 2, .start = 3, .tokens = {}, .source_row = 1},
                   {.sequence = 1, .start = 3, .tokens = {}, .source_row = 0}}),
              ElementsAre(Truth(1), Truth(1)));
  EXPECT_EQ(Reported(), "");
}

TEST_F(SymbolicRankTest, AliasedBlocksAreSeen) {
  Make();
  // Both write block 1; the one that comes first reads what the other wrote.
  Run({{.sequence = 1, .tokens = {5, 6, 7}, .blocks = {0, 1}, .reset = true},
       {.sequence = 2, .tokens = {8, 9, 4}, .blocks = {2, 1}, .reset = true, .foreign = true}});
  EXPECT_THAT(Reported(), HasSubstr("sequence 1 of request r reads a foreign or stale KV slot"));
}

TEST_F(SymbolicRankTest, AnAliasedBlockOfTheSameTokensIsSeenByItsHistory) {
  Make();
  // The last block has the same token at the same place, behind another beginning.
  Run({{.sequence = 1, .tokens = {5, 6, 7}, .blocks = {0, 1}, .reset = true},
       {.sequence = 2, .tokens = {8, 9, 7}, .blocks = {2, 1}, .reset = true, .foreign = true}});
  EXPECT_THAT(Reported(), HasSubstr("sequence 1"));
}

TEST_F(SymbolicRankTest, AHitOnTheRightBlocksIsTrue) {
  Make();
  Prefill();
  EXPECT_THAT(Run({{.sequence = 3, .start = 2, .tokens = {7}, .blocks = {0, 4}, .reset = true}}),
              ElementsAre(Truth(0)));
  EXPECT_EQ(Reported(), "");
}

// Somebody else has taken block 0 and given it back since, for the same positions or for others.
TEST_F(SymbolicRankTest, AHitOnAStaleBlockIsSeenOrChangesTheAnswer) {
  for (const bool same_positions : {true, false}) {
    Make();
    Prefill();
    if (same_positions) {
      Run({{.sequence = 2, .tokens = {6, 5}, .blocks = {0}, .reset = true, .foreign = true}});
    } else {
      Run({{.sequence = 2,
            .tokens = {1, 2, 5, 6},
            .blocks = {3, 0},
            .reset = true,
            .foreign = true}});
    }
    ASSERT_EQ(Reported(), "");
    const std::vector<int32_t> sampled =
        Run({{.sequence = 3, .start = 2, .tokens = {7}, .blocks = {0, 4}, .reset = true}});
    if (same_positions) {
      EXPECT_NE(sampled.front(), Truth(0)) << "it goes on with another beginning";
    } else {
      EXPECT_THAT(Reported(), HasSubstr("foreign or stale"));
    }
  }
}

TEST_F(SymbolicRankTest, ABlockThatWasNeverWrittenIsSeen) {
  Make();
  Run({{.start = 2, .tokens = {7}, .blocks = {0, 1}, .reset = true}});
  EXPECT_THAT(Reported(), HasSubstr("foreign or stale"));
}

TEST_F(SymbolicRankTest, ChoicesOnCopiedBlocksAreTrueAndOnOnesThatWereNotAreSeen) {
  enum { kCopied, kNotCopied, kCopiedFromElsewhere };
  for (const int way : {kCopied, kNotCopied, kCopiedFromElsewhere}) {
    Make();
    ASSERT_THAT(Run({{.tokens = {5, 6, 7}, .blocks = {0, 1}, .reset = true, .choices = 2}}),
                ElementsAre(Truth(0, 0), Truth(0, 1)));
    const uint32_t second = way == kNotCopied ? 1 : 2;
    pb::StepPlan plan = PlanOf({{.sequence = 1, .start = 3, .tokens = {Truth(0, 0)}},
                                {.sequence = 2,
                                 .start = 3,
                                 .tokens = {Truth(0, 1)},
                                 .blocks = {0, second},
                                 .reset = true}});
    plan.mutable_resets(0)->set_choice(1);
    if (way != kNotCopied) {
      pb::BlockCopy& copy = *plan.add_copies();
      copy.set_from_block(way == kCopied ? 1 : 0);
      copy.set_to_block(2);
    }
    const std::vector<int32_t> sampled = Run(plan);
    if (way == kCopied) {
      EXPECT_EQ(Reported(), "");
      EXPECT_THAT(sampled, ElementsAre(Truth(1, 0), Truth(1, 1)));
    } else {
      EXPECT_NE(Reported(), "");
    }
  }
}

TEST_F(SymbolicRankTest, ACopyThatMakesNoSenseIsSeen) {
  for (const auto& [from, to] : {std::pair(1u, 1u), std::pair(1u, 8u), std::pair(9u, 2u)}) {
    Make();
    Prefill();
    pb::StepPlan plan = PlanOf({{.start = 3, .tokens = {}}});
    pb::BlockCopy& copy = *plan.add_copies();
    copy.set_from_block(from);
    copy.set_to_block(to);
    Run(plan);
    EXPECT_THAT(Reported(), HasSubstr("copies block")) << from << " to " << to;
  }
}

TEST_F(SymbolicRankTest, AWrongPositionIsSeen) {
  for (const int64_t start : {2, 4}) {
    Make();
    Prefill();
    Run({{.start = start, .tokens = {Truth(0)}, .blocks = {2}}});
    EXPECT_THAT(Reported(), HasSubstr("instead of where it is")) << start;
  }
  // Told anew, it may begin anywhere; what is there then does not fit.
  Make();
  Prefill();
  Run({{.sequence = 2,
        .start = 1,
        .tokens = {6, 7},
        .blocks = {2, 3},
        .reset = true,
        .foreign = true}});
  EXPECT_THAT(Reported(), HasSubstr("foreign or stale"));
}

// A window of three: a query sees itself and the two before it.
TEST_F(SymbolicRankTest, ABlockBehindTheWindowMayGoAndNotEarlier) {
  for (const bool early : {false, true}) {
    Make(/*window=*/3);
    Run({{.tokens = {5, 6, 7}, .blocks = {0, 1}, .window_blocks = {0, 1}, .reset = true}});
    EXPECT_THAT(Run({{.start = 3, .tokens = {}}}), ElementsAre(Truth(1)));
    // Position 4 sees 2, 3 and 4: of the blocks {0, 1} the first is not needed any more.
    const std::vector<uint32_t> window_blocks =
        early ? std::vector<uint32_t>{kGone, kGone, 2} : std::vector<uint32_t>{kGone, 1, 2};
    const std::vector<int32_t> sampled = Run({{.sequence = 2,
                                               .start = 4,
                                               .tokens = {Truth(1)},
                                               .blocks = {0, 1, 2},
                                               .window_blocks = window_blocks,
                                               .reset = true}});
    if (early) {
      EXPECT_NE(Reported(), "");
    } else {
      EXPECT_EQ(Reported(), "");
      EXPECT_THAT(sampled, ElementsAre(Truth(2)));
    }
  }
}

// A prompt of three tokens, by both kinds of factors, with the border before and on its end.
TEST_F(SymbolicRankTest, FactorsChangeBehindTheBorderAndNotOnIt) {
  for (const bool is_long : {false, true}) {
    for (const int64_t border : {2, 3}) {
      Make(/*window=*/0, border);
      Run({{.tokens = {5, 6, 7}, .blocks = {0, 1}, .reset = true, .long_rope = is_long}});
      if (is_long == (border < 3)) {
        EXPECT_EQ(Reported(), "");
      } else {
        EXPECT_THAT(Reported(), HasSubstr(is_long ? "long factors" : "short factors"));
      }
    }
  }
}

TEST_F(SymbolicRankTest, ABlockOfTheOtherFactorsIsSeen) {
  Make(/*window=*/0, /*rope_switch=*/3);
  Run({{.tokens = {5, 6, 7}, .blocks = {0, 1}, .reset = true}});
  ASSERT_EQ(Reported(), "");
  Run({{.sequence = 2,
        .start = 2,
        .tokens = {7, Truth(0)},
        .blocks = {0, 2},
        .reset = true,
        .long_rope = true}});
  EXPECT_THAT(Reported(), HasSubstr("foreign or stale"));
}

// Somebody else writes block 0 of the window's pool, positions 0 and 1 of this sequence.
TEST_F(SymbolicRankTest, AStaleBlockIsSeenAsFarAsTheWindowReaches) {
  for (const bool is_behind : {false, true}) {
    Make(/*window=*/3);
    Run({{.tokens = {5, 6, 7}, .blocks = {0, 1}, .window_blocks = {0, 1}, .reset = true}});
    if (is_behind) Run({{.start = 3, .tokens = {}}});
    Run({{.sequence = 2,
          .tokens = {1, 2},
          .blocks = {4},
          .window_blocks = {0},
          .reset = true,
          .foreign = true}});
    ASSERT_EQ(Reported(), "");
    if (is_behind) {
      // Sees 2, 3 and 4.
      EXPECT_THAT(Run({{.start = 4, .tokens = {Truth(1)}, .blocks = {2}, .window_blocks = {2}}}),
                  ElementsAre(Truth(2)));
      EXPECT_EQ(Reported(), "");
    } else {
      Run({{.start = 3, .tokens = {Truth(0)}}});  // sees 1, 2 and 3
      EXPECT_THAT(Reported(), HasSubstr("foreign or stale"));
    }
  }
}

}  // namespace
}  // namespace tessera::simulation
