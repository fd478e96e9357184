// Everything that must hold between two events. The simulator and tests ask after each one.

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/sched/scheduler_state.h"

namespace tessera {
namespace {

struct InFlight {
  int64_t tokens = 0;
  uint32_t rows = 0;
  uint32_t samples = 0;  // rows that sample
};
using InFlightOf = std::map<const Sequence*, InFlight>;

absl::Status Broken(const Sequence& sequence, const std::string& what) {
  return absl::InternalError(
      absl::StrCat("request ", sequence.request->id, " choice ", sequence.choice, ": ", what));
}

absl::Status ValidateRunning(const GroupState& group, const Sequence& sequence,
                             const InFlight& flying) {
  if (sequence.status != SequenceStatus::kRunning || sequence.group != &group) {
    return Broken(sequence, "is listed as running where it does not run");
  }
  if (sequence.id == 0 || sequence.chosen_step > group.last_step) {
    return Broken(sequence, "was chosen for a plan that was never made");
  }
  if (sequence.num_scheduled_tokens != sequence.num_computed_tokens + flying.tokens ||
      uint32_t{sequence.rows_in_flight} != flying.rows) {
    return Broken(sequence,
                  absl::StrCat(sequence.num_computed_tokens, " tokens computed, ", flying.tokens,
                               " in flight, ", sequence.num_scheduled_tokens, " scheduled"));
  }
  if (flying.samples != uint32_t{sequence.num_pending}) {
    return Broken(sequence, absl::StrCat(flying.samples, " samples in flight"));
  }
  if (sequence.num_computed_tokens >= sequence.num_tokens() ||
      sequence.num_tokens() >= sequence.num_tokens_max) {
    return Broken(sequence,
                  absl::StrCat(sequence.num_computed_tokens, " computed of ", sequence.num_tokens(),
                               " tokens, at most ", sequence.num_tokens_max));
  }
  if (sequence.num_scheduled_tokens > sequence.num_computable ||
      (sequence.OutgrowsRope() && !sequence.leaving)) {
    return Broken(sequence,
                  absl::StrCat("turns by the wrong factors at ", sequence.num_tokens(), " tokens"));
  }
  if (sequence.num_scheduled_tokens > sequence.num_held_tokens) {
    return Broken(sequence, "computes positions that it has no blocks for");
  }
  for (const BlockTable& table : sequence.tables) {
    if (static_cast<int64_t>(table.ids.size()) * group.blocks->block_size() !=
        sequence.num_held_tokens) {
      return Broken(sequence, "miscounts the positions that its tables hold");
    }
  }
  return absl::OkStatus();
}

absl::Status CollectInFlight(const GroupState& group, const SchedulerOptions& options,
                             InFlightOf& in_flight) {
  if (static_cast<int>(group.in_flight.size()) > options.plans_in_flight_max) {
    return absl::InternalError("more plans in flight than allowed");
  }
  uint64_t step = group.last_step - group.in_flight.size();
  for (const PlanInFlight& plan : group.in_flight) {
    if (plan.step != ++step) return absl::InternalError("plans in flight are out of order");
    int64_t tokens = 0;
    int64_t outputs = 0;
    for (const PlannedRow& row : plan.rows) {
      tokens += row.num_tokens;
      outputs += row.num_samples + row.num_scored;
      InFlight& flying = in_flight[row.sequence];
      flying.tokens += row.num_tokens;
      ++flying.rows;
      flying.samples += row.num_samples > 0 ? 1 : 0;
      if (row.num_tokens < 1 || row.num_tokens > options.chunk_max) {
        return Broken(*row.sequence, absl::StrCat("a row of ", row.num_tokens, " tokens"));
      }
    }
    if (tokens > options.tokens_max || outputs > options.rows_max ||
        static_cast<int64_t>(plan.rows.size()) > options.rows_max) {
      return absl::InternalError(absl::StrCat("a step of ", plan.rows.size(), " rows, ", tokens,
                                              " tokens, ", outputs, " outputs"));
    }
  }
  return absl::OkStatus();
}

int64_t RowsInFlight(const RequestState& request) {
  int64_t rows = 0;
  for (const auto& sequence : request.sequences) rows += sequence->rows_in_flight;
  return rows;
}

struct TenantUse {
  int64_t running = 0;
  int64_t held = 0;
};

absl::Status ValidateGroup(const GroupState& group, const SchedulerOptions& options,
                           std::map<const RequestState*, int64_t>& rows_of,
                           std::map<const TenantState*, TenantUse>& use) {
  if (!group.ready) {
    const bool empty = group.IsIdle() && group.owed_tokens == 0 && group.num_slots == 0;
    return empty ? absl::OkStatus() : absl::InternalError("a lost group still has work");
  }
  InFlightOf in_flight;
  TESSERA_RETURN_IF_ERROR(CollectInFlight(group, options, in_flight));
  for (const auto& [sequence, flying] : in_flight) rows_of[sequence->request] += flying.rows;
  int64_t owed = 0;
  int64_t slots = 0;
  int64_t leaving = 0;
  std::vector<const BlockTables*> live;
  for (const Sequence* sequence : group.running) {
    TESSERA_RETURN_IF_ERROR(ValidateRunning(group, *sequence, in_flight[sequence]));
    owed += sequence->num_owed_tokens();
    slots += sequence->num_slots();
    leaving += sequence->leaving ? 1 : 0;
    live.push_back(&sequence->tables);
    TenantUse& tenant = use[&sequence->request->tenant];
    ++tenant.running;
    tenant.held += group.blocks->KeptTokens(sequence->num_held_tokens);
  }
  if (owed != group.owed_tokens || slots != group.num_slots || leaving != group.num_leaving ||
      slots > options.rows_max) {
    return absl::InternalError(absl::StrCat("group ", group.id, " owes ", owed, " (counted ",
                                            group.owed_tokens, "), has ", slots, " slots (",
                                            group.num_slots, ")"));
  }
  return group.blocks->Validate(live);
}

}  // namespace

absl::Status Scheduler::Validate() const {
  const State& state = *state_;
  std::map<const RequestState*, int64_t> rows_of;
  std::map<const TenantState*, TenantUse> use;
  size_t listed = 0;
  for (const auto& [id, group] : state.groups) {
    TESSERA_RETURN_IF_ERROR(ValidateGroup(group, state.options, rows_of, use));
    listed += group.running.size();
  }
  for (const auto& model : state.models) {
    const std::vector<Sequence*> waiting = model->queue.All();
    listed += waiting.size();
    int64_t tokens = 0;
    for (const Sequence* sequence : waiting) {
      if (sequence->status != SequenceStatus::kWaiting || sequence->num_computed_tokens != 0 ||
          !sequence->tables.empty() || sequence->rows_in_flight != 0) {
        return Broken(*sequence, "waits and has something on a group");
      }
      tokens += sequence->num_tokens();
      use.try_emplace(&sequence->request->tenant);
    }
    if (tokens != model->queue.waiting_tokens() ||
        static_cast<int64_t>(waiting.size()) != model->queue.size()) {
      return absl::InternalError("the queue miscounts what waits");
    }
  }
  for (const auto& [tenant, used] : use) {
    if (tenant->num_running == used.running && tenant->held_tokens == used.held) continue;
    return absl::InternalError(absl::StrCat("tenant ", tenant->name, " runs ", used.running,
                                            " (counted ", tenant->num_running, "), holds ",
                                            used.held, " (", tenant->held_tokens, ")"));
  }
  size_t open = 0;
  for (const auto& [id, request] : state.requests) {
    for (const auto& sequence : request->sequences) {
      open += sequence->status != SequenceStatus::kEnded ? 1 : 0;
    }
    if (request->finished || RowsInFlight(*request) != rows_of[request.get()]) {
      return absl::InternalError(
          absl::StrCat("request ", id, " counts ", RowsInFlight(*request), " rows in flight"));
    }
  }
  if (open != listed) {
    return absl::InternalError(absl::StrCat(open, " open sequences, ", listed, " wait or run"));
  }
  for (const auto& [pointer, request] : state.finished_in_flight) {
    if (!request->finished || RowsInFlight(*request) == 0 ||
        RowsInFlight(*request) != rows_of[request.get()]) {
      return absl::InternalError("a finished request is kept without need");
    }
  }
  for (const auto& [deadline, id] : state.deadlines) {
    if (state.Find(id) == nullptr) return absl::InternalError("a deadline of a finished request");
  }
  return absl::OkStatus();
}

}  // namespace tessera
