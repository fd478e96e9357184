// A worker's life on the wire, against a coordinator played by the test: join, load, ready, steps,
// unassign with weights kept, shutdown; and every way it can go wrong.

#include "worker/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <thread>

#include "absl/synchronization/notification.h"
#include "models/checkpoint.h"
#include "tests/models/model_files.h"
#include "tests/worker/fake_coordinator.h"
#include "tests/worker/tiny_model.h"

namespace tessera {
namespace {

using cluster::v1::CoordinatorMessage;
using cluster::v1::StepPlan;
using cluster::v1::WorkerMessage;
using testing::HasSubstr;

// A worker on its own thread.
class RunningWorker {
 public:
  RunningWorker(const std::string& address, const std::string& model_root, const std::string& name,
                absl::Duration reconnect = absl::Seconds(20))
      : device_(*Device::Open("cpu", 1)),
        log_(name, spdlog::level::off),
        service_({.coordinator_address = address,
                  .model_roots = {model_root},
                  .worker_name = name,
                  .reconnect = reconnect},
                 *device_, clock_, log_),
        thread_([this] {
          status_ = service_.Run();
          done_.Notify();
        }) {}
  ~RunningWorker() {
    service_.RequestStop("the test ends");
    thread_.join();
  }

  void Stop() { service_.RequestStop("SIGTERM"); }
  // The outcome of Run; fails the test when it takes longer than `within`.
  absl::Status Wait(absl::Duration within) {
    if (!done_.WaitForNotificationWithTimeout(within)) {
      return absl::DeadlineExceededError("the worker still runs");
    }
    return status_;
  }

 private:
  RealClock clock_;
  const std::unique_ptr<Device> device_;
  EventLog log_;
  absl::Status status_;
  absl::Notification done_;
  Service service_;
  std::thread thread_;
};

class ServiceTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteTinyModel(model_, TinyConfig(), "BF16", 21);
    digest_ = DigestOf(model_.path());
  }

  static std::string DigestOf(const std::string& directory) {
    absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = Checkpoint::Open(directory);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return checkpoint.ok() ? (*checkpoint)->digest() : "";
  }

  CoordinatorMessage Assign(uint64_t epoch, uint32_t rank, uint32_t tp) const {
    CoordinatorMessage message;
    cluster::v1::Assign* assign = message.mutable_assign();
    assign->set_term(1);
    assign->set_epoch(epoch);
    assign->set_group(0);
    assign->set_rank(rank);
    assign->set_tp(tp);
    assign->set_pp(1);
    assign->set_model_name("tiny");
    assign->set_model_dir_name(std::filesystem::path(model_.path()).filename().string());
    assign->set_manifest_digest(digest_);
    assign->set_dtype("float32");
    assign->set_kv_dtype("float32");
    assign->set_block_size(16);
    assign->add_num_blocks(32);
    assign->set_rows_max(16);
    assign->set_tokens_max(128);
    assign->set_context_max(256);
    assign->set_comm(tp == 1 ? cluster::v1::COMM_SOLO : cluster::v1::COMM_SHARED_MEMORY);
    assign->set_step_deadline_ms(60000);
    return message;
  }

  // Relays what the ranks need to meet and waits until each is ready.
  std::vector<cluster::v1::Ready> MakeReady(uint64_t epoch, const std::vector<uint64_t>& workers) {
    CoordinatorMessage peers;
    peers.mutable_comm_peers()->set_epoch(epoch);
    for (size_t rank = 0; rank < workers.size(); ++rank) {
      const auto hello = coordinator_.Await(workers[rank], WorkerMessage::kCommHello);
      if (!hello.has_value()) return {};
      EXPECT_EQ(hello->comm_hello().epoch(), epoch);
      EXPECT_EQ(hello->comm_hello().rank(), rank);
      peers.mutable_comm_peers()->add_blobs(hello->comm_hello().blob());
    }
    for (uint64_t worker : workers) coordinator_.Send(worker, peers);
    std::vector<cluster::v1::Ready> all;
    for (uint64_t worker : workers) {
      const auto ready = coordinator_.Await(worker, WorkerMessage::kReady);
      if (!ready.has_value()) return {};
      EXPECT_EQ(ready->ready().epoch(), epoch);
      EXPECT_TRUE(coordinator_.AwaitSteps(worker, epoch));
      all.push_back(ready->ready());
    }
    return all;
  }

  static StepPlan Prompt(uint64_t epoch, uint64_t step) {
    StepPlan plan;
    plan.set_term(1);
    plan.set_epoch(epoch);
    plan.set_step(step);
    plan.add_sequence(step);
    plan.add_num_new_tokens(3);
    plan.add_start_position(0);
    plan.add_output(cluster::v1::OUTPUT_SAMPLE);
    plan.add_num_choices(1);
    plan.add_token_source(cluster::v1::TOKENS_EXPLICIT);
    for (int32_t token : {3, 1, 4}) plan.add_tokens(token);
    plan.add_num_new_blocks(1);
    plan.add_block_ids(0);
    plan.add_resets()->set_row(0);
    return plan;
  }

  static CoordinatorMessage Unassign(uint64_t epoch) {
    CoordinatorMessage message;
    message.mutable_unassign()->set_term(1);
    message.mutable_unassign()->set_epoch(epoch);
    message.mutable_unassign()->set_reason("a rank was lost");
    return message;
  }

  TempDir model_;
  std::string digest_;
  FakeCoordinator coordinator_;
};

// Without a file but config.json, and without its seven peers: such a rank says what it is and
// computes.
TEST_F(ServiceTest, OneRankOfAGroupAloneOnMadeUpWeights) {
  TempDir bare;
  bare.Write("config.json", TinyConfig().dump());
  RunningWorker worker(coordinator_.address(), bare.path(), "w0");
  coordinator_.AwaitHello(1);
  CoordinatorMessage message = Assign(1, 0, 8);
  cluster::v1::Assign* assign = message.mutable_assign();
  assign->set_model_dir_name(std::filesystem::path(bare.path()).filename().string());
  assign->set_manifest_digest((*Checkpoint::WithoutWeights(bare.path()))->digest());
  assign->set_load_format("dummy");
  assign->set_comm(cluster::v1::COMM_SOLO);
  coordinator_.Send(1, message);
  const std::vector<cluster::v1::Ready> ready = MakeReady(1, {1});
  ASSERT_EQ(ready.size(), 1u);
  EXPECT_EQ(ready[0].bytes_read(), 0u);
  EXPECT_GT(ready[0].weight_bytes(), 0u);
  EXPECT_THAT(ready[0].numerics_class(), HasSubstr("solo_of=8"));
  coordinator_.SendPlan(1, Prompt(1, 1));
  const auto result = coordinator_.AwaitResult(1);
  ASSERT_TRUE(result.has_value());
  EXPECT_FALSE(result->has_error()) << result->error().message();
  ASSERT_EQ(result->sampled_size(), 1);
  EXPECT_GE(result->sampled(0), 0);
  EXPECT_LT(result->sampled(0), 5) << "rank 0 of 8 has 5 of 37 tokens";
}

TEST_F(ServiceTest, AnUnknownLoadFormatIsRefused) {
  RunningWorker worker(coordinator_.address(), model_.path(), "w0");
  coordinator_.AwaitHello(1);
  CoordinatorMessage message = Assign(1, 0, 1);
  message.mutable_assign()->set_load_format("gguf");
  coordinator_.Send(1, message);
  const auto failed = coordinator_.Await(1, WorkerMessage::kFailed);
  ASSERT_TRUE(failed.has_value());
  EXPECT_THAT(failed->failed().message(), HasSubstr("gguf"));
}

TEST_F(ServiceTest, WholeLifeWithWeightsKept) {
  RunningWorker worker(coordinator_.address(), model_.path(), "w0");
  const cluster::v1::Hello hello = coordinator_.AwaitHello(1);
  EXPECT_EQ(hello.protocol_version(), cluster::v1::PROTOCOL_VERSION_CURRENT);
  EXPECT_EQ(hello.worker_name(), "w0");
  EXPECT_EQ(hello.hardware().device(), "cpu");
  EXPECT_FALSE(hello.hardware().host_id().empty());
  EXPECT_GT(hello.hardware().memory_free_bytes(), 0u);
  EXPECT_EQ(hello.hardware().cores(), 1u);
  const auto idle = coordinator_.Await(1, WorkerMessage::kHeartbeat);
  ASSERT_TRUE(idle.has_value());
  EXPECT_EQ(idle->heartbeat().epoch(), 0u);

  coordinator_.Send(1, Assign(1, 0, 1));
  const auto progress = coordinator_.Await(1, WorkerMessage::kLoadProgress);
  ASSERT_TRUE(progress.has_value());
  EXPECT_EQ(progress->load_progress().epoch(), 1u);
  EXPECT_GT(progress->load_progress().bytes_total(), 0u);
  std::vector<cluster::v1::Ready> ready = MakeReady(1, {1});
  ASSERT_EQ(ready.size(), 1u);
  EXPECT_GT(ready[0].bytes_read(), 0u);
  EXPECT_GT(ready[0].weight_bytes(), 0u);
  EXPECT_GT(ready[0].kv_bytes(), 0u);
  EXPECT_THAT(ready[0].numerics_class(), HasSubstr(digest_));

  coordinator_.SendPlan(1, Prompt(1, 1));
  auto result = coordinator_.AwaitResult(1);
  ASSERT_TRUE(result.has_value());
  EXPECT_FALSE(result->has_error()) << result->error().message();
  ASSERT_EQ(result->sampled_size(), 1);
  const int32_t token = result->sampled(0);
  bool counted = false;
  for (int i = 0; i < 100 && !counted; ++i) {
    const auto heartbeat = coordinator_.Await(1, WorkerMessage::kHeartbeat);
    ASSERT_TRUE(heartbeat.has_value());
    counted = heartbeat->heartbeat().steps_finished() == 1 && heartbeat->heartbeat().epoch() == 1;
  }
  EXPECT_TRUE(counted);

  // The next life of the group: nothing is read again, the cache is empty, the token is the same.
  coordinator_.Send(1, Unassign(1));
  coordinator_.Send(1, Assign(2, 0, 1));
  ready = MakeReady(2, {1});
  ASSERT_EQ(ready.size(), 1u);
  EXPECT_EQ(ready[0].bytes_read(), 0u);
  EXPECT_GT(ready[0].weight_bytes(), 0u);
  coordinator_.SendPlan(1, Prompt(2, 1));
  result = coordinator_.AwaitResult(1);
  ASSERT_TRUE(result.has_value());
  ASSERT_EQ(result->sampled_size(), 1) << result->error().message();
  EXPECT_EQ(result->sampled(0), token);

  CoordinatorMessage shutdown;
  shutdown.mutable_shutdown()->set_reason("drained");
  coordinator_.Send(1, shutdown);
  EXPECT_TRUE(coordinator_.Await(1, WorkerMessage::kLeaving).has_value());
  const absl::Status status = worker.Wait(absl::Seconds(5));
  EXPECT_TRUE(status.ok()) << status;
}

// Two plans on their way, the second made before anyone knows what the first draws: between them
// the rank waits for nobody. A round trip to the coordinator would cost several times the bound.
TEST_F(ServiceTest, APlanThatIsQueuedIsComputedAtOnce) {
  RunningWorker worker(coordinator_.address(), model_.path(), "w0");
  coordinator_.AwaitHello(1);
  coordinator_.Send(1, Assign(1, 0, 1));
  ASSERT_EQ(MakeReady(1, {1}).size(), 1u);
  std::vector<uint64_t> gaps;  // ns
  for (uint64_t step = 1; step < 60; step += 2) {
    StepPlan first = Prompt(1, step);
    first.mutable_tokens()->Resize(100, 7);
    first.set_num_new_tokens(0, 100);
    first.set_num_new_blocks(0, 7);
    first.clear_block_ids();
    for (uint32_t block = 0; block < 7; ++block) first.add_block_ids(block);
    StepPlan second = Prompt(1, step + 1);
    second.set_sequence(0, first.sequence(0));
    second.set_num_new_tokens(0, 1);
    second.set_start_position(0, 100);
    second.set_token_source(0, cluster::v1::TOKENS_LAST_SAMPLED);
    second.add_source_step(step);
    second.add_source_row(0);
    for (auto* column : {second.mutable_block_ids(), second.mutable_num_new_blocks()}) {
      column->Clear();
    }
    second.add_num_new_blocks(0);
    second.clear_tokens();
    second.clear_resets();
    second.add_finished_sequences(first.sequence(0));
    coordinator_.SendPlan(1, first);
    coordinator_.SendPlan(1, second);
    for (uint64_t wanted : {step, step + 1}) {
      const auto result = coordinator_.AwaitResult(1);
      ASSERT_TRUE(result.has_value());
      ASSERT_FALSE(result->has_error()) << result->error().message();
      EXPECT_EQ(result->step(), wanted);
      EXPECT_EQ(result->sampled_size(), 1);
      if (wanted != step) gaps.push_back(result->idle_before_ns());
    }
  }
  std::sort(gaps.begin(), gaps.end());
  std::cout << "gap before a queued plan, ns: least " << gaps.front() << ", median "
            << gaps[gaps.size() / 2] << ", most " << gaps.back() << "\n";
  // The least of thirty: what the rank itself costs, whatever else this machine does.
  EXPECT_LT(gaps.front(), 100'000u);
}

TEST_F(ServiceTest, AnotherModelUnderTheRootIsRefusedByName) {
  const TempDir other;
  WriteTinyModel(other, TinyConfig(), "F32", 22);
  RunningWorker worker(coordinator_.address(), other.path(), "w0");
  coordinator_.AwaitHello(1);
  coordinator_.Send(1, Assign(1, 0, 1));
  const auto failed = coordinator_.Await(1, WorkerMessage::kFailed);
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(failed->failed().code(), static_cast<int>(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(failed->failed().message(), HasSubstr(digest_));
  EXPECT_THAT(failed->failed().message(), HasSubstr(DigestOf(other.path())));
  EXPECT_THAT(failed->failed().message(), HasSubstr(other.path()));
  EXPECT_EQ(worker.Wait(absl::Seconds(5)).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ServiceTest, TheModelIsFoundByNameUnderTheRoot) {
  RunningWorker worker(coordinator_.address(),
                       std::filesystem::path(model_.path()).parent_path().string(), "w0");
  coordinator_.AwaitHello(1);
  coordinator_.Send(1, Assign(1, 0, 1));
  EXPECT_EQ(MakeReady(1, {1}).size(), 1u);
}

TEST_F(ServiceTest, NoModelUnderTheRoot) {
  const TempDir empty;
  RunningWorker worker(coordinator_.address(), empty.path(), "w0");
  coordinator_.AwaitHello(1);
  coordinator_.Send(1, Assign(1, 0, 1));
  const auto failed = coordinator_.Await(1, WorkerMessage::kFailed);
  ASSERT_TRUE(failed.has_value());
  EXPECT_THAT(failed->failed().message(), HasSubstr("--model-root"));
  EXPECT_EQ(worker.Wait(absl::Seconds(5)).code(), absl::StatusCode::kNotFound);
}

TEST_F(ServiceTest, ImpossibleAssignmentsAreRefused) {
  struct Case {
    std::function<void(cluster::v1::Assign&)> damage;
    absl::StatusCode code;
    const char* text;
  };
  const std::vector<Case> cases = {
      {[](auto& a) { a.set_rank(1); }, absl::StatusCode::kInvalidArgument, "rank"},
      {[](auto& a) { a.set_pp(2); }, absl::StatusCode::kUnimplemented, "pp"},
      {[](auto& a) { a.set_dtype("int4"); }, absl::StatusCode::kInvalidArgument, "int4"},
      {[](auto& a) { a.set_block_size(0); }, absl::StatusCode::kInvalidArgument, "block_size"},
      {[](auto& a) { a.set_model_dir_name("../up"); }, absl::StatusCode::kInvalidArgument, "../up"},
      {[](auto& a) { a.add_num_blocks(1); }, absl::StatusCode::kInvalidArgument, "num_blocks"},
      {[](auto& a) { a.set_num_blocks(0, 0xfffffff0u); }, absl::StatusCode::kResourceExhausted,
       "KV cache"},
  };
  uint64_t id = 0;
  for (const Case& c : cases) {
    RunningWorker worker(coordinator_.address(), model_.path(), "w0");
    coordinator_.AwaitHello(++id);
    CoordinatorMessage message = Assign(1, 0, 1);
    c.damage(*message.mutable_assign());
    coordinator_.Send(id, message);
    const absl::Status status = worker.Wait(absl::Seconds(5));
    EXPECT_EQ(status.code(), c.code) << c.text << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.text));
  }
}

TEST_F(ServiceTest, ARefusedJoinEndsTheWorkerAtOnce) {
  coordinator_.Refuse({grpc::StatusCode::FAILED_PRECONDITION, "speaks version 1, needs 7"});
  RunningWorker worker(coordinator_.address(), model_.path(), "w0");
  const absl::Status status = worker.Wait(absl::Seconds(5));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("speaks version 1, needs 7"));
}

TEST_F(ServiceTest, NobodyAtTheAddress) {
  std::string address;
  {
    const FakeCoordinator gone;
    address = gone.address();
  }
  RunningWorker worker(address, model_.path(), "w0", absl::Milliseconds(300));
  const absl::Status status = worker.Wait(absl::Seconds(10));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(address));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--coordinator"));
}

TEST_F(ServiceTest, ALostLinkIsDialledAgainAndWeightsAreKept) {
  RunningWorker worker(coordinator_.address(), model_.path(), "w0");
  coordinator_.AwaitHello(1);
  coordinator_.Send(1, Assign(1, 0, 1));
  ASSERT_EQ(MakeReady(1, {1}).size(), 1u);
  coordinator_.Cut(1);
  coordinator_.AwaitHello(2);
  // A new stream counts epochs anew.
  coordinator_.Send(2, Assign(1, 0, 1));
  const std::vector<cluster::v1::Ready> ready = MakeReady(1, {2});
  ASSERT_EQ(ready.size(), 1u);
  EXPECT_EQ(ready[0].bytes_read(), 0u);
}

TEST_F(ServiceTest, AnOlderTermIsNotObeyed) {
  coordinator_.set_term(5);
  RunningWorker worker(coordinator_.address(), model_.path(), "w0");
  coordinator_.AwaitHello(1);
  coordinator_.set_term(4);
  coordinator_.Cut(1);
  const absl::Status status = worker.Wait(absl::Seconds(10));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("term"));
}

TEST_F(ServiceTest, LeavesWithinTwoSecondsIdleAndServing) {
  for (const bool serving : {false, true}) {
    const uint64_t id = serving ? 2 : 1;
    RunningWorker worker(coordinator_.address(), model_.path(), "w0");
    coordinator_.AwaitHello(id);
    if (serving) {
      coordinator_.Send(id, Assign(1, 0, 1));
      ASSERT_EQ(MakeReady(1, {id}).size(), 1u);
    }
    // Joined, not merely dialling: only then is there somebody to say goodbye to.
    ASSERT_TRUE(coordinator_.Await(id, WorkerMessage::kHeartbeat).has_value());
    worker.Stop();
    EXPECT_TRUE(coordinator_.Await(id, WorkerMessage::kLeaving).has_value());
    const absl::Status status = worker.Wait(absl::Seconds(2));
    EXPECT_TRUE(status.ok()) << status;
  }
}

TEST_F(ServiceTest, TwoRanksComputeAndSurviveALostPeer) {
  RunningWorker first(coordinator_.address(), model_.path(), "w0");
  coordinator_.AwaitHello(1);
  std::vector<cluster::v1::Ready> ready;
  std::string numerics;
  {
    RunningWorker second(coordinator_.address(), model_.path(), "w1");
    EXPECT_EQ(coordinator_.AwaitHello(2).hardware().host_id(),
              coordinator_.AwaitHello(1).hardware().host_id());
    coordinator_.Send(1, Assign(1, 0, 2));
    coordinator_.Send(2, Assign(1, 1, 2));
    ready = MakeReady(1, {1, 2});
    ASSERT_EQ(ready.size(), 2u);
    EXPECT_EQ(ready[0].numerics_class(), ready[1].numerics_class());
    for (uint64_t worker : {1, 2}) coordinator_.SendPlan(worker, Prompt(1, 1));
    const auto a = coordinator_.AwaitResult(1);
    const auto b = coordinator_.AwaitResult(2);
    ASSERT_TRUE(a.has_value() && b.has_value());
    ASSERT_EQ(a->sampled_size(), 1) << a->error().message();
    ASSERT_EQ(b->sampled_size(), 1) << b->error().message();
    EXPECT_EQ(a->sampled(0), b->sampled(0));

    // Rank 0 gets a plan that rank 1 never sees: it waits in a collective, and its heart goes on
    // beating.
    coordinator_.SendPlan(1, Prompt(1, 2));
    for (int i = 0; i < 5; ++i) {
      ASSERT_TRUE(coordinator_.Await(1, WorkerMessage::kHeartbeat).has_value());
    }
    second.Stop();
    EXPECT_TRUE(second.Wait(absl::Seconds(2)).ok());
  }
  const auto lost = coordinator_.AwaitResult(1);
  ASSERT_TRUE(lost.has_value());
  EXPECT_EQ(lost->step(), 2u);
  EXPECT_TRUE(lost->has_error());
  coordinator_.Send(1, Unassign(1));
  // Rank 0 is free again, with other company or alone, without having been started anew.
  coordinator_.Send(1, Assign(2, 0, 1));
  ready = MakeReady(2, {1});
  ASSERT_EQ(ready.size(), 1u);
  coordinator_.SendPlan(1, Prompt(2, 1));
  const auto result = coordinator_.AwaitResult(1);
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->sampled_size(), 1) << result->error().message();
}

}  // namespace
}  // namespace tessera
