// The simulation test: many lives, each from its own seed, on all cores; prints what happened and
// one command that replays each of the first lives in which something was wrong.
//
//   simulation_test --seeds N [--first F] [--processes P]   N lives from F on (10000, 1, cores)
//   simulation_test --seed S                                one life, its story on standard output

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "coordinator/sched/request.h"
#include "tests/simulation/life.h"
#include "tests/simulation/runner.h"

namespace tessera::simulation {
namespace {

constexpr uint64_t kRepeatEvery = 16;  // of so many lives one is lived twice and must be the same
constexpr size_t kFailuresTold = 5;
constexpr uint64_t kLongRun = 1000;  // seeds; everything must have happened in so many

struct Arguments {
  uint64_t seeds = 10000;
  uint64_t first = 1;
  uint64_t seed = 0;  // 0: many
  bool many = false;  // something was said of many
  uint64_t processes = std::max(1u, std::thread::hardware_concurrency());
};

bool Parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    uint64_t* const value = name == "--seeds"       ? &arguments.seeds
                            : name == "--first"     ? &arguments.first
                            : name == "--seed"      ? &arguments.seed
                            : name == "--processes" ? &arguments.processes
                                                    : nullptr;
    if (value == nullptr || i + 1 >= argc || !absl::SimpleAtoi(argv[i + 1], value)) return false;
    if (*value == 0) return false;
    arguments.many |= value != &arguments.seed;
  }
  return arguments.seed == 0 || !arguments.many;
}

// Now and then the life is lived twice.
LifeReport Live(uint64_t seed) {
  LifeReport report = RunLife(seed, nullptr);
  if (seed % kRepeatEvery != 0) return report;
  const LifeReport again = RunLife(seed, nullptr);
  report.virtual_time += again.virtual_time;
  report.counts.repeated = 1;
  if (again.trace_hash != report.trace_hash) {
    report.violations.push_back({Checker::kTrace, "the same seed lives two different lives"});
  }
  return report;
}

void Tell(const char* program, const LifeReport& report) {
  std::printf("seed %lu failed; replay it with: %s --seed %lu\n", report.seed, program,
              report.seed);
  for (const Violation& violation : report.violations) {
    std::printf("  %s: %s\n", CheckerName(violation.checker), violation.text.c_str());
  }
}

int RunOne(const char* program, uint64_t seed) {
  // A crash must not swallow the story.
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const LifeReport report = RunLife(seed, stdout);
  std::printf("trace hash %016lx, %s of virtual time, %lu plans\n", report.trace_hash,
              absl::FormatDuration(report.virtual_time).c_str(), report.counts.plans);
  if (report.violations.empty()) return 0;
  Tell(program, report);
  return 1;
}

struct Outcome {
  LifeCounts counts;
  absl::Duration virtual_time;
  uint64_t lived = 0;
  uint64_t failed = 0;
  std::vector<LifeReport> failures;  // of the lowest seeds
};

void Take(const LifeReport& report, Outcome& outcome) {
  ++outcome.lived;
  outcome.counts.Add(report.counts);
  outcome.virtual_time += report.virtual_time;
  if (report.violations.empty()) return;
  ++outcome.failed;
  outcome.failures.push_back(report);
  std::sort(outcome.failures.begin(), outcome.failures.end(),
            [](const LifeReport& a, const LifeReport& b) { return a.seed < b.seed; });
  if (outcome.failures.size() > kFailuresTold) outcome.failures.pop_back();
}

void Summarize(const Arguments& arguments, const Outcome& outcome, double seconds) {
  const LifeCounts& counts = outcome.counts;
  const double virtual_seconds = absl::ToDoubleSeconds(outcome.virtual_time);
  std::printf("%lu seeds from %lu on in %.1f s in %lu processes: %.0f seeds/s, %.0f x real time\n",
              outcome.lived, arguments.first, seconds, arguments.processes,
              static_cast<double>(outcome.lived) / seconds, virtual_seconds / seconds);
  std::printf(
      "  %.0f virtual hours, %lu events, %lu plans, %lu rows, %lu faults, %lu group losses\n",
      virtual_seconds / 3600, counts.events, counts.plans, counts.rows, counts.faults,
      counts.group_losses);
  std::printf(
      "  tokens: %lu computed, %lu recomputed, %lu overrun, %lu hit; %lu preemptions, %lu copies\n",
      counts.computed_tokens, counts.recomputed_tokens, counts.overrun_tokens,
      counts.prefix_hit_tokens, counts.preemptions, counts.copies);
  std::printf("  %lu text stops, %lu comparisons of tenants that both wait\n", counts.text_stops,
              counts.comparisons);
  std::printf("  requests:");
  for (size_t i = 0; i < std::size(counts.ends); ++i) {
    std::printf(" %lu %s", counts.ends[i], FinishReasonName(static_cast<FinishReason>(i)));
  }
  std::printf("\n  %lu seeds lived twice; %lu seeds failed\n", counts.repeated, outcome.failed);
}

// Lives in which nothing happens prove nothing.
bool EverythingHappened(const LifeCounts& counts) {
  const std::pair<const char*, uint64_t> all[] = {
      {"plan", counts.plans},
      {"fault", counts.faults},
      {"lost group", counts.group_losses},
      {"recomputed token", counts.recomputed_tokens},
      {"overrun token", counts.overrun_tokens},
      {"prefix hit", counts.prefix_hit_tokens},
      {"preemption", counts.preemptions},
      {"copy", counts.copies},
      {"stop string", counts.text_stops},
      {"comparison of tenants", counts.comparisons},
      {"repeated life", counts.repeated},
      {"stop", counts.ends[static_cast<int>(FinishReason::kStop)]},
      {"length", counts.ends[static_cast<int>(FinishReason::kLength)]},
      {"cancel", counts.ends[static_cast<int>(FinishReason::kCancelled)]},
      {"deadline", counts.ends[static_cast<int>(FinishReason::kDeadline)]},
      {"refusal", counts.ends[static_cast<int>(FinishReason::kRejected)]},
      {"error", counts.ends[static_cast<int>(FinishReason::kError)]},
  };
  bool happened = true;
  for (const auto& [what, count] : all) {
    if (count > 0) continue;
    std::printf("not a single %s in all these lives\n", what);
    happened = false;
  }
  return happened;
}

int RunMany(const char* program, const Arguments& arguments) {
  Outcome outcome;
  const auto begin = std::chrono::steady_clock::now();
  RunSeeds({.first = arguments.first,
            .seeds = arguments.seeds,
            .processes = static_cast<int>(std::min<uint64_t>(arguments.processes, 256))},
           Live, [&](const LifeReport& report) {
             Take(report, outcome);
             return true;
           });
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  Summarize(arguments, outcome, seconds);
  for (const LifeReport& failure : outcome.failures) Tell(program, failure);
  if (outcome.lived != arguments.seeds) {
    std::printf("%lu seeds were not lived\n", arguments.seeds - outcome.lived);
    return 1;
  }
  if (arguments.seeds >= kLongRun && outcome.failed == 0 && !EverythingHappened(outcome.counts)) {
    return 1;
  }
  return outcome.failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace tessera::simulation

int main(int argc, char** argv) {
  tessera::simulation::Arguments arguments;
  if (!tessera::simulation::Parse(argc, argv, arguments)) {
    std::fprintf(stderr, "usage: %s [--seeds N] [--first F] [--processes P] | --seed S\n", argv[0]);
    return 2;
  }
  return arguments.seed != 0 ? tessera::simulation::RunOne(argv[0], arguments.seed)
                             : tessera::simulation::RunMany(argv[0], arguments);
}
