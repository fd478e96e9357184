// See the header. Lock order: Cluster::mutex_, then a stream's own, then the engine's inbox.

#include "coordinator/cluster/cluster.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tessera {
namespace {

namespace pb = cluster::v1;

std::vector<double> FlopsPerToken(const GroupManagerOptions& options) {
  std::vector<double> flops;
  for (const ModelTarget& model : options.models) {
    flops.push_back(2.0 * static_cast<double>(ParameterCount(model.spec)));
  }
  return flops;
}

std::vector<int> RanksPerGroup(const GroupManagerOptions& options) {
  std::vector<int> ranks;
  for (const ModelTarget& model : options.models) ranks.push_back(model.memory.tp);
  return ranks;
}

std::optional<uint64_t> DecimalMetadata(const grpc::CallbackServerContext& context,
                                        const char* key) {
  const auto found = context.client_metadata().find(key);
  uint64_t value = 0;
  if (found == context.client_metadata().end() ||
      !absl::SimpleAtoi(absl::string_view(found->second.data(), found->second.size()), &value)) {
    return std::nullopt;
  }
  return value;
}

grpc::ByteBuffer Serialize(const pb::StepPlan& plan) {
  grpc::ByteBuffer bytes;
  bool own_buffer = false;
  const grpc::Status status =
      grpc::SerializationTraits<pb::StepPlan>::Serialize(plan, &bytes, &own_buffer);
  TESSERA_CHECK(status.ok()) << status.error_message();
  return bytes;
}

}  // namespace

class Cluster::Service final : public pb::Cluster::WithCallbackMethod_Join<
                                   pb::Cluster::WithRawCallbackMethod_Steps<pb::Cluster::Service>> {
 public:
  explicit Service(Cluster& owner) : owner_(owner) {}

  grpc::ServerBidiReactor<pb::WorkerMessage, pb::CoordinatorMessage>* Join(
      grpc::CallbackServerContext* /*context*/) override {
    return owner_.OnJoin();
  }
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Steps(
      grpc::CallbackServerContext* context) override {
    return owner_.OnSteps(context);
  }

 private:
  Cluster& owner_;
};

Cluster::Cluster(GroupManagerOptions options, const Clock& clock, NoticeSink notices)
    : clock_(clock),
      notices_(std::move(notices)),
      service_(std::make_unique<Service>(*this)),
      manager_(options),
      tracker_(FlopsPerToken(options), RanksPerGroup(options)) {}

Cluster::~Cluster() { Stop(absl::ZeroDuration()); }

absl::StatusOr<std::string> Cluster::Start(const std::string& address,
                                           std::function<void(Event)> post) {
  post_ = std::move(post);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service_.get());
  builder.SetMaxReceiveMessageSize(kClusterMessageBytesMax);
  builder.SetMaxSendMessageSize(kClusterMessageBytesMax);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 2000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 1000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen for workers on ", address,
                                               ": the port is in use or not this machine's; choose "
                                               "another with --listen (port 0 picks a free one)"));
  }
  ticker_ = std::thread([this] { TickLoop(); });
  return absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
}

void Cluster::Stop(absl::Duration limit) {
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return;
    stopping_ = true;
    for (auto& [worker, stream] : joins_) {
      pb::CoordinatorMessage message;
      message.mutable_shutdown()->set_reason("the coordinator stops");
      stream->Write(std::move(message));
    }
    mutex_.AwaitWithTimeout(absl::Condition(this, &Cluster::NoWorkers), limit);
    for (auto& [worker, steps] : steps_) steps.stream->Close(absl::CancelledError("shut down"));
    for (auto& [worker, stream] : joins_) stream->Close(absl::CancelledError("shut down"));
  }
  if (ticker_.joinable()) ticker_.join();
  if (server_ != nullptr) {
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
    server_->Wait();
  }
}

grpc::ServerBidiReactor<pb::WorkerMessage, pb::CoordinatorMessage>* Cluster::OnJoin() {
  auto session = std::make_shared<Session>();
  JoinStream::Handlers handlers;
  handlers.on_message = [this, session](const pb::WorkerMessage& message) {
    OnWorkerMessage(*session, message);
  };
  handlers.on_closed = [this, session] {
    GroupActions actions;
    {
      absl::MutexLock lock(&mutex_);
      session->stream.reset();
      if (session->worker == 0) return;
      joins_.erase(session->worker);
      if (stopping_) return;  // sent home, not lost
      manager_.OnLeft(session->worker, absl::UnavailableError("its control stream ended"),
                      clock_.Now(), actions);
      Carry(actions);
    }
    Tell(actions);
  };
  session->stream = JoinStream::Start(std::move(handlers));
  session->stream->BeginReading();
  return session->stream.get();
}

void Cluster::OnWorkerMessage(Session& session, const pb::WorkerMessage& message) {
  GroupActions actions;
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return;
    if (session.worker != 0) {
      manager_.OnMessage(session.worker, message, clock_.Now(), actions);
    } else if (!message.has_hello()) {
      session.stream->Close(absl::InvalidArgumentError("the first message must be Hello"));
    } else {
      const absl::StatusOr<uint64_t> worker = manager_.Join(message.hello(), clock_.Now(), actions);
      if (worker.ok()) {
        session.worker = *worker;
        joins_[*worker] = session.stream;
      } else {
        session.stream->Close(worker.status());
      }
    }
    Carry(actions);
  }
  Tell(actions);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Cluster::OnSteps(
    grpc::CallbackServerContext* context) {
  const std::optional<uint64_t> worker = DecimalMetadata(*context, "tessera-worker-id");
  const std::optional<uint64_t> epoch = DecimalMetadata(*context, "tessera-epoch");
  if (!worker || !epoch) {
    auto refused = StepStream::Start({[](const grpc::ByteBuffer&) {}, [] {}});
    refused->Close(absl::InvalidArgumentError(
        "Steps needs the metadata tessera-worker-id and tessera-epoch as decimal numbers"));
    return refused.get();
  }
  StepStream::Handlers handlers;
  handlers.on_message = [this, worker = *worker, epoch = *epoch](const grpc::ByteBuffer& bytes) {
    OnStepResult(worker, epoch, bytes);
  };
  // Only a stream that was accepted may take the worker's rank with it when it ends.
  auto accepted = std::make_shared<bool>(false);
  handlers.on_closed = [this, worker = *worker, epoch = *epoch, accepted] {
    if (*accepted) OnStepStreamClosed(worker, epoch);
  };
  std::shared_ptr<StepStream> stream = StepStream::Start(std::move(handlers));
  GroupActions actions;
  {
    absl::MutexLock lock(&mutex_);
    const absl::Status status = manager_.OnStepStream(*worker, *epoch, clock_.Now(), actions);
    if (status.ok()) {
      *accepted = true;
      steps_[*worker] = {*epoch, stream};
      stream->BeginReading();
    } else {
      stream->Close(status);
    }
    Carry(actions);
  }
  Tell(actions);
  return stream.get();
}

void Cluster::OnStepResult(uint64_t worker, uint64_t epoch, const grpc::ByteBuffer& bytes) {
  pb::StepResult result;
  grpc::ByteBuffer copy = bytes;  // shares the slices
  const bool parsed = grpc::SerializationTraits<pb::StepResult>::Deserialize(&copy, &result).ok();
  GroupActions actions;
  {
    absl::MutexLock lock(&mutex_);
    const absl::StatusOr<GroupManager::RankRef> rank = manager_.RankOf(worker);
    if (!rank.ok() || rank->epoch != epoch) return;
    if (!parsed || result.group() != rank->group || result.rank() != rank->rank) {
      FailStep(rank->group, epoch,
               absl::InternalError(absl::StrCat("rank ", rank->rank, " sent a damaged StepResult")),
               actions);
    } else {
      absl::StatusOr<std::optional<StepDone>> done = tracker_.Add(rank->rank, result, clock_.Now());
      if (!done.ok()) {
        FailStep(rank->group, epoch, done.status(), actions);
      } else if (done->has_value()) {
        post_(std::move(**done));
      }
    }
    Carry(actions);
  }
  Tell(actions);
}

void Cluster::OnStepStreamClosed(uint64_t worker, uint64_t epoch) {
  GroupActions actions;
  {
    absl::MutexLock lock(&mutex_);
    // A later assignment may have opened its own stream already.
    const auto steps = steps_.find(worker);
    if (steps != steps_.end() && steps->second.epoch == epoch) steps_.erase(steps);
    if (stopping_) return;
    const absl::StatusOr<GroupManager::RankRef> rank = manager_.RankOf(worker);
    if (!rank.ok() || rank->epoch != epoch) return;
    FailStep(rank->group, epoch,
             absl::UnavailableError(absl::StrCat("rank ", rank->rank, " closed its step stream")),
             actions);
    Carry(actions);
  }
  Tell(actions);
}

void Cluster::Submit(pb::StepPlan plan) {
  GroupActions actions;
  {
    absl::MutexLock lock(&mutex_);
    const uint32_t group = plan.group();
    const uint64_t epoch = plan.epoch();
    // A group lost since the plan was made: its GroupLost event is in the inbox already.
    const std::vector<uint64_t> ranks = manager_.ReadyRanks(group, epoch);
    if (ranks.empty() || stopping_) return;
    int64_t tokens = 0;
    for (uint32_t n : plan.num_new_tokens()) tokens += n;
    tracker_.Begin(group, epoch, plan.step(), tokens, clock_.Now());
    const grpc::ByteBuffer bytes = Serialize(plan);
    for (uint64_t worker : ranks) {
      const auto stream = steps_.find(worker);
      if (stream != steps_.end() && stream->second.stream->Write(bytes)) continue;
      FailStep(group, epoch, absl::UnavailableError("a rank takes no plans any more"), actions);
      break;
    }
    Carry(actions);
  }
  Tell(actions);
}

void Cluster::FailStep(uint32_t group, uint64_t epoch, const absl::Status& reason,
                       GroupActions& actions) {
  manager_.OnStepFailed(group, epoch, reason, clock_.Now(), actions);
}

void Cluster::TickLoop() {
  while (true) {
    GroupActions actions;
    {
      absl::MutexLock lock(&mutex_);
      const absl::Duration pause = manager_.options().heartbeat_interval / 4;
      if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), pause)) return;
      const absl::Time now = clock_.Now();
      manager_.Tick(now, actions);
      for (const StepTracker::Overdue& overdue : tracker_.FindOverdue(now)) {
        FailStep(overdue.group, overdue.epoch, overdue.reason, actions);
      }
      Carry(actions);
    }
    Tell(actions);
  }
}

void Cluster::Carry(GroupActions& actions) {
  for (GroupActions::Send& send : actions.sends) {
    const auto found = joins_.find(send.worker);
    if (found != joins_.end()) found->second->Write(std::move(send.message));
  }
  for (const GroupActions::Disconnect& gone : actions.disconnects) {
    const auto found = joins_.find(gone.worker);
    if (found != joins_.end()) found->second->Close(gone.reason);
    const auto steps = steps_.find(gone.worker);
    if (steps != steps_.end()) steps->second.stream->Close(gone.reason);
  }
  for (Event& event : actions.events) {
    if (const auto* lost = std::get_if<GroupLost>(&event)) tracker_.Forget(lost->group);
    post_(std::move(event));
  }
}

void Cluster::Tell(const GroupActions& actions) const {
  for (const Notice& notice : actions.notices) notices_(notice);
}

}  // namespace tessera
