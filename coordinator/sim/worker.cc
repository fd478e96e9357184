// The life of a worker up to its step stream; see worker.h. Steps are in worker_steps.cc.

#include "coordinator/sim/worker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera::sim {
namespace {

namespace pb = cluster::v1;

constexpr absl::Duration kWelcomeDeadline = absl::Seconds(10);
constexpr absl::Duration kRedialDelay = absl::Milliseconds(100);
constexpr int kLoadReports = 4;

}  // namespace

Worker::Worker(WorkerOptions options, uint32_t index, Wire& wire, Fabric& fabric, const Door& door,
               const RankFactory& ranks)
    : options_(std::move(options)),
      index_(index),
      wire_(wire),
      fabric_(fabric),
      door_(door),
      ranks_(ranks),
      random_(wire.random.Fork()) {}

void Worker::After(absl::Duration delay, Action action) {
  wire_.queue.After(delay, [this, life = life_, action = std::move(action)]() mutable {
    if (alive_ && life == life_) WhenAwake(std::move(action));
  });
}

void Worker::AfterIn(const Assignment& assignment, absl::Duration delay, Action action) {
  After(delay, [this, number = assignment.number, action = std::move(action)] {
    if (assignment_ != nullptr && assignment_->number == number) action();
  });
}

void Worker::WhenAwake(Action action) {
  if (wire_.queue.Now() < awake_at_ || !asleep_.empty()) {
    asleep_.push_back(std::move(action));
  } else {
    action();
  }
}

void Worker::Pause(absl::Duration time) {
  if (!alive_) return;
  // The queue knows whole nanoseconds only; a fraction more would never come.
  const absl::Time end = absl::FromUnixNanos(absl::ToUnixNanos(wire_.queue.Now() + time));
  awake_at_ = std::max(awake_at_, end);
  silent_since_ = std::min(silent_since_, wire_.queue.Now());
  wire_.queue.At(awake_at_, [this, life = life_] {
    if (life == life_) Resume();
  });
}

void Worker::Resume() {
  if (wire_.queue.Now() < awake_at_) return;  // a longer pause has begun meanwhile
  silent_since_ = absl::InfiniteFuture();
  std::vector<Action> missed;
  missed.swap(asleep_);
  const uint64_t life = life_;
  for (const Action& action : missed) {
    if (life == life_) action();
  }
}

void Worker::Start() {
  alive_ = true;
  silent_since_ = absl::InfiniteFuture();
  After(options_.start_time, [this] { Dial(); });
}

void Worker::Kill(absl::Duration restart, absl::Duration notice) {
  if (!alive_) return;
  alive_ = false;
  silent_since_ = std::min(silent_since_, wire_.queue.Now());
  ++life_;
  asleep_.clear();
  awake_at_ = absl::InfinitePast();
  slowness_ = 1;
  held_digest_.clear();
  if (assignment_ != nullptr && assignment_->steps != nullptr) {
    assignment_->steps->up.Close(notice);
    assignment_->steps->down.Cut();
  }
  assignment_.reset();
  if (control_ != nullptr) {
    control_->up.Close(notice);
    control_->down.Cut();
  }
  control_.reset();
  if (restart == absl::InfiniteDuration()) return;
  wire_.queue.After(restart, [this, life = life_] {
    if (!alive_ && life == life_) Start();
  });
}

void Worker::Exit(absl::Duration restart) { Kill(restart); }

void Worker::FailNextLoad(absl::Status status, absl::Duration restart) {
  load_failure_ = std::move(status);
  load_failure_restart_ = restart;
}

void Worker::Dial() {
  worker_id_ = 0;
  last_epoch_ = 0;
  control_ = std::make_shared<ControlStream>(wire_, index_);
  // The stream may be another one by the time something arrives.
  const uint64_t dialled = ++num_dials_;
  control_->down.Listen(
      [this, dialled](const pb::CoordinatorMessage& message) {
        WhenAwake([this, dialled, message] {
          if (IsOn(dialled)) OnMessage(message);
        });
      },
      [this, dialled] {
        WhenAwake([this, dialled] {
          if (IsOn(dialled)) HangUp();
        });
      });
  door_.join(control_);
  pb::WorkerMessage message;
  pb::Hello* hello = message.mutable_hello();
  hello->set_protocol_version(pb::PROTOCOL_VERSION_CURRENT);
  hello->set_build("simulated");
  hello->set_worker_name(options_.name);
  hello->mutable_hardware()->set_device("cpu");
  hello->mutable_hardware()->set_host_id(options_.host);
  hello->mutable_hardware()->set_memory_bytes(options_.memory_free_bytes);
  hello->mutable_hardware()->set_memory_free_bytes(options_.memory_free_bytes);
  Send(std::move(message));
  After(kWelcomeDeadline, [this, dialled] {
    if (IsOn(dialled) && worker_id_ == 0) HangUp();
  });
}

void Worker::HangUp() {
  EndAssignment();
  control_->up.Close();
  control_->down.Cut();
  control_.reset();
  After(kRedialDelay, [this] { Dial(); });
}

void Worker::Send(pb::WorkerMessage message) {
  if (control_ != nullptr) control_->up.Send(std::move(message));
}

void Worker::Beat() {
  pb::WorkerMessage message;
  message.mutable_heartbeat()->set_epoch(assignment_ == nullptr ? 0 : assignment_->assign.epoch());
  Send(std::move(message));
  After(heartbeat_interval_, [this, dialled = num_dials_] {
    if (IsOn(dialled)) Beat();
  });
}

void Worker::OnMessage(const pb::CoordinatorMessage& message) {
  if (message.has_welcome()) {
    if (worker_id_ != 0) return;
    worker_id_ = message.welcome().worker_id();
    heartbeat_interval_ = absl::Milliseconds(message.welcome().heartbeat_interval_ms());
    Beat();
  } else if (worker_id_ == 0) {
    HangUp();  // the first message must be Welcome
  } else if (message.has_assign()) {
    OnAssign(message.assign());
  } else if (message.has_comm_peers()) {
    OnPeers(message.comm_peers());
  } else if (message.has_unassign()) {
    last_epoch_ = std::max(last_epoch_, message.unassign().epoch());
    if (assignment_ != nullptr && assignment_->assign.epoch() <= message.unassign().epoch()) {
      EndAssignment();
    }
  } else if (message.has_shutdown()) {
    Exit(absl::InfiniteDuration());
  }
}

void Worker::OnAssign(const pb::Assign& assign) {
  if (assign.epoch() <= last_epoch_) return;  // stale
  EndAssignment();
  last_epoch_ = assign.epoch();
  assignment_ = std::make_unique<Assignment>();
  assignment_->number = ++num_assignments_;
  assignment_->assign = assign;
  const bool reuse = held_digest_ == assign.manifest_digest();
  Load((reuse ? options_.reuse_time : options_.load_time) * slowness_);
}

void Worker::Load(absl::Duration left) {
  const absl::Duration part = left / kLoadReports;
  for (int i = 1; i <= kLoadReports; ++i) {
    AfterIn(*assignment_, part * i, [this, i] {
      pb::WorkerMessage message;
      message.mutable_load_progress()->set_epoch(assignment_->assign.epoch());
      message.mutable_load_progress()->set_bytes_read(static_cast<uint64_t>(i));
      message.mutable_load_progress()->set_bytes_total(kLoadReports);
      Send(std::move(message));
      if (i == kLoadReports) Connect();
    });
  }
}

void Worker::Connect() {
  pb::WorkerMessage message;
  if (!load_failure_.ok()) {
    message.mutable_failed()->set_epoch(assignment_->assign.epoch());
    message.mutable_failed()->set_code(static_cast<int32_t>(load_failure_.code()));
    message.mutable_failed()->set_message(std::string(load_failure_.message()));
    load_failure_ = absl::OkStatus();
    Send(std::move(message));
    Exit(load_failure_restart_);
    return;
  }
  held_digest_ = assignment_->assign.manifest_digest();
  message.mutable_comm_hello()->set_epoch(assignment_->assign.epoch());
  message.mutable_comm_hello()->set_rank(assignment_->assign.rank());
  message.mutable_comm_hello()->set_blob(absl::StrCat("worker ", index_));
  Send(std::move(message));
}

void Worker::OnPeers(const pb::CommPeers& peers) {
  if (assignment_ == nullptr || peers.epoch() != assignment_->assign.epoch()) return;
  if (assignment_->steps != nullptr) return;
  const pb::Assign& assign = assignment_->assign;
  assignment_->program = ranks_(assign, index_);
  assignment_->last_end = wire_.queue.Now();
  assignment_->steps =
      std::make_shared<StepStream>(wire_, index_, worker_id_, assignment_->assign.epoch());
  const auto here = [this, number = assignment_->number] {
    return assignment_ != nullptr && assignment_->number == number;
  };
  assignment_->steps->down.Listen(
      [this, here](const SharedPlan& plan) {
        WhenAwake([this, here, plan] {
          if (here()) OnPlan(plan);
        });
      },
      [this, here] {
        WhenAwake([this, here] {
          if (here()) EndAssignment();
        });
      });
  door_.steps(assignment_->steps);
  assignment_->steps->up.Send(StepStream::Open{});
  pb::WorkerMessage message;
  message.mutable_ready()->set_epoch(assign.epoch());
  message.mutable_ready()->set_numerics_class("simulated");
  Send(std::move(message));
}

void Worker::EndAssignment() {
  if (assignment_ == nullptr) return;
  if (assignment_->steps != nullptr) {
    assignment_->steps->up.Close();
    assignment_->steps->down.Cut();
  }
  assignment_.reset();
}

}  // namespace tessera::sim
