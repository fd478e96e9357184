// See the header. Lock order: Cluster::mutex_, then a stream's own, then the engine's inbox.

#include "coordinator/cluster/cluster.h"

#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tessera {
namespace {

namespace pb = cluster::v1;

// The reflection library adds itself to every server of the process that links it (the front door
// does). Workers know what they call; nobody else needs a list.
class NoReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins,
                  [](const auto& plugin) { return plugin->name() == "proto_server_reflection"; });
  }
};

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
      core_(std::move(options)) {}

Cluster::~Cluster() { Stop(absl::ZeroDuration()); }

absl::StatusOr<std::string> Cluster::Start(const std::string& address,
                                           std::function<void(Event)> post) {
  post_ = std::move(post);
  grpc::ServerBuilder builder;
  builder.SetOption(std::make_unique<NoReflection>());
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
      core_.OnControlStreamClosed(session->worker, clock_.Now(), actions);
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
      core_.OnMessage(session.worker, message, clock_.Now(), actions);
    } else {
      const absl::StatusOr<uint64_t> worker = core_.Join(message, clock_.Now(), actions);
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
    const absl::Status status = core_.OnStepStream(*worker, *epoch, clock_.Now(), actions);
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
    if (parsed) {
      core_.OnStepResult(worker, epoch, std::move(result), clock_.Now(), actions);
    } else {
      core_.OnUnreadableResult(worker, epoch, clock_.Now(), actions);
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
    core_.OnStepStreamClosed(worker, epoch, clock_.Now(), actions);
    Carry(actions);
  }
  Tell(actions);
}

void Cluster::Submit(pb::StepPlan plan) {
  GroupActions actions;
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return;
    const std::vector<uint64_t> ranks = core_.BeginStep(plan, clock_.Now());
    if (ranks.empty()) return;
    const grpc::ByteBuffer bytes = Serialize(plan);
    for (uint64_t worker : ranks) {
      const auto stream = steps_.find(worker);
      if (stream != steps_.end() && stream->second.stream->Write(bytes)) continue;
      core_.OnPlanNotTaken(plan, clock_.Now(), actions);
      break;
    }
    Carry(actions);
  }
  Tell(actions);
}

void Cluster::TickLoop() {
  while (true) {
    GroupActions actions;
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), core_.tick_interval())) return;
      core_.Tick(clock_.Now(), actions);
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
  for (Event& event : actions.events) post_(std::move(event));
}

void Cluster::Tell(const GroupActions& actions) const {
  for (const Notice& notice : actions.notices) notices_(notice);
}

}  // namespace tessera
