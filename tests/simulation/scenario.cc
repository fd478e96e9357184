// See the header. Everything is small, so that things meet: pools for one to four whole contexts,
// blocks of one to eight tokens, steps of a few rows.

#include "tests/simulation/scenario.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "models/memory_plan.h"
#include "tests/coordinator/cluster/cluster_fixtures.h"
#include "tests/simulation/symbolic_model.h"

namespace tessera::simulation {
namespace {

using sim::Random;

// On in this life with the given probability, and then this often.
double Maybe(Random& random, double probability, double low, double high) {
  const bool on = random.Chance(probability);
  const double rate = low + (high - low) * random.Uniform() * random.Uniform();
  return on ? rate : 0;
}

ModelTarget DrawModel(Random& random, const std::string& name, const SchedulerOptions& scheduler,
                      int tp) {
  ModelTarget model = SmallModel(name, tp);
  model.spec.vocab_size = kVocabSize;
  model.spec.context_max = random.Between(24, 128);
  if (random.Chance(0.3)) {
    KvGroup& full = model.spec.kv_groups.front();
    KvGroup window = full;
    full.layers = {0};
    window.layers = {1};
    window.kind = KvGroup::Kind::kWindow;
    window.window = random.Between(2, 32);
    model.spec.kv_groups.push_back(window);
  }
  model.memory.block_size = scheduler.block_size;
  model.memory.tokens_max = scheduler.tokens_max;
  model.memory.rows_max = scheduler.rows_max;
  model.memory.budget_bytes = uint64_t{1} << 40;
  model.memory.kv_bytes_max = 0;
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(model.spec, model.memory);
  TESSERA_CHECK(plan.ok()) << plan.status();
  // The pool holds at least one sequence of the whole context; every KvGroup gets as much.
  const int64_t least = (model.spec.context_max + scheduler.block_size - 1) / scheduler.block_size;
  const int64_t blocks = random.Chance(0.4) ? random.Between(least, least + least / 2)
                                            : random.Between(least, 4 * least);
  model.memory.kv_bytes_max =
      static_cast<uint64_t>(blocks * scheduler.block_size) * plan->kv_bytes_per_token;
  return model;
}

SchedulerOptions DrawLimits(Random& random) {
  SchedulerOptions options;
  options.term = 1 + random.Below(3);
  options.block_size = random.Between(1, 8);
  options.rows_max = random.Between(1, 10);
  options.tokens_max = options.rows_max + random.Between(0, 40);
  options.chunk_max = random.Between(1, 32);
  options.waiting_max = random.Between(4, 40);
  options.plans_in_flight_max = random.Chance(0.85) ? 2 : 1;
  options.prefix_cache = random.Chance(0.8);
  options.priority_ageing = random.Between(absl::Milliseconds(100), absl::Seconds(10));
  if (random.Chance(0.3)) {
    options.inter_token_target = random.Between(absl::Milliseconds(5), absl::Milliseconds(100));
  }
  return options;
}

void DrawWorkers(Random& random, size_t count, sim::SimulationOptions& options) {
  sim::StepTimeModel time;
  time.per_step = random.Between(absl::Milliseconds(2), absl::Milliseconds(40));
  time.per_token = random.Between(absl::Microseconds(20), absl::Milliseconds(2));
  time.noise = 0.3 * random.Uniform();
  for (size_t i = 0; i < count; ++i) {
    sim::WorkerOptions worker;
    worker.name = absl::StrCat("w", i);
    worker.time = time;
    worker.start_time = random.Between(absl::Milliseconds(50), absl::Milliseconds(500));
    worker.load_time = random.Between(absl::Milliseconds(200), absl::Seconds(4));
    options.workers.push_back(std::move(worker));
  }
  options.link.delay = random.Between(absl::Microseconds(20), absl::Milliseconds(2));
  options.link.jitter = random.Between(absl::ZeroDuration(), absl::Milliseconds(1));
  // Now and then the coordinator is slower than the ranks.
  options.turn_time = random.Chance(0.1)
                          ? random.Between(absl::Milliseconds(5), absl::Milliseconds(60))
                          : random.Between(absl::Microseconds(10), absl::Milliseconds(1));
}

FaultRates DrawFaults(Random& random) {
  FaultRates faults;
  if (random.Chance(0.15)) return faults;  // nothing goes wrong in this life
  faults.kill = Maybe(random, 0.3, 0.02, 0.6);
  faults.vanish = Maybe(random, 0.1, 0.02, 0.2);
  faults.pause = Maybe(random, 0.25, 0.02, 0.6);
  faults.slow = Maybe(random, 0.2, 0.02, 0.3);
  faults.stale = Maybe(random, 0.25, 0.1, 5);
  faults.load_failure = Maybe(random, 0.1, 0.05, 0.5);
  faults.reload = Maybe(random, 0.1, 0.02, 0.2);
  faults.drop = Maybe(random, 0.15, 0.0005, 0.01);
  faults.duplicate = Maybe(random, 0.15, 0.001, 0.05);
  faults.overtake = Maybe(random, 0.15, 0.001, 0.02);
  faults.delay = Maybe(random, 0.2, 0.001, 0.1);
  faults.delay_max = random.Between(absl::Milliseconds(1), absl::Seconds(3));
  faults.out_of_memory = Maybe(random, 0.1, 0.0005, 0.01);
  return faults;
}

WorkloadShape DrawWorkload(Random& random) {
  WorkloadShape shape;
  shape.requests = static_cast<int>(random.Between(4, 40));
  shape.span = random.Between(absl::Milliseconds(10), absl::Seconds(15));
  shape.tenants = static_cast<int>(random.Between(1, 4));
  shape.templates = static_cast<int>(random.Between(1, 4));
  if (random.Chance(0.3)) {
    shape.priorities = random.Chance(0.5) ? kPriorityMax : static_cast<int>(random.Between(1, 8));
  }
  shape.shares = random.Chance(0.5);
  shape.deadline = Maybe(random, 0.3, 0.05, 0.6);
  shape.disconnect = Maybe(random, 0.4, 0.02, 0.6);
  shape.failing_logits = Maybe(random, 0.2, 0.02, 0.3);
  shape.stop_strings = Maybe(random, 0.4, 0.05, 1);
  shape.several_choices = Maybe(random, 0.4, 0.05, 0.8);
  shape.logprobs = Maybe(random, 0.3, 0.05, 0.6);
  shape.prompt_logprobs = Maybe(random, 0.2, 0.05, 0.6);
  shape.penalties = Maybe(random, 0.3, 0.05, 0.6);
  shape.no_cache = Maybe(random, 0.2, 0.05, 0.6);
  shape.continues = Maybe(random, 0.4, 0.05, 0.6);
  shape.text_latency = random.Between(absl::Microseconds(50), absl::Milliseconds(100));
  shape.slow_reader = Maybe(random, 0.2, 0.02, 0.4);
  shape.tenant_change = Maybe(random, 0.2, 0.05, 1);
  shape.drain = random.Chance(0.15) ? 1 : 0;
  return shape;
}

// Several tenants that all want more than there is, for long: turns and waiting show here.
void MakeCrowded(Random& random, Scenario& scenario) {
  SchedulerOptions& scheduler = scenario.simulation.scheduler;
  scheduler.rows_max = std::min<int64_t>(random.Between(1, 3), scheduler.tokens_max);
  scheduler.waiting_max = 400;
  for (ModelTarget& model : scenario.simulation.cluster.models) {
    model.memory.rows_max = scheduler.rows_max;
  }
  WorkloadShape& shape = scenario.workload;
  shape.requests = static_cast<int>(random.Between(40, 150));
  shape.tenants = static_cast<int>(random.Between(2, 4));
  shape.several_choices /= 4;
  shape.shares = random.Chance(0.1);
  if (random.Chance(0.7)) shape.priorities = 0;
  shape.latecomer = random.Chance(0.4);
}

}  // namespace

Scenario Scenario::Draw(uint64_t seed) {
  Random random(seed);
  Scenario scenario;
  sim::SimulationOptions& options = scenario.simulation;
  options.seed = random.Next();
  options.scheduler = DrawLimits(random);
  const int models = random.Chance(0.2) ? 2 : 1;
  size_t workers = 0;
  for (int i = 0; i < models; ++i) {
    const int tp = random.Chance(0.3) ? 2 : 1;
    ModelTarget model = DrawModel(random, absl::StrCat("m", i), options.scheduler, tp);
    options.scheduler.models.push_back(
        {.context_max = model.spec.context_max, .kv_groups = model.spec.kv_groups});
    if (random.Chance(0.25)) {
      options.scheduler.models.back().rope_switch = random.Between(4, model.spec.context_max - 4);
    }
    options.cluster.models.push_back(std::move(model));
    workers += static_cast<size_t>(tp);
  }
  options.cluster.term = options.scheduler.term;
  DrawWorkers(random, workers + random.Below(2), options);
  scenario.workload = DrawWorkload(random);
  if (random.Chance(0.15)) MakeCrowded(random, scenario);
  scenario.faults = DrawFaults(random);
  scenario.fault_phase =
      scenario.workload.span + random.Between(absl::Seconds(2), absl::Seconds(10));
  return scenario;
}

}  // namespace tessera::simulation
