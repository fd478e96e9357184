// The coordinator's side of the wire, played by a test: a real gRPC server on port 0 that records
// what workers say and says what it is told to.

#ifndef TESSERA_TESTS_WORKER_FAKE_COORDINATOR_H_
#define TESSERA_TESTS_WORKER_FAKE_COORDINATOR_H_

#include <grpcpp/grpcpp.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tessera/cluster/v1/cluster.grpc.pb.h"

namespace tessera {

class FakeCoordinator final : public cluster::v1::Cluster::Service {
 public:
  explicit FakeCoordinator(int port = 0);
  ~FakeCoordinator() override;

  const std::string& address() const { return address_; }
  int port() const { return port_; }
  // Joins from now on end with this status instead of a Welcome.
  void Refuse(grpc::Status status);
  void set_term(uint64_t term);

  // The next message of worker `worker` (1 for the first that joined) that `wanted` accepts; others
  // before it are dropped. Fails the test after twenty seconds.
  std::optional<cluster::v1::WorkerMessage> Await(uint64_t worker,
                                                  cluster::v1::WorkerMessage::MessageCase wanted);
  cluster::v1::Hello AwaitHello(uint64_t worker);
  void Send(uint64_t worker, const cluster::v1::CoordinatorMessage& message);
  // Cuts the worker's control stream and step stream.
  void Cut(uint64_t worker);

  // The worker's step stream, once it is open.
  bool AwaitSteps(uint64_t worker, uint64_t epoch);
  void SendPlan(uint64_t worker, const cluster::v1::StepPlan& plan);
  std::optional<cluster::v1::StepResult> AwaitResult(uint64_t worker);

  grpc::Status Join(grpc::ServerContext* context,
                    grpc::ServerReaderWriter<cluster::v1::CoordinatorMessage,
                                             cluster::v1::WorkerMessage>* stream) override;
  grpc::Status Steps(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<cluster::v1::StepPlan, cluster::v1::StepResult>* stream) override;

 private:
  struct Worker {
    cluster::v1::Hello hello;
    std::deque<cluster::v1::WorkerMessage> messages;
    std::deque<cluster::v1::StepResult> results;
    grpc::ServerContext* context = nullptr;
    grpc::ServerReaderWriter<cluster::v1::CoordinatorMessage, cluster::v1::WorkerMessage>* stream =
        nullptr;
    grpc::ServerContext* steps_context = nullptr;
    grpc::ServerReaderWriter<cluster::v1::StepPlan, cluster::v1::StepResult>* steps = nullptr;
    uint64_t steps_epoch = 0;
  };

  bool AwaitFor(const std::function<bool()>& ready) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  std::map<uint64_t, Worker> workers_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_worker_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t term_ ABSL_GUARDED_BY(mutex_) = 1;
  std::optional<grpc::Status> refusal_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  int port_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_FAKE_COORDINATOR_H_
