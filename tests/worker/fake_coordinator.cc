// Synchronous handlers: one thread per stream reads until the worker ends it.

#include "tests/worker/fake_coordinator.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tessera {

using cluster::v1::CoordinatorMessage;
using cluster::v1::StepPlan;
using cluster::v1::StepResult;
using cluster::v1::WorkerMessage;

namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

uint64_t Metadata(const grpc::ServerContext& context, const char* key) {
  const auto found = context.client_metadata().find(key);
  uint64_t value = 0;
  if (found == context.client_metadata().end() ||
      !absl::SimpleAtoi(std::string(found->second.data(), found->second.size()), &value)) {
    ADD_FAILURE() << "no decimal metadata " << key;
  }
  return value;
}

}  // namespace

FakeCoordinator::FakeCoordinator(int port) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(),
                           &port_);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  EXPECT_NE(server_, nullptr);
  address_ = absl::StrCat("127.0.0.1:", port_);
}

FakeCoordinator::~FakeCoordinator() {
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

void FakeCoordinator::Refuse(grpc::Status status) {
  absl::MutexLock lock(&mutex_);
  refusal_ = std::move(status);
}

void FakeCoordinator::set_term(uint64_t term) {
  absl::MutexLock lock(&mutex_);
  term_ = term;
}

bool FakeCoordinator::AwaitFor(const std::function<bool()>& ready) {
  return mutex_.AwaitWithTimeout(absl::Condition(&ready), kPatience);
}

grpc::Status FakeCoordinator::Join(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<CoordinatorMessage, WorkerMessage>* stream) {
  WorkerMessage message;
  if (!stream->Read(&message) || !message.has_hello()) {
    return {grpc::StatusCode::INVALID_ARGUMENT, "Hello comes first"};
  }
  uint64_t id = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (refusal_.has_value()) return *refusal_;
    id = next_worker_++;
    workers_[id].hello = message.hello();
    CoordinatorMessage welcome;
    welcome.mutable_welcome()->set_worker_id(id);
    welcome.mutable_welcome()->set_term(term_);
    welcome.mutable_welcome()->set_heartbeat_interval_ms(20);
    stream->Write(welcome);
    workers_[id].context = context;
    workers_[id].stream = stream;
  }
  while (stream->Read(&message)) {
    absl::MutexLock lock(&mutex_);
    workers_[id].messages.push_back(message);
  }
  absl::MutexLock lock(&mutex_);
  workers_[id].context = nullptr;
  workers_[id].stream = nullptr;
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::Steps(grpc::ServerContext* context,
                                    grpc::ServerReaderWriter<StepPlan, StepResult>* stream) {
  const uint64_t id = Metadata(*context, "tessera-worker-id");
  {
    absl::MutexLock lock(&mutex_);
    workers_[id].steps_epoch = Metadata(*context, "tessera-epoch");
    workers_[id].steps_context = context;
    workers_[id].steps = stream;
  }
  StepResult result;
  while (stream->Read(&result)) {
    absl::MutexLock lock(&mutex_);
    workers_[id].results.push_back(result);
  }
  absl::MutexLock lock(&mutex_);
  if (workers_[id].steps == stream) {
    workers_[id].steps = nullptr;
    workers_[id].steps_context = nullptr;
  }
  return grpc::Status::OK;
}

cluster::v1::Hello FakeCoordinator::AwaitHello(uint64_t worker) {
  absl::MutexLock lock(&mutex_);
  const bool met = AwaitFor([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return workers_.count(worker) != 0 && workers_[worker].stream != nullptr;
  });
  EXPECT_TRUE(met) << "worker " << worker << " did not join";
  return workers_[worker].hello;
}

std::optional<WorkerMessage> FakeCoordinator::Await(uint64_t worker,
                                                    WorkerMessage::MessageCase wanted) {
  absl::MutexLock lock(&mutex_);
  const auto position = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    std::deque<WorkerMessage>& messages = workers_[worker].messages;
    return std::find_if(messages.begin(), messages.end(), [wanted](const WorkerMessage& message) {
      return message.message_case() == wanted;
    });
  };
  // A condition may be asked more than once, so it changes nothing.
  const bool met = AwaitFor([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return position() != workers_[worker].messages.end();
  });
  EXPECT_TRUE(met) << "worker " << worker << " did not send message " << wanted;
  if (!met) return std::nullopt;
  const auto at = position();
  WorkerMessage found = std::move(*at);
  workers_[worker].messages.erase(workers_[worker].messages.begin(), at + 1);
  return found;
}

void FakeCoordinator::Send(uint64_t worker, const CoordinatorMessage& message) {
  absl::MutexLock lock(&mutex_);
  ASSERT_NE(workers_[worker].stream, nullptr) << "worker " << worker << " is gone";
  workers_[worker].stream->Write(message);
}

void FakeCoordinator::Cut(uint64_t worker) {
  absl::MutexLock lock(&mutex_);
  if (workers_[worker].context != nullptr) workers_[worker].context->TryCancel();
  if (workers_[worker].steps_context != nullptr) workers_[worker].steps_context->TryCancel();
}

bool FakeCoordinator::AwaitSteps(uint64_t worker, uint64_t epoch) {
  absl::MutexLock lock(&mutex_);
  return AwaitFor([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return workers_[worker].steps != nullptr && workers_[worker].steps_epoch == epoch;
  });
}

void FakeCoordinator::SendPlan(uint64_t worker, const StepPlan& plan) {
  absl::MutexLock lock(&mutex_);
  ASSERT_NE(workers_[worker].steps, nullptr);
  workers_[worker].steps->Write(plan);
}

std::optional<StepResult> FakeCoordinator::AwaitResult(uint64_t worker) {
  absl::MutexLock lock(&mutex_);
  const bool met =
      AwaitFor([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !workers_[worker].results.empty(); });
  EXPECT_TRUE(met) << "worker " << worker << " did not answer a plan";
  if (!met) return std::nullopt;
  StepResult result = std::move(workers_[worker].results.front());
  workers_[worker].results.pop_front();
  return result;
}

}  // namespace tessera
