// See the header.

#include "tests/simulation/life.h"

#include <iterator>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/sim/simulation.h"
#include "tests/simulation/account_check.h"
#include "tests/simulation/fairness_check.h"
#include "tests/simulation/faults.h"
#include "tests/simulation/group_check.h"
#include "tests/simulation/ledger_check.h"
#include "tests/simulation/plan_shadow.h"
#include "tests/simulation/request_book.h"
#include "tests/simulation/room_check.h"
#include "tests/simulation/scenario.h"
#include "tests/simulation/symbolic_rank.h"
#include "tests/simulation/text_side.h"
#include "tests/simulation/trace.h"
#include "tests/simulation/workload.h"

namespace tessera::simulation {
namespace {

using cluster::v1::StepPlan;
using cluster::v1::StepResult;

// Everything that was asked for must end within this much virtual time after the last fault. A
// load that hangs takes the cluster kLoadSilenceMax to notice; the rest is work.
const absl::Duration kLivenessBound = kLoadSilenceMax + absl::Minutes(10);
// Heartbeats after the last end, so that every rank has heard what to forget.
constexpr absl::Duration kSettleTime = absl::Seconds(5);
// From when a heartbeat is due to its answer, with nothing else to do and no faults.
constexpr absl::Duration kAnswerTimeMax = absl::Milliseconds(200);
// A life that does not come to an end in this many events turns in a circle.
constexpr uint64_t kEventsPerLifeMax = 20'000'000;

class Life {
 public:
  Life(uint64_t seed, std::FILE* out)
      : scenario_(Scenario::Draw(seed)),
        random_(sim::Mix(seed) + 1),
        trace_(out),
        book_(BookRules(), violations_),
        shadow_(options(), book_, violations_),
        fairness_(options(), scenario_.workload.priorities == 0, book_, violations_),
        room_(options(), book_, violations_),
        groups_(GroupBounds(), violations_),
        ledger_(violations_),
        accounts_(book_, violations_),
        faults_(scenario_, random_.Fork()),
        simulation_(scenario_.simulation, Hooks()),
        text_(simulation_.queue(), book_, [this](Event event) { simulation_.Post(event); }),
        workload_(scenario_, simulation_, book_, text_, random_.Fork()) {
    true_token_ = [this](const std::string& id, uint32_t choice, int64_t position) {
      return book_.TrueToken(id, choice, position);
    };
    report_.seed = seed;
  }

  LifeReport Run();

 private:
  const SchedulerOptions& options() const { return scenario_.simulation.scheduler; }
  RequestBook::Rules BookRules() const;
  GroupCheck::Bounds GroupBounds() const;
  sim::SimulationHooks Hooks();
  sim::RankProgram MakeRank(const cluster::v1::Assign& assign);
  void OnEvent(const Event& event);
  void OnPlan(const StepPlan& plan);
  void OnUpdates(std::vector<RequestUpdate> updates);
  void OnTurn();
  void NoteRefusal(const Request& request);
  void RunUntil(absl::Time time, bool until_all_ended);
  void Finish();
  void Count();

  const Scenario scenario_;
  sim::Random random_;
  LifeReport report_;
  Violations violations_;
  Trace trace_;
  RequestBook book_;
  PlanShadow shadow_;
  FairnessCheck fairness_;
  RoomCheck room_;
  GroupCheck groups_;
  LedgerCheck ledger_;
  AccountCheck accounts_;
  Faults faults_;
  TrueToken true_token_;
  std::map<std::pair<uint64_t, uint32_t>, std::weak_ptr<SymbolicRank>> ranks_;
  bool draining_ = false;
  sim::Simulation simulation_;
  TextSide text_;
  Workload workload_;
};

RequestBook::Rules Life::BookRules() const {
  RequestBook::Rules rules{.block_size = options().block_size,
                           .prefix_cache = options().prefix_cache,
                           .hopeless_within = absl::InfiniteDuration(),
                           .turn = 2 * scenario_.simulation.turn_time};
  const FaultRates& faults = scenario_.faults;
  if (faults.slow > 0 || faults.pause > 0) return rules;
  // A prompt token cannot take longer than this, so whoever has that much time for each may hope.
  const sim::StepTimeModel& time = scenario_.simulation.workers.front().time;
  rules.hopeless_within = 3 * (time.per_step + time.per_token);
  return rules;
}

GroupCheck::Bounds Life::GroupBounds() const {
  const GroupManagerOptions& cluster = scenario_.simulation.cluster;
  const sim::LinkModel& link = scenario_.simulation.link;
  GroupCheck::Bounds bounds;
  bounds.heartbeat = options().heartbeat_interval;
  bounds.turn = 2 * scenario_.simulation.turn_time;
  // A jitter of forty times its mean does not happen.
  bounds.silence = cluster.heartbeat_interval * (cluster.heartbeats_missed_max + 0.5) +
                   2 * link.delay + 40 * link.jitter + bounds.turn;
  if (scenario_.faults.delay > 0) bounds.silence += scenario_.faults.delay_max;
  return bounds;
}

sim::SimulationHooks Life::Hooks() {
  sim::SimulationHooks hooks;
  hooks.ranks = [this](const cluster::v1::Assign& assign, uint32_t worker) {
    groups_.AddRank(assign, simulation_.worker(worker));
    return MakeRank(assign);
  };
  hooks.observers.event = [this](const Event& event) { OnEvent(event); };
  hooks.observers.plan = [this](const StepPlan& plan) { OnPlan(plan); };
  hooks.observers.updates = [this](std::vector<RequestUpdate> updates) {
    OnUpdates(std::move(updates));
  };
  hooks.observers.ledger = accounts_.Sinks();
  hooks.observers.accounts = [this](const std::vector<ClosedAccount>& accounts) {
    accounts_.Close(accounts);
  };
  hooks.observers.turn = [this] { OnTurn(); };
  hooks.notice = [this](const Notice& notice) { trace_.Add(notice, simulation_.Now()); };
  hooks.fate = [this](sim::MessageKind kind, uint32_t) { return faults_.Fate(kind); };
  return hooks;
}

sim::RankProgram Life::MakeRank(const cluster::v1::Assign& assign) {
  const SchedulerModel& model = options().models.at(assign.group());
  auto rank = std::make_shared<SymbolicRank>(assign, model, true_token_, violations_);
  ranks_[{assign.epoch(), assign.rank()}] = rank;
  ledger_.Open(assign.epoch(), assign.rank(), simulation_.Now());
  return [this, rank, epoch = assign.epoch(), number = assign.rank(),
          failed_before = false](const StepPlan& plan) mutable {
    ledger_.Begin(epoch, number, plan.step(), simulation_.Now());
    // Nothing that follows a failed step can be right on this rank.
    if (failed_before || faults_.IsOutOfMemory()) {
      failed_before = true;
      StepResult failed;
      failed.mutable_error()->set_code(static_cast<int>(absl::StatusCode::kResourceExhausted));
      failed.mutable_error()->set_message("the device is out of memory");
      return failed;
    }
    return rank->Execute(plan);
  };
}

// Computed from the rules: who is to be refused.
void Life::NoteRefusal(const Request& request) {
  const SchedulerStats stats = simulation_.scheduler().Stats();
  BookedRequest& booked = *book_.Find(request.id);
  const int64_t context_max = options().models[request.model].context_max;
  booked.must_refuse = draining_ || stats.waiting >= options().waiting_max ||
                       request.sampling.num_choices > options().rows_max ||
                       static_cast<int64_t>(request.prompt.size()) >= context_max;
}

void Life::OnEvent(const Event& event) {
  trace_.Add(event, simulation_.Now());
  if (const auto* request = std::get_if<NewRequest>(&event)) NoteRefusal(*request->request);
  if (std::holds_alternative<Drain>(event)) draining_ = true;
  if (std::holds_alternative<TextStop>(event)) ++report_.counts.text_stops;
  if (std::holds_alternative<GroupLost>(event)) ++report_.counts.group_losses;
  if (const auto* done = std::get_if<StepDone>(&event)) {
    ledger_.Take(*done, simulation_.Now());
    faults_.Remember(*done);
  }
  book_.Observe(event, simulation_.Now());
  shadow_.Observe(event);
  groups_.Observe(event, faults_.num_hits() > 0, simulation_.Now());
  fairness_.Observe(event);
}

void Life::OnPlan(const StepPlan& plan) {
  ++report_.counts.plans;
  report_.counts.rows += static_cast<uint64_t>(plan.sequence_size());
  report_.counts.copies += static_cast<uint64_t>(plan.copies_size());
  trace_.Add(plan, simulation_.Now());
  faults_.Remember(plan);
  shadow_.Observe(plan);
  groups_.Observe(plan, simulation_.Now());
  fairness_.Observe(plan);
}

void Life::OnUpdates(std::vector<RequestUpdate> updates) {
  for (const RequestUpdate& update : updates) {
    trace_.Add(update, simulation_.Now());
    book_.Take(update, simulation_.Now());
    fairness_.Observe(update);
    text_.Take(update);
  }
}

void Life::OnTurn() {
  const absl::Status valid = simulation_.scheduler().Validate();
  if (!valid.ok()) violations_.Report(Checker::kValidate, std::string(valid.message()));
  book_.CheckAfterTurn(simulation_.Now());
  fairness_.AfterTurn();
  const SchedulerStats stats = simulation_.scheduler().Stats();
  shadow_.CheckStats(stats);
  room_.Check(stats);
  groups_.AfterTurn(simulation_.Now());
  if (simulation_.scheduler().NextWakeup() <= simulation_.Now()) {
    violations_.Report(Checker::kDeadline, "the next wakeup is not in the future");
  }
}

void Life::RunUntil(absl::Time time, bool until_all_ended) {
  sim::EventQueue& queue = simulation_.queue();
  while (violations_.empty() && queue.NextTime() <= time) {
    if (until_all_ended && workload_.all_sent() && book_.num_open() == 0) return;
    queue.RunNext();
    if (queue.num_run() < kEventsPerLifeMax) continue;
    violations_.Report(Checker::kLiveness, "the life turns in a circle");
  }
}

void Life::Finish() {
  if (!violations_.empty()) return;
  if (book_.num_open() > 0) {
    std::vector<std::string> open;
    for (const auto& [id, booked] : book_.all()) {
      if (!booked.end.has_value()) open.push_back(booked.request->public_id);
    }
    violations_.Report(Checker::kLiveness, absl::StrCat("never ended: ", absl::StrJoin(open, " ")));
    return;
  }
  RunUntil(simulation_.Now() + kSettleTime, /*until_all_ended=*/false);
  if (!violations_.empty()) return;
  shadow_.CheckIdle(simulation_.scheduler().Stats());
  // Idle ranks tell of their time with every heartbeat.
  const absl::Duration silence = options().heartbeat_interval + kAnswerTimeMax;
  double shared = 0;
  for (uint32_t group = 0; group < options().models.size(); ++group) {
    shared += simulation_.scheduler().WorkOfGroup(group);
  }
  accounts_.Finish(shared,
                   static_cast<double>(simulation_.num_workers()) * absl::ToDoubleSeconds(silence));
  for (const auto& [key, weak] : ranks_) {
    const std::shared_ptr<SymbolicRank> rank = weak.lock();
    if (rank == nullptr || rank->num_sequences() == 0) continue;
    violations_.Report(Checker::kLiveness, absl::StrCat("rank ", key.second, " of epoch ",
                                                        key.first, " remembers sequences"));
  }
}

void Life::Count() {
  LifeCounts& counts = report_.counts;
  counts.events = simulation_.queue().num_run();
  counts.comparisons = fairness_.num_comparisons();
  counts.faults = static_cast<uint64_t>(faults_.num_hits());
  for (const ModelStats& model : simulation_.scheduler().Stats().models) {
    counts.computed_tokens += model.computed_tokens;
    counts.recomputed_tokens += model.recomputed_tokens;
    counts.overrun_tokens += model.overrun_tokens;
    counts.prefix_hit_tokens += model.prefix_hit_tokens;
    counts.preemptions += model.preemptions;
  }
  for (const auto& [id, booked] : book_.all()) {
    if (booked.end.has_value()) ++counts.ends[static_cast<size_t>(booked.end->reason)];
  }
}

LifeReport Life::Run() {
  const absl::Time born = simulation_.Now();
  simulation_.Start();
  workload_.Start();
  faults_.Start(scenario_, simulation_, workload_);
  RunUntil(born + scenario_.fault_phase, /*until_all_ended=*/false);
  faults_.Stop();
  trace_.Say("-- no faults from here on", simulation_.Now());
  RunUntil(simulation_.Now() + kLivenessBound, /*until_all_ended=*/true);
  Finish();
  Count();
  report_.violations = violations_.all();
  report_.trace_hash = trace_.hash();
  report_.virtual_time = simulation_.Now() - born;
  return std::move(report_);
}

}  // namespace

const char* CheckerName(Checker checker) {
  switch (checker) {
    case Checker::kValidate:
      return "validate";
    case Checker::kRank:
      return "rank";
    case Checker::kShadow:
      return "shadow";
    case Checker::kTokens:
      return "tokens";
    case Checker::kTerminal:
      return "terminal";
    case Checker::kUsage:
      return "usage";
    case Checker::kDeadline:
      return "deadline";
    case Checker::kFairness:
      return "fairness";
    case Checker::kRoom:
      return "room";
    case Checker::kLiveness:
      return "liveness";
    case Checker::kGroups:
      return "groups";
    case Checker::kLedger:
      return "ledger";
    case Checker::kTrace:
      return "trace";
    case Checker::kCheck:
      return "check";
    case Checker::kCrash:
      return "crash";
  }
  return "unknown";
}

void LifeCounts::Add(const LifeCounts& other) {
  events += other.events;
  plans += other.plans;
  rows += other.rows;
  group_losses += other.group_losses;
  faults += other.faults;
  computed_tokens += other.computed_tokens;
  recomputed_tokens += other.recomputed_tokens;
  overrun_tokens += other.overrun_tokens;
  prefix_hit_tokens += other.prefix_hit_tokens;
  preemptions += other.preemptions;
  copies += other.copies;
  comparisons += other.comparisons;
  text_stops += other.text_stops;
  repeated += other.repeated;
  for (size_t i = 0; i < std::size(ends); ++i) ends[i] += other.ends[i];
}

LifeReport RunLife(uint64_t seed, std::FILE* trace) { return Life(seed, trace).Run(); }

}  // namespace tessera::simulation
