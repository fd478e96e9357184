// Everything the scheduler knows, and the steps that events and Schedule are made of. Private to
// the scheduler*.cc files of this folder; engine thread only.

#ifndef TESSERA_COORDINATOR_SCHED_SCHEDULER_STATE_H_
#define TESSERA_COORDINATOR_SCHED_SCHEDULER_STATE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/sched/group_state.h"
#include "coordinator/sched/plan_builder.h"
#include "coordinator/sched/scheduler.h"
#include "coordinator/sched/sequence.h"

namespace tessera {

struct Scheduler::State {
  explicit State(SchedulerOptions options_in);

  // Events (scheduler_events.cc).
  void OnNewRequest(const NewRequest& event);
  void OnCancel(const Cancel& event);
  void OnTextStop(const TextStop& event);
  void OnStepDone(const StepDone& event, absl::Time now);
  void OnGroupReady(const GroupReady& event, absl::Time now);
  void OnGroupLost(const GroupLost& event);
  void CommitRows(GroupState& group, absl::Span<const int32_t> sampled);
  void CommitToken(GroupState& group, Sequence& sequence, int32_t token);

  // How sequences end and groups are lost (scheduler_state.cc).
  // The terminal update; `tokens` are committed with it. Gives the sequence out of `sequences`.
  std::unique_ptr<Sequence> Conclude(Sequence& sequence, FinishReason reason, absl::Status error,
                                     int64_t output_tokens, absl::Span<const int32_t> tokens = {});
  // Gives back blocks and load; the caller takes it out of `running`.
  void LeaveGroup(Sequence& sequence);
  // Ends a waiting or running sequence at once.
  void End(Sequence& sequence, FinishReason reason, absl::Status error, int64_t output_tokens);
  // What ran there waits again, with its tokens and its place in the queue.
  void LoseGroup(GroupState& group);
  Sequence* Find(RequestId request) const;
  // The group if it is ready in that epoch, else null: the news is stale.
  GroupState* FindCurrent(uint32_t group, uint64_t epoch);
  int64_t NumWaiting() const;

  // Who may run (scheduler_admission.cc).
  absl::Status CheckRequest(const Request& request) const;
  void ExpireDeadlines(absl::Time now);
  void Admit(uint32_t model);
  GroupState* PickGroup(uint32_t model, const Sequence& sequence);
  void Place(GroupState& group, Sequence& sequence);
  // Whether the tokens fit an empty group of the model; with `ready_only`, one that is ready now.
  bool CanEverFit(uint32_t model, int64_t tokens, bool ready_only) const;
  bool IsKnown(uint32_t model) const;  // some group of the model was ready once
  absl::Status NeverFits(const Sequence& sequence) const;

  const SchedulerOptions options;
  const PlanLimits limits;

  bool draining = false;
  uint64_t next_ticket = 1;
  uint64_t next_sequence_id = 1;  // never reused, in any epoch
  absl::flat_hash_map<RequestId, std::unique_ptr<Sequence>> sequences;  // looked up, never walked
  std::set<std::pair<absl::Time, RequestId>> deadlines;  // finite ones of `sequences`
  std::vector<std::map<uint64_t, Sequence*>> waiting;    // per model, by ticket
  std::map<uint32_t, GroupState> groups;                 // by group id
  std::vector<RequestUpdate> updates;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_SCHEDULER_STATE_H_
