// Transitions: joining -> loading (Assign sent) -> ready (all ranks Ready and connected) -> joining
// again when a rank is lost. Every path back goes through Lose, and forward through FormGroups, so
// a first start and a recovery are the same thing.

#include "coordinator/cluster/group_manager.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tessera {
namespace {

namespace pb = cluster::v1;

// Trying again with the same files and machines cannot mend these.
bool IsPermanent(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kPermissionDenied:
      return true;
    default:
      return false;
  }
}

// A collective that waits this long has lost its peer. The coordinator usually notices much
// earlier.
constexpr absl::Duration kCollectiveDeadline = absl::Seconds(60);

// How long a group whose last starts failed waits before the next one.
absl::Duration StartBackoff(int failed_starts) {
  return absl::Milliseconds(250) * (1 << std::min(failed_starts - 1, 5));
}

}  // namespace

GroupManager::GroupManager(GroupManagerOptions options)
    : options_(std::move(options)), groups_(options_.models.size()) {}

absl::StatusOr<uint64_t> GroupManager::Join(const pb::Hello& hello, absl::Time now,
                                            GroupActions& actions) {
  const int64_t ours = pb::PROTOCOL_VERSION_CURRENT;
  const int64_t theirs = hello.protocol_version();
  if (theirs < 1 || theirs > ours + 1 || theirs < ours - 1) {
    return absl::FailedPreconditionError(absl::StrCat(
        "worker speaks cluster protocol version ", theirs, ", this coordinator ", ours,
        "; versions may differ by one: install the same release on both (worker build ",
        hello.build(), ")"));
  }
  if (workers_.size() >= kWorkersMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(workers_.size(), " workers have joined, the limit is ", kWorkersMax));
  }
  if (hello.worker_name().empty() || hello.worker_name().size() > kWorkerNameBytesMax ||
      hello.hardware().host_id().empty()) {
    return absl::InvalidArgumentError(
        "Hello needs a worker_name of 1 to 256 bytes and hardware.host_id");
  }
  const uint64_t id = next_worker_id_++;
  Worker& worker = workers_[id];
  worker.id = id;
  worker.hello = hello;
  worker.last_heard = now;

  pb::CoordinatorMessage message;
  pb::Welcome* welcome = message.mutable_welcome();
  welcome->set_worker_id(id);
  welcome->set_term(options_.term);
  welcome->set_heartbeat_interval_ms(
      static_cast<uint32_t>(absl::ToInt64Milliseconds(options_.heartbeat_interval)));
  welcome->set_heartbeats_missed_max(static_cast<uint32_t>(options_.heartbeats_missed_max));
  actions.sends.push_back({id, std::move(message)});

  Notice notice;
  notice.kind = Notice::Kind::kJoined;
  notice.worker = hello.worker_name();
  actions.notices.push_back(std::move(notice));
  FormGroups(now, actions);
  return id;
}

void GroupManager::OnMessage(uint64_t id, const pb::WorkerMessage& message, absl::Time now,
                             GroupActions& actions) {
  auto found = workers_.find(id);
  if (found == workers_.end()) return;
  Worker& worker = found->second;
  worker.last_heard = now;
  const auto current = [&](uint64_t epoch) { return worker.assigned && epoch == worker.epoch; };
  switch (message.message_case()) {
    case pb::WorkerMessage::kHello:
      actions.disconnects.push_back({id, absl::InvalidArgumentError("a second Hello")});
      break;
    case pb::WorkerMessage::kLoadProgress: {
      const pb::LoadProgress& progress = message.load_progress();
      if (!current(progress.epoch())) break;
      groups_[worker.group].load_news = now;
      Notice notice;
      notice.kind = Notice::Kind::kLoading;
      notice.group = worker.group;
      notice.rank = worker.rank;
      notice.epoch = worker.epoch;
      notice.worker = worker.hello.worker_name();
      notice.bytes_read = progress.bytes_read();
      notice.bytes_total = progress.bytes_total();
      notice.seconds = progress.seconds();
      actions.notices.push_back(std::move(notice));
      break;
    }
    case pb::WorkerMessage::kCommHello:
      if (!current(message.comm_hello().epoch())) break;
      groups_[worker.group].load_news = now;
      if (message.comm_hello().blob().empty() ||
          message.comm_hello().blob().size() > kCommBlobBytesMax) {
        actions.disconnects.push_back(
            {id, absl::InvalidArgumentError("CommHello.blob must have 1 byte to 1 MiB")});
        break;
      }
      worker.comm_blob = message.comm_hello().blob();
      RelayCommBlobs(groups_[worker.group], actions);
      break;
    case pb::WorkerMessage::kReady:
      if (!current(message.ready().epoch())) break;
      groups_[worker.group].load_news = now;
      worker.ready = true;
      worker.numerics_class = message.ready().numerics_class();
      CheckReady(worker.group, now, actions);
      break;
    case pb::WorkerMessage::kFailed:
      OnFailed(worker, message.failed(), now, actions);
      break;
    case pb::WorkerMessage::kHeartbeat:
      break;  // last_heard is all
    case pb::WorkerMessage::kLeaving:
      actions.disconnects.push_back({id, absl::OkStatus()});
      break;
    case pb::WorkerMessage::MESSAGE_NOT_SET:
      actions.disconnects.push_back({id, absl::InvalidArgumentError("an empty WorkerMessage")});
      break;
  }
}

void GroupManager::OnFailed(Worker& worker, const pb::Failed& failed, absl::Time now,
                            GroupActions& actions) {
  const absl::Status status(
      static_cast<absl::StatusCode>(failed.code() > 0 && failed.code() <= 16 ? failed.code() : 2),
      absl::StrCat("worker ", worker.hello.worker_name(), ": ", failed.message()));
  const bool current = worker.assigned && failed.epoch() == worker.epoch;
  // Still loading: the failure is the model's or the machine's, not a passing one.
  if (current && groups_[worker.group].state == GroupState::kLoading &&
      IsPermanent(status.code())) {
    Notice notice;
    notice.kind = Notice::Kind::kLoadFailed;
    notice.group = worker.group;
    notice.rank = worker.rank;
    notice.epoch = worker.epoch;
    notice.worker = worker.hello.worker_name();
    notice.status = status;
    actions.notices.push_back(std::move(notice));
  }
  // It has said it cannot go on: out of the pool before the group is formed again.
  OnLeft(worker.id, status, now, actions);
}

void GroupManager::OnLeft(uint64_t id, const absl::Status& reason, absl::Time now,
                          GroupActions& actions) {
  auto found = workers_.find(id);
  if (found == workers_.end()) return;
  const Worker worker = std::move(found->second);
  workers_.erase(found);
  actions.disconnects.push_back({id, reason});

  Notice notice;
  notice.kind = Notice::Kind::kLeft;
  notice.worker = worker.hello.worker_name();
  notice.group = worker.group;
  notice.rank = worker.rank;
  notice.epoch = worker.assigned ? worker.epoch : 0;
  notice.text = reason.ok() ? "left" : std::string(reason.message());
  actions.notices.push_back(std::move(notice));

  if (worker.assigned) {
    Lose(worker.group,
         absl::UnavailableError(
             absl::StrCat("rank ", worker.rank, " (", worker.hello.worker_name(),
                          ") is gone: ", reason.ok() ? "it left" : reason.message())),
         now, actions);
  }
}

absl::Status GroupManager::OnStepStream(uint64_t id, uint64_t epoch, absl::Time now,
                                        GroupActions& actions) {
  auto found = workers_.find(id);
  if (found == workers_.end()) {
    return absl::NotFoundError(absl::StrCat("no worker ", id, " has joined; Join first"));
  }
  Worker& worker = found->second;
  if (!worker.assigned || worker.epoch != epoch) {
    return absl::FailedPreconditionError(absl::StrCat(
        "worker ", id, " is not assigned under epoch ", epoch, " (it was ", worker.epoch, ")"));
  }
  if (worker.step_stream) {
    return absl::AlreadyExistsError(absl::StrCat("worker ", id, " has a step stream already"));
  }
  worker.step_stream = true;
  CheckReady(worker.group, now, actions);
  return absl::OkStatus();
}

void GroupManager::OnStepFailed(uint32_t group, uint64_t epoch, const absl::Status& reason,
                                absl::Time now, GroupActions& actions) {
  if (group >= groups_.size() || groups_[group].epoch != epoch) return;
  if (groups_[group].state == GroupState::kJoining) return;
  Lose(group, reason, now, actions);
}

void GroupManager::Tick(absl::Time now, GroupActions& actions) {
  const absl::Duration limit = options_.heartbeat_interval * options_.heartbeats_missed_max;
  std::vector<uint64_t> silent;
  for (const auto& [id, worker] : workers_) {
    if (now - worker.last_heard > limit) silent.push_back(id);
  }
  for (uint64_t id : silent) {
    OnLeft(
        id,
        absl::DeadlineExceededError(absl::StrCat("no heartbeat for ", absl::FormatDuration(limit))),
        now, actions);
  }
  for (uint32_t index = 0; index < groups_.size(); ++index) {
    if (groups_[index].state != GroupState::kLoading) continue;
    if (now - groups_[index].load_news <= kLoadSilenceMax) continue;
    Lose(index,
         absl::DeadlineExceededError(absl::StrCat("no rank has reported on its loading for ",
                                                  absl::FormatDuration(kLoadSilenceMax))),
         now, actions);
  }
  for (Group& group : groups_) {
    if (group.state != GroupState::kJoining) continue;
    for (absl::Time Group::*wait : {&Group::not_before, &Group::reserved_until}) {
      if (now < group.*wait || group.*wait == absl::InfinitePast()) continue;
      group.*wait = absl::InfinitePast();
      FormGroups(now, actions);
    }
  }
}

void GroupManager::FormGroups(absl::Time now, GroupActions& actions) {
  for (uint32_t index = 0; index < groups_.size(); ++index) {
    if (groups_[index].state != GroupState::kJoining || now < groups_[index].not_before) continue;
    const ModelTarget& model = options_.models[index];
    const size_t wanted = static_cast<size_t>(model.workers());
    const std::vector<uint64_t> chosen = PickWorkers(index, wanted, now);
    Notice notice;
    notice.group = index;
    notice.epoch = last_epoch_ + 1;
    if (chosen.size() < wanted) {
      notice.kind = Notice::Kind::kWaiting;
      notice.text = absl::StrCat("model ", model.name, ": ", chosen.size(), " of ", wanted,
                                 " workers have joined");
      actions.notices.push_back(std::move(notice));
      continue;
    }
    MemoryRequest request;
    const absl::StatusOr<MemoryPlan> plan = PlanGroup(model, chosen, request);
    if (!plan.ok()) {
      notice.kind = Notice::Kind::kLoadFailed;
      notice.status = plan.status();
      actions.notices.push_back(std::move(notice));
      continue;
    }
    notice.kind = Notice::Kind::kPlan;
    notice.text = DescribeMemoryPlan(model.spec, request, *plan);
    actions.notices.push_back(std::move(notice));
    Assign(index, chosen, request, *plan, now, actions);
  }
}

bool GroupManager::IsReserved(const Worker& worker, uint32_t except, absl::Time now) const {
  for (uint32_t index = 0; index < groups_.size(); ++index) {
    const Group& group = groups_[index];
    if (index == except || group.state != GroupState::kJoining) continue;
    if (now >= group.reserved_until) continue;
    if (worker.epoch > 0 ? worker.group == index : group.HasSeat(worker.hello.worker_name())) {
      return true;
    }
  }
  return false;
}

// Free workers for the ranks of a group: whoever held a rank before gets it again (it may still
// hold the weights), the rest are filled in order of joining. Shorter than `count` when there are
// not enough.
std::vector<uint64_t> GroupManager::PickWorkers(uint32_t group, size_t count,
                                                absl::Time now) const {
  std::vector<uint64_t> by_rank(count, 0);
  std::vector<uint64_t> others;
  for (const auto& [id, worker] : workers_) {
    if (worker.assigned) continue;
    const bool returns = worker.epoch > 0 && worker.group == group && worker.rank < count;
    if (returns && by_rank[worker.rank] == 0) {
      by_rank[worker.rank] = id;
    } else if (!IsReserved(worker, group, now)) {
      others.push_back(id);
    }
  }
  size_t next = 0;
  for (uint64_t& id : by_rank) {
    if (id == 0 && next < others.size()) id = others[next++];
  }
  by_rank.erase(std::remove(by_rank.begin(), by_rank.end(), uint64_t{0}), by_rank.end());
  return by_rank;
}

// The budget is the least that any rank has of its device, under the configured maximum.
absl::StatusOr<MemoryPlan> GroupManager::PlanGroup(const ModelTarget& model,
                                                   const std::vector<uint64_t>& chosen,
                                                   MemoryRequest& request) const {
  const auto device = [](const pb::Hardware& h) { return std::pair(h.host_id(), h.device_id()); };
  std::map<std::pair<std::string, std::string>, uint64_t> sharers;
  for (const auto& [id, worker] : workers_) ++sharers[device(worker.hello.hardware())];
  uint64_t budget = model.memory_max > 0 ? model.memory_max : UINT64_MAX;
  for (uint64_t id : chosen) {
    const pb::Hardware& hardware = workers_.at(id).hello.hardware();
    budget = std::min(budget, hardware.memory_free_bytes() / sharers[device(hardware)]);
  }
  request = model.memory;
  request.budget_bytes = budget;
  return PlanMemory(model.spec, request);
}

void GroupManager::Assign(uint32_t index, const std::vector<uint64_t>& chosen,
                          const MemoryRequest& request, const MemoryPlan& plan, absl::Time now,
                          GroupActions& actions) {
  Group& group = groups_[index];
  const ModelTarget& model = options_.models[index];
  group.state = GroupState::kLoading;
  group.epoch = ++last_epoch_;
  group.ranks = chosen;
  group.seats.clear();
  group.num_blocks = plan.num_blocks;
  group.formed_at = now;
  group.load_news = now;

  std::set<std::string> hosts;
  for (uint64_t id : chosen) hosts.insert(workers_.at(id).hello.hardware().host_id());
  const bool on_gpus = workers_.at(chosen.front()).hello.hardware().device() == "cuda";
  const pb::CommKind comm = chosen.size() == 1  ? pb::COMM_SOLO
                            : on_gpus           ? pb::COMM_NCCL
                            : hosts.size() == 1 ? pb::COMM_SHARED_MEMORY
                                                : pb::COMM_GLOO;
  for (size_t rank = 0; rank < chosen.size(); ++rank) {
    Worker& worker = workers_.at(chosen[rank]);
    group.seats.push_back(worker.hello.worker_name());
    worker.assigned = true;
    worker.group = index;
    worker.rank = static_cast<uint32_t>(rank);
    worker.epoch = group.epoch;
    worker.comm_blob.clear();
    worker.ready = false;
    worker.step_stream = false;

    pb::CoordinatorMessage message;
    pb::Assign* assign = message.mutable_assign();
    assign->set_term(options_.term);
    assign->set_epoch(group.epoch);
    assign->set_group(index);
    assign->set_rank(worker.rank);
    assign->set_tp(static_cast<uint32_t>(model.memory.tp));
    assign->set_load_format(model.load_format);
    assign->set_quantize(request.float8_weights ? "fp8" : "");
    assign->set_deterministic(model.deterministic);
    assign->set_eager(model.eager);
    assign->set_pp(1);
    assign->set_model_name(model.name);
    assign->set_model_dir_name(model.dir_name);
    assign->set_manifest_digest(model.manifest_digest);
    assign->set_dtype(DTypeName(request.dtype));
    assign->set_kv_dtype(DTypeName(request.kv_dtype));
    assign->set_block_size(static_cast<uint32_t>(request.block_size));
    for (uint32_t blocks : plan.num_blocks) assign->add_num_blocks(blocks);
    assign->set_rows_max(static_cast<uint32_t>(request.rows_max));
    assign->set_tokens_max(static_cast<uint32_t>(request.tokens_max));
    assign->set_context_max(static_cast<uint32_t>(plan.context_max));
    assign->set_comm(comm);
    assign->set_step_deadline_ms(
        static_cast<uint32_t>(absl::ToInt64Milliseconds(kCollectiveDeadline)));
    actions.sends.push_back({worker.id, std::move(message)});
  }
}

void GroupManager::RelayCommBlobs(const Group& group, GroupActions& actions) {
  pb::CommPeers peers;
  peers.set_epoch(group.epoch);
  for (uint64_t id : group.ranks) {
    const std::string& blob = workers_.at(id).comm_blob;
    if (blob.empty()) return;
    peers.add_blobs(blob);
  }
  for (uint64_t id : group.ranks) {
    pb::CoordinatorMessage message;
    *message.mutable_comm_peers() = peers;
    actions.sends.push_back({id, std::move(message)});
  }
}

void GroupManager::CheckReady(uint32_t index, absl::Time now, GroupActions& actions) {
  Group& group = groups_[index];
  if (group.state != GroupState::kLoading) return;
  const std::string& numerics = workers_.at(group.ranks.front()).numerics_class;
  for (uint64_t id : group.ranks) {
    const Worker& worker = workers_.at(id);
    if (!worker.ready || !worker.step_stream) return;
    if (worker.numerics_class != numerics) {
      // Not lost and formed again with the same workers for ever: the odd one is sent away.
      OnLeft(id,
             absl::FailedPreconditionError(
                 absl::StrCat("ranks of one group must compute alike: rank 0 is of numerics class ",
                              numerics, ", rank ", worker.rank, " of ", worker.numerics_class)),
             now, actions);
      return;
    }
  }
  group.state = GroupState::kReady;
  group.failed_starts = 0;
  GroupReady ready;
  ready.group = index;
  ready.epoch = group.epoch;
  ready.model = index;
  ready.num_blocks = group.num_blocks;
  ready.num_ranks = static_cast<uint32_t>(group.ranks.size());
  ready.assigned = group.formed_at;
  actions.events.push_back(std::move(ready));

  Notice notice;
  notice.kind = Notice::Kind::kReady;
  notice.device = DeviceName(workers_.at(group.ranks.front()).hello.hardware());
  notice.group = index;
  notice.epoch = group.epoch;
  notice.seconds = absl::ToDoubleSeconds(now - group.formed_at);
  actions.notices.push_back(std::move(notice));
}

void GroupManager::Lose(uint32_t index, const absl::Status& reason, absl::Time now,
                        GroupActions& actions) {
  Group& group = groups_[index];
  TESSERA_CHECK(group.state != GroupState::kJoining) << "group " << index;
  for (uint64_t id : group.ranks) {
    auto found = workers_.find(id);
    if (found == workers_.end()) continue;
    found->second.assigned = false;
    pb::CoordinatorMessage message;
    pb::Unassign* unassign = message.mutable_unassign();
    unassign->set_term(options_.term);
    unassign->set_epoch(group.epoch);
    unassign->set_reason(std::string(reason.message()));
    actions.sends.push_back({id, std::move(message)});
  }
  if (group.state == GroupState::kReady) {
    actions.events.push_back(GroupLost{index, group.epoch, reason});
  } else {
    ++group.failed_starts;
    group.not_before = now + StartBackoff(group.failed_starts);
  }
  group.state = GroupState::kJoining;
  group.reserved_until = now + kReturnGrace;
  group.ranks.clear();

  Notice notice;
  notice.kind = Notice::Kind::kLost;
  notice.group = index;
  notice.epoch = group.epoch;
  notice.status = reason;
  actions.notices.push_back(std::move(notice));
  FormGroups(now, actions);
}

absl::StatusOr<GroupManager::RankRef> GroupManager::RankOf(uint64_t id) const {
  auto found = workers_.find(id);
  if (found == workers_.end() || !found->second.assigned) {
    return absl::NotFoundError(absl::StrCat("worker ", id, " holds no rank"));
  }
  return RankRef{found->second.group, found->second.rank, found->second.epoch};
}

const std::vector<uint64_t>& GroupManager::ReadyRanks(uint32_t group, uint64_t epoch) const {
  if (group >= groups_.size() || groups_[group].state != GroupState::kReady ||
      groups_[group].epoch != epoch) {
    return no_ranks_;
  }
  return groups_[group].ranks;
}

}  // namespace tessera
