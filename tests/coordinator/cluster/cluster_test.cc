// The real gRPC server with hand-driven workers on loopback: plans reach every rank as the same
// bytes, answers come back as one event, a closed stream loses the group.

#include "coordinator/cluster/cluster.h"

#include <gmock/gmock.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <deque>

#include "absl/strings/str_cat.h"
#include "tests/coordinator/cluster/cluster_fixtures.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
namespace pb = cluster::v1;

constexpr absl::Duration kPatience = absl::Seconds(20);

// Events as they come, waited for with a deadline.
class EventBox {
 public:
  void Post(Event event) {
    absl::MutexLock lock(&mutex_);
    events_.push_back(std::move(event));
  }
  // The next event, which must be an E.
  template <typename E>
  E Next() {
    absl::MutexLock lock(&mutex_);
    const auto some = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !events_.empty(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&some), kPatience)) {
      ADD_FAILURE() << "no event came";
      return E();
    }
    Event event = std::move(events_.front());
    events_.pop_front();
    if (E* wanted = std::get_if<E>(&event)) return std::move(*wanted);
    ADD_FAILURE() << "event of kind " << event.index();
    return E();
  }

 private:
  absl::Mutex mutex_;
  std::deque<Event> events_ ABSL_GUARDED_BY(mutex_);
};

// A worker in the test's own hands: blocking calls on the two streams.
class HandWorker {
 public:
  HandWorker(const std::string& address, const std::string& name)
      : stub_(pb::Cluster::NewStub(
            grpc::CreateChannel(address, grpc::InsecureChannelCredentials()))) {
    join_ = stub_->Join(&join_context_);
    pb::WorkerMessage message;
    *message.mutable_hello() = HelloFrom(name);
    join_->Write(message);
  }
  ~HandWorker() { Vanish(); }
  void Vanish() {
    join_context_.TryCancel();
    if (steps_) steps_context_.TryCancel();
  }
  pb::CoordinatorMessage Read() {
    pb::CoordinatorMessage message;
    EXPECT_TRUE(join_->Read(&message));
    return message;
  }
  // From Welcome to Ready.
  void Start() {
    const pb::Welcome welcome = Read().welcome();
    assign_ = Read().assign();
    join_->Write(CommHelloMessage(assign_.epoch(), assign_.rank(), "blob"));
    EXPECT_TRUE(Read().has_comm_peers());
    steps_context_.AddMetadata("tessera-worker-id", absl::StrCat(welcome.worker_id()));
    steps_context_.AddMetadata("tessera-epoch", absl::StrCat(assign_.epoch()));
    steps_ = stub_->Steps(&steps_context_);
    join_->Write(ReadyMessage(assign_.epoch()));
  }
  pb::StepPlan ReadPlan() {
    pb::StepPlan plan;
    EXPECT_TRUE(steps_->Read(&plan));
    return plan;
  }
  void Answer(const pb::StepPlan& plan, int32_t token) {
    pb::StepResult result;
    result.set_term(plan.term());
    result.set_epoch(plan.epoch());
    result.set_group(plan.group());
    result.set_step(plan.step());
    result.set_rank(assign_.rank());
    result.add_num_sampled(1);
    result.add_sampled(token);
    steps_->Write(result);
  }
  grpc::Status Finish() { return join_->Finish(); }

 private:
  std::unique_ptr<pb::Cluster::Stub> stub_;
  grpc::ClientContext join_context_;
  std::unique_ptr<grpc::ClientReaderWriter<pb::WorkerMessage, pb::CoordinatorMessage>> join_;
  grpc::ClientContext steps_context_;
  std::unique_ptr<grpc::ClientReaderWriter<pb::StepResult, pb::StepPlan>> steps_;
  pb::Assign assign_;
};

class ClusterTest : public ::testing::Test {
 protected:
  ClusterTest() {
    GroupManagerOptions options;
    options.term = 3;
    options.heartbeat_interval = absl::Seconds(30);  // hand-driven workers send none
    options.models = {SmallModel("m", 2)};
    cluster_ = std::make_unique<Cluster>(options, clock_, [](const Notice&) {});
    auto address =
        cluster_->Start("127.0.0.1:0", [this](Event event) { events_.Post(std::move(event)); });
    EXPECT_TRUE(address.ok()) << address.status();
    address_ = address.value_or("");
  }
  ~ClusterTest() override { cluster_->Stop(absl::ZeroDuration()); }

  pb::StepPlan Plan(uint64_t epoch, uint64_t step) {
    pb::StepPlan plan;
    plan.set_term(3);
    plan.set_epoch(epoch);
    plan.set_step(step);
    plan.add_sequence(1);
    plan.add_num_new_tokens(1);
    plan.add_output(pb::OUTPUT_SAMPLE);
    plan.add_num_choices(1);
    return plan;
  }

  RealClock clock_;
  EventBox events_;
  std::unique_ptr<Cluster> cluster_;
  std::string address_;
};

TEST_F(ClusterTest, PlansGoToEveryRankAndComeBackAsOneEvent) {
  HandWorker a(address_, "a");
  HandWorker b(address_, "b");
  std::thread other([&b] { b.Start(); });
  a.Start();
  other.join();
  const GroupReady ready = events_.Next<GroupReady>();
  EXPECT_EQ(ready.epoch, 1u);

  cluster_->Submit(Plan(ready.epoch, 1));
  const pb::StepPlan at_a = a.ReadPlan();
  const pb::StepPlan at_b = b.ReadPlan();
  EXPECT_EQ(at_a.SerializeAsString(), at_b.SerializeAsString());
  a.Answer(at_a, 9);
  b.Answer(at_b, 9);
  const StepDone done = events_.Next<StepDone>();
  ASSERT_EQ(done.rank_results.size(), 2u);
  EXPECT_EQ(done.rank_results[1].rank(), 1u);
  EXPECT_EQ(done.rank_results[0].sampled(0), 9);

  a.Vanish();
  const GroupLost lost = events_.Next<GroupLost>();
  EXPECT_EQ(lost.epoch, 1u);
  EXPECT_TRUE(b.Read().has_unassign());
  cluster_->Submit(Plan(ready.epoch, 2));  // too late: dropped, and nothing breaks
}

TEST_F(ClusterTest, RefusesStepStreamsOfStrangers) {
  auto stub =
      pb::Cluster::NewStub(grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
  const auto open = [&](const char* worker, const char* epoch) {
    grpc::ClientContext context;
    if (worker != nullptr) context.AddMetadata("tessera-worker-id", worker);
    if (epoch != nullptr) context.AddMetadata("tessera-epoch", epoch);
    auto stream = stub->Steps(&context);
    pb::StepPlan plan;
    EXPECT_FALSE(stream->Read(&plan));
    return stream->Finish();
  };
  EXPECT_EQ(open(nullptr, "1").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(open("x", "1").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(open("99", "1").error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ClusterTest, TheFirstMessageMustBeHello) {
  auto stub =
      pb::Cluster::NewStub(grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  auto stream = stub->Join(&context);
  stream->Write(HeartbeatMessage());
  pb::CoordinatorMessage message;
  EXPECT_FALSE(stream->Read(&message));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("Hello"));
}

// The front door links the reflection library, which adds itself to every server of the process.
TEST(ClusterReflectionTest, ThePortForWorkersOffersNone) {
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  const RealClock clock;
  GroupManagerOptions options;
  options.models = {SmallModel("m", 1)};
  Cluster cluster(options, clock, [](const Notice&) {});
  const auto address = cluster.Start("127.0.0.1:0", [](Event) {});
  ASSERT_TRUE(address.ok()) << address.status();
  auto channel = grpc::CreateChannel(*address, grpc::InsecureChannelCredentials());
  grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  int started = 0;
  int finished = 0;
  grpc::Status status;
  call->StartCall(&started);
  call->Finish(&status, &finished);
  for (int events = 0; events < 2; ++events) {
    void* tag = nullptr;
    bool ok = false;
    ASSERT_TRUE(queue.Next(&tag, &ok));
  }
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << status.error_message();
}

TEST_F(ClusterTest, APortInUseIsNamed) {
  GroupManagerOptions options;
  options.models = {SmallModel("m", 2)};
  Cluster second(options, clock_, [](const Notice&) {});
  const auto refused = second.Start(address_, [](Event) {});
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr(address_));
}

TEST_F(ClusterTest, StopTellsWorkersToExit) {
  HandWorker a(address_, "a");
  EXPECT_TRUE(a.Read().has_welcome());
  std::thread stopper([this] { cluster_->Stop(kPatience); });
  EXPECT_TRUE(a.Read().has_shutdown());
  a.Vanish();
  stopper.join();
}

}  // namespace
}  // namespace tessera
