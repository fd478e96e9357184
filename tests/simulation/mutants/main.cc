// Is the simulation any good? Plants one bug after the other and lives until a checker sees it;
// then asks the unit tests. Fails when a bug is never seen, is seen by a crash only, or when fewer
// than kInvisibleMin of them get past every unit test.
//
//   mutation_test [--seeds N] [--only NAME] [--no-unit-tests]     at most N lives per bug (3000)

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "tests/simulation/life.h"
#include "tests/simulation/mutants/planted.h"
#include "tests/simulation/runner.h"

namespace tessera::simulation {
namespace {

constexpr int kInvisibleMin = 10;
constexpr double kSecondsPerLifeMax = 10;

struct Found {
  uint64_t lives = 0;
  uint64_t crashes = 0;
  std::string checker;  // empty: never seen
  std::string text;
};

LifeReport LiveWithBug(uint64_t seed) {
  try {
    return RunLife(seed, nullptr);
  } catch (const CheckFailed& failed) {
    LifeReport report;
    report.seed = seed;
    report.violations.push_back({Checker::kCheck, failed.what()});
    return report;
  }
}

Found Search(int number, uint64_t seeds) {
  PlantedNow() = number;
  Found found;
  RunnerOptions options;
  options.seeds = seeds;
  options.processes = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  options.seconds_per_life_max = kSecondsPerLifeMax;
  RunSeeds(options, LiveWithBug, [&](const LifeReport& report) {
    ++found.lives;
    for (const Violation& violation : report.violations) {
      // The code's own checks and crashes are luck; somebody who only looks on must see it.
      if (violation.checker == Checker::kCrash || violation.checker == Checker::kCheck) {
        ++found.crashes;
        continue;
      }
      found.checker = CheckerName(violation.checker);
      found.text = violation.text;
      return false;
    }
    return true;
  });
  PlantedNow() = 0;
  return found;
}

// Whether all unit tests of the planted sources pass.
bool PassesUnitTests(int number, const std::vector<std::string>& programs) {
  for (const std::string& program : programs) {
    const std::string command =
        absl::StrCat("TESSERA_PLANTED=", number, " timeout 60 ", program, " >/dev/null 2>&1");
    if (std::system(command.c_str()) != 0) return false;
  }
  return true;
}

std::string FolderOf(const std::string& program) {
  const size_t slash = program.rfind('/');
  return slash == std::string::npos ? "." : program.substr(0, slash);
}

int Run(const std::string& folder, uint64_t seeds, const std::string& only, bool unit_tests) {
  const std::vector<std::string> programs = {folder + "/mutation_kv_test",
                                             folder + "/mutation_sched_test",
                                             folder + "/mutation_cluster_test"};
  if (unit_tests && !PassesUnitTests(0, programs)) {
    std::printf("the unit tests fail without any planted bug\n");
    return 1;
  }
  if (const Found clean = Search(0, 50); !clean.checker.empty() || clean.crashes > 0) {
    std::printf("without any planted bug: %s %s\n", clean.checker.c_str(), clean.text.c_str());
    return 1;
  }
  int searched = 0;
  int missed = 0;
  int invisible = 0;
  std::printf("%-32s %6s  %-10s %-6s\n", "bug", "lives", "seen by", "unit tests");
  for (int number = 1; number <= kPlantedCount; ++number) {
    if (!only.empty() && only != kPlantedNames[number - 1]) continue;
    ++searched;
    const Found found = Search(number, seeds);
    const bool passes = unit_tests && PassesUnitTests(number, programs);
    missed += found.checker.empty() ? 1 : 0;
    invisible += passes && !found.checker.empty() ? 1 : 0;
    std::printf("%-32s %6lu  %-10s %-6s\n", kPlantedNames[number - 1], found.lives,
                found.checker.empty() ? (found.crashes > 0 ? "crash only" : "NOBODY")
                                      : found.checker.c_str(),
                unit_tests ? (passes ? "pass" : "fail") : "-");
    std::fflush(stdout);
  }
  std::printf("%d planted bugs, %d not seen, %d seen that get past every unit test\n", searched,
              missed, invisible);
  if (searched == 0) {
    std::printf("no planted bug is called %s\n", only.c_str());
    return 2;
  }
  return missed == 0 && (!unit_tests || !only.empty() || invisible >= kInvisibleMin) ? 0 : 1;
}

}  // namespace
}  // namespace tessera::simulation

int main(int argc, char** argv) {
  uint64_t seeds = 3000;
  std::string only;
  bool unit_tests = true;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--no-unit-tests") {
      unit_tests = false;
    } else if (name == "--only" && i + 1 < argc) {
      only = argv[++i];
    } else if (name != "--seeds" || i + 1 >= argc || !absl::SimpleAtoi(argv[++i], &seeds)) {
      std::fprintf(stderr, "usage: %s [--seeds N] [--only NAME] [--no-unit-tests]\n", argv[0]);
      return 2;
    }
  }
  return tessera::simulation::Run(tessera::simulation::FolderOf(argv[0]), seeds, only, unit_tests);
}
