// The coordinator's side of the wire: a gRPC server that workers dial, the StepExecutor of the
// engine, and a ticking thread for heartbeats and step deadlines. All decisions are ClusterCore's;
// this class moves bytes and holds the one mutex in front of it.

#ifndef TESSERA_COORDINATOR_CLUSTER_CLUSTER_H_
#define TESSERA_COORDINATOR_CLUSTER_CLUSTER_H_

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/byte_buffer.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "coordinator/cluster/cluster_core.h"
#include "coordinator/cluster/stream_reactor.h"
#include "coordinator/sched/step_executor.h"
#include "tessera/cluster/v1/cluster.grpc.pb.h"

namespace tessera {

inline constexpr int kClusterMessageBytesMax = 64 << 20;

class Cluster final : public StepExecutor {
 public:
  // The clock must outlive the cluster. `notices` is called on any thread, with no lock of the
  // caller's.
  Cluster(GroupManagerOptions options, const Clock& clock, NoticeSink notices);
  ~Cluster() override;

  // Begins to accept workers on `address` ("host:port", port 0 picks one) and to post events.
  // Returns the bound address; UNAVAILABLE naming the address when it cannot be bound.
  absl::StatusOr<std::string> Start(const std::string& address, std::function<void(Event)> post);
  // Tells every worker to exit, waits for them at most `limit`, and closes. Idempotent.
  void Stop(absl::Duration limit);

  void Submit(cluster::v1::StepPlan plan) override;

 private:
  using JoinStream = StreamReactor<cluster::v1::WorkerMessage, cluster::v1::CoordinatorMessage>;
  using StepStream = StreamReactor<grpc::ByteBuffer, grpc::ByteBuffer>;
  class Service;

  // One Join call; the worker id is known after its Hello.
  struct Session {
    std::shared_ptr<JoinStream> stream;
    uint64_t worker = 0;
  };

  // The step stream of a worker's present assignment.
  struct OpenSteps {
    uint64_t epoch = 0;
    std::shared_ptr<StepStream> stream;
  };

  grpc::ServerBidiReactor<cluster::v1::WorkerMessage, cluster::v1::CoordinatorMessage>* OnJoin();
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* OnSteps(
      grpc::CallbackServerContext* context);
  void OnWorkerMessage(Session& session, const cluster::v1::WorkerMessage& message)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void OnStepResult(uint64_t worker, uint64_t epoch, const grpc::ByteBuffer& bytes)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void OnStepStreamClosed(uint64_t worker, uint64_t epoch) ABSL_LOCKS_EXCLUDED(mutex_);
  void TickLoop() ABSL_LOCKS_EXCLUDED(mutex_);
  // Sends, disconnects, posts and tells. The notices are left in `actions` for the caller to tell
  // once the mutex is free.
  void Carry(GroupActions& actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Tell(const GroupActions& actions) const;
  bool NoWorkers() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return joins_.empty(); }

  const Clock& clock_;
  const NoticeSink notices_;
  std::unique_ptr<Service> service_;
  std::function<void(Event)> post_;  // set by Start
  std::unique_ptr<grpc::Server> server_;
  std::thread ticker_;

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  ClusterCore core_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, std::shared_ptr<JoinStream>> joins_ ABSL_GUARDED_BY(mutex_);  // by worker id
  std::map<uint64_t, OpenSteps> steps_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_CLUSTER_CLUSTER_H_
