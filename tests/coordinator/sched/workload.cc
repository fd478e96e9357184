// The random life; see workload.h.

#include "tests/coordinator/sched/workload.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tessera::testing {
namespace {

constexpr int kThingsPerLife = 250;
constexpr int kTurnsToFinishMax = 3000;

}  // namespace

Workload::Workload(uint64_t seed, Faults faults)
    : random_(seed),
      faults_(std::move(faults)),
      options_(MakeOptions()),
      log_(violations_),
      scheduler_(options_) {
  const uint64_t num_groups = options_.models.size() + Below(3);
  for (uint32_t id = 0; id < num_groups; ++id) {
    Group& group = groups_.emplace_back();
    group.ready.group = id;
    group.ready.epoch = 1;
    group.ready.model = id % options_.models.size();
    for (size_t g = 0; g < options_.models[group.ready.model].kv_groups.size(); ++g) {
      group.ready.num_blocks.push_back(static_cast<uint32_t>(4 + Below(24)));
    }
    if (Chance(80)) ToggleGroup(group);
  }
}

SchedulerOptions Workload::MakeOptions() {
  SchedulerOptions options;
  options.term = 1 + Below(3);
  options.block_size = static_cast<int64_t>(1 + Below(6));
  options.rows_max = static_cast<int64_t>(1 + Below(8));
  options.tokens_max = options.rows_max + static_cast<int64_t>(Below(20));
  options.chunk_max = static_cast<int64_t>(1 + Below(12));
  options.waiting_max = static_cast<int64_t>(3 + Below(20));
  options.models.resize(1 + Below(2));
  for (SchedulerModel& model : options.models) {
    model.context_max = static_cast<int64_t>(8 + Below(60));
    model.kv_groups.resize(1 + Below(2));
  }
  return options;
}

std::shared_ptr<const Request> Workload::MakeRequest() {
  auto request = std::make_shared<Request>();
  request->id = next_id_++;
  request->public_id = absl::StrCat(request->id);
  request->model = static_cast<uint32_t>(Below(options_.models.size()));
  const int64_t context_max = options_.models[request->model].context_max;
  const uint64_t length = Chance(3) ? Below(context_max * 2) : 1 + Below(context_max / 2);
  for (uint64_t i = 0; i < length; ++i)
    request->prompt.push_back(static_cast<int32_t>(Below(kVocabSize)));
  request->sampling.max_tokens = static_cast<uint32_t>(1 + Below(24));
  request->sampling.temperature = static_cast<float>(Below(3)) / 2;
  request->sampling.seed = Chance(5) ? kFailingSeed : 100 + Below(1000);
  for (uint64_t i = Below(3); i > 0; --i) {
    request->sampling.stop_token_ids.push_back(static_cast<int32_t>(Below(kVocabSize)));
  }
  request->arrival = now_;
  if (Chance(20)) request->deadline = now_ + absl::Milliseconds(Below(2000));
  return request;
}

// Computed from the rules, not from the scheduler's state: who may be refused, and how.
std::vector<absl::StatusCode> Workload::Refusals(const Request& request) const {
  std::vector<absl::StatusCode> refusals;
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t context_max = options_.models[request.model].context_max;
  const int64_t computed = std::min(prompt + request.sampling.max_tokens, context_max) - 1;
  const int64_t blocks = (computed + options_.block_size - 1) / options_.block_size;
  const bool fits = std::any_of(groups_.begin(), groups_.end(), [&](const Group& group) {
    return group.ready.model == request.model &&
           std::all_of(group.ready.num_blocks.begin(), group.ready.num_blocks.end(),
                       [&](int64_t pool) { return pool >= blocks; });
  });
  // A group that has never been ready is not known: the request may be refused although it would
  // fit.
  const bool all_known = std::all_of(groups_.begin(), groups_.end(), [&](const Group& group) {
    return group.ready.model != request.model || group.is_ready || group.ready.epoch > 1;
  });
  if (prompt == 0 || prompt >= context_max || !fits || !all_known) {
    refusals.push_back(absl::StatusCode::kInvalidArgument);
  }
  if (draining_) refusals.push_back(absl::StatusCode::kUnavailable);
  if (scheduler_.Stats().waiting >= options_.waiting_max) {
    refusals.push_back(absl::StatusCode::kResourceExhausted);
  }
  return refusals;
}

void Workload::SubmitRequest() {
  std::shared_ptr<const Request> request = MakeRequest();
  LoggedRequest& logged = log_.Add(request, options_.models[request->model].context_max);
  logged.refusals = Refusals(*request);
  scheduler_.Apply(NewRequest{request}, now_);
}

void Workload::CancelOne() {
  const std::vector<RequestId> open = log_.Open();
  // Also some that have ended or never were.
  const RequestId id =
      open.empty() || Chance(10) ? 1 + Below(next_id_ + 3) : open[Below(open.size())];
  if (id < next_id_) log_.at(id).cancelled = true;
  scheduler_.Apply(Cancel{.request = id, .reason = FinishReason::kCancelled}, now_);
}

void Workload::StopOne() {
  const std::vector<RequestId> open = log_.Open();
  if (open.empty()) return;
  LoggedRequest& logged = log_.at(open[Below(open.size())]);
  if (logged.emitted.empty() || logged.stop_index.has_value()) return;
  logged.stop_index = static_cast<uint32_t>(logged.emitted.size() - 1 -
                                            Below(std::min<size_t>(logged.emitted.size(), 3)));
  scheduler_.Apply(
      TextStop{.request = logged.request->id, .choice = 0, .index = *logged.stop_index}, now_);
}

void Workload::FinishStep(Group& group) {
  if (!group.is_ready || !group.ranks->in_flight()) return;
  StepDone done = group.ranks->Finish();
  group.last_done = done;
  if (faults_.done) faults_.done(done);
  scheduler_.Apply(done, now_);
}

void Workload::ToggleGroup(Group& group) {
  if (!group.is_ready) {
    group.is_ready = true;
    group.ranks = std::make_unique<FakeRanks>(group.ready, options_, static_cast<int>(1 + Below(3)),
                                              violations_);
    scheduler_.Apply(group.ready, now_);
    return;
  }
  ++losses_;
  if (group.ranks->in_flight() && Chance(30)) {
    // A rank says so itself before the cluster does.
    StepDone done = group.ranks->Finish();
    done.rank_results.back().mutable_error()->set_message("device lost");
    scheduler_.Apply(done, now_);
  }
  scheduler_.Apply(GroupLost{.group = group.ready.group, .epoch = group.ready.epoch, .reason = {}},
                   now_);
  group.is_ready = false;
  ++group.ready.epoch;
}

void Workload::ReplayStale(Group& group) {
  if (group.last_done.rank_results.empty()) return;
  scheduler_.Apply(group.last_done, now_);
  scheduler_.Apply(
      GroupLost{.group = group.ready.group, .epoch = group.ready.epoch - 1, .reason = {}}, now_);
}

void Workload::DoRandomThing() {
  const uint64_t dice = Below(100);
  Group& group = groups_[Below(groups_.size())];
  if (dice < 20) {
    SubmitRequest();
  } else if (dice < 24) {
    CancelOne();
  } else if (dice < 28) {
    StopOne();
  } else if (dice < 31) {
    ReplayStale(group);
  } else if (dice < (group.is_ready ? 32 : 45)) {
    ToggleGroup(group);
  } else if (dice < 47) {
    now_ += absl::Milliseconds(Below(300));
    scheduler_.Apply(Tick{}, now_);
  } else {
    FinishStep(group);
  }
}

// Blocks that the plan in flight names are not to be given away.
void Workload::CheckPins() {
  const SchedulerStats stats = scheduler_.Stats();
  for (const GroupStats& group : stats.groups) {
    const Group& mine = groups_[group.group];
    if (!mine.is_ready) continue;
    for (size_t g = 0; g < group.blocks_total.size(); ++g) {
      const int64_t named = mine.ranks->NumBlocksInFlight(static_cast<int>(g));
      if (group.blocks_free[g] > group.blocks_total[g] - named) {
        violations_.push_back(absl::StrCat("group ", group.group, " gives ", group.blocks_free[g],
                                           " blocks away while a plan names ", named, " of ",
                                           group.blocks_total[g]));
      }
    }
  }
}

// On a group that is its model's only one, sequences start in order of arrival. A prompt of one
// token is a decode row from the start and may go before longer ones that wait for their share of
// the step.
void Workload::CheckOrder() {
  if (losses_ > 0) return;
  for (const Group& group : groups_) {
    const auto alone = [&](const Group& other) {
      return &other == &group || other.ready.model != group.ready.model;
    };
    if (group.ranks == nullptr || !std::all_of(groups_.begin(), groups_.end(), alone)) continue;
    uint64_t last = 0;
    for (const std::string& public_id : group.ranks->first_rows()) {
      uint64_t id = 0;
      if (!absl::SimpleAtoi(public_id, &id)) violations_.push_back("no id: " + public_id);
      if (log_.at(id).request->prompt.size() == 1) continue;
      if (id <= last) violations_.push_back(absl::StrCat("request ", id, " started after ", last));
      last = id;
    }
  }
}

void Workload::Turn() {
  for (cluster::v1::StepPlan& plan : scheduler_.Schedule(now_)) {
    ++plans_;
    Group& group = groups_.at(plan.group());
    if (!group.is_ready) {
      violations_.push_back(absl::StrCat("a plan for group ", plan.group(), ", which is lost"));
      continue;
    }
    if (faults_.plan) faults_.plan(plan);
    group.ranks->Submit(plan);
  }
  std::vector<RequestUpdate> updates = scheduler_.TakeUpdates();
  if (faults_.updates) faults_.updates(updates);
  for (const RequestUpdate& update : updates) log_.Take(update, now_);
  log_.CheckDeadlines(now_);
  TESSERA_CHECK(scheduler_.Validate().ok());
  CheckPins();
  if (scheduler_.NextWakeup() <= now_) violations_.push_back("the next wakeup is in the past");
}

void Workload::FinishEverything() {
  scheduler_.Apply(Drain{}, now_);
  draining_ = true;
  SubmitRequest();  // must be refused
  for (Group& group : groups_) {
    if (!group.is_ready) ToggleGroup(group);
  }
  for (int turn = 0; turn < kTurnsToFinishMax && violations_.empty(); ++turn) {
    Turn();
    if (log_.Open().empty()) break;
    for (Group& group : groups_) FinishStep(group);
  }
  if (!log_.Open().empty()) {
    violations_.push_back(absl::StrCat(log_.Open().size(), " requests never end"));
  }
  // Heartbeats answer, tell the ranks what to forget, and leave nothing behind.
  for (int beat = 0; beat < 3 && violations_.empty(); ++beat) {
    for (Group& group : groups_) FinishStep(group);
    now_ += options_.heartbeat_interval;
    Turn();
  }
  for (const GroupStats& group : scheduler_.Stats().groups) {
    if (group.blocks_free != group.blocks_total) violations_.push_back("blocks are lost");
    if (groups_[group.group].ranks->num_sequences() != 0)
      violations_.push_back("ranks remember sequences");
  }
}

std::vector<std::string> Workload::Run() {
  for (int i = 0; i < kThingsPerLife && violations_.empty(); ++i) {
    DoRandomThing();
    if (Chance(80)) Turn();
  }
  if (violations_.empty()) FinishEverything();
  if (violations_.empty()) CheckOrder();
  return violations_;
}

}  // namespace tessera::testing
