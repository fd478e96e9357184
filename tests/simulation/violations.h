// What the checkers of one life found wrong. Nothing here ends the life; whoever runs it looks
// between events. Each violation names its checker, so that planted bugs can be counted by it.

#ifndef TESSERA_TESTS_SIMULATION_VIOLATIONS_H_
#define TESSERA_TESTS_SIMULATION_VIOLATIONS_H_

#include <string>
#include <utility>
#include <vector>

namespace tessera::simulation {

enum class Checker {
  kValidate,  // Scheduler::Validate
  kRank,      // what a rank sees of a plan: columns, tables, symbolic KV, history
  kShadow,    // tables and references rebuilt from the plans
  kTokens,    // tokens in order, once, equal to the undisturbed run
  kTerminal,  // one end per request, for the reason that its tokens give
  kUsage,     // what is counted: tokens, cached tokens, log probabilities
  kDeadline,  // nothing lives past its deadline, no wakeup is missed
  kFairness,  // waiting is bounded
  kRoom,      // nobody waits where there is room for everybody
  kLiveness,  // everything ends once the faults have stopped
  kGroups,    // groups are lost only when something went wrong, and kept in touch with
  kLedger,    // intervals and gaps of every rank sum up
  kTrace,     // the same seed lives the same life
  kCheck,     // a broken invariant of the code itself, in a build that reports them
  kCrash,     // the process died or hung
};

const char* CheckerName(Checker checker);

struct Violation {
  Checker checker = Checker::kValidate;
  std::string text;
};

class Violations {
 public:
  static constexpr size_t kKept = 20;

  void Report(Checker checker, std::string text) {
    if (all_.size() < kKept) all_.push_back({checker, std::move(text)});
  }
  bool empty() const { return all_.empty(); }
  const std::vector<Violation>& all() const { return all_; }

 private:
  std::vector<Violation> all_;
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_VIOLATIONS_H_
