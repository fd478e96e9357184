// The control stream to the coordinator: says hello, keeps the host heartbeat going while the
// rank's thread loads or computes, hands what comes in to the Inbox. Two threads of its own
// (reader, heartbeat); Send may be called from any thread. One Link is one join: when the stream
// ends it posts LinkLost and is of no more use. A write waits as long as the connection's keepalive
// lets it, about three seconds.

#ifndef TESSERA_WORKER_LINK_H_
#define TESSERA_WORKER_LINK_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tessera/cluster/v1/cluster.grpc.pb.h"
#include "worker/inbox.h"

namespace tessera {

// Bytes of one message from the coordinator, a plan with whole block tables included.
inline constexpr int kMessageBytesMax = 64 << 20;
inline constexpr absl::Duration kWelcomeDeadline = absl::Seconds(10);
inline constexpr absl::Duration kHeartbeatIntervalMin = absl::Milliseconds(10);
inline constexpr absl::Duration kHeartbeatIntervalMax = absl::Seconds(60);

// What the heartbeat says; written by the rank's thread.
struct RankProgress {
  std::atomic<uint64_t> epoch{0};
  std::atomic<uint64_t> steps_finished{0};
};

// One connection for the process's life; it dials again by itself.
std::shared_ptr<grpc::Channel> NewCoordinatorChannel(const std::string& address);

class Link {
 public:
  // Says hello and waits for Welcome. FAILED_PRECONDITION and the like when the coordinator
  // refuses, UNAVAILABLE naming address and what to look at when it cannot be reached.
  static absl::StatusOr<std::unique_ptr<Link>> Join(const std::string& address,
                                                    std::shared_ptr<grpc::Channel> channel,
                                                    const cluster::v1::Hello& hello, Inbox& inbox,
                                                    const RankProgress& progress);
  // Cancels the stream if it still runs.
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  const cluster::v1::Welcome& welcome() const { return welcome_; }
  cluster::v1::Cluster::Stub& stub() { return *stub_; }

  // False when the stream is gone; LinkLost says why.
  bool Send(const cluster::v1::WorkerMessage& message) ABSL_LOCKS_EXCLUDED(write_mutex_);
  // The last word: sends, closes this side and waits, `patience` at most, for the coordinator to
  // end the stream, so that the message is not lost with the connection.
  void SendAndClose(const cluster::v1::WorkerMessage& message, absl::Duration patience);

 private:
  Link(std::string address, std::shared_ptr<grpc::Channel> channel, Inbox& inbox,
       const RankProgress& progress);

  absl::Status SayHello(const cluster::v1::Hello& hello);
  void ReadLoop();
  void HeartbeatLoop();
  // The stream's end in this project's terms.
  absl::Status EndStatus();

  const std::string address_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<cluster::v1::Cluster::Stub> stub_;
  Inbox& inbox_;
  const RankProgress& progress_;
  grpc::ClientContext context_;
  std::unique_ptr<
      grpc::ClientReaderWriter<cluster::v1::WorkerMessage, cluster::v1::CoordinatorMessage>>
      stream_;
  std::thread reader_;
  std::thread heartbeat_;

  cluster::v1::Welcome welcome_;

  absl::Mutex write_mutex_;  // one writer at a time
  bool write_closed_ ABSL_GUARDED_BY(write_mutex_) = false;

  absl::Mutex state_mutex_;
  bool ended_ ABSL_GUARDED_BY(state_mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(state_mutex_) = false;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_LINK_H_
