// Server side of one bidirectional gRPC stream: reads one message at a time, writes from a bounded
// queue, and tells its owner about messages and the end. Callbacks come on gRPC's threads, one at a
// time per stream for reads; Write and Close may be called from any thread.

#ifndef TESSERA_COORDINATOR_CLUSTER_STREAM_REACTOR_H_
#define TESSERA_COORDINATOR_CLUSTER_STREAM_REACTOR_H_

#include <grpcpp/grpcpp.h>

#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace tessera {

inline constexpr size_t kStreamQueueMax = 256;  // messages not yet written to one peer

inline grpc::Status ToGrpcStatus(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()),
                      std::string(status.message()));
}

// `In` and `Out` are messages, or grpc::ByteBuffer for a raw method.
template <typename In, typename Out>
class StreamReactor : public grpc::ServerBidiReactor<In, Out> {
 public:
  struct Handlers {
    std::function<void(const In&)> on_message;
    std::function<void()> on_closed;  // the last callback; the peer is gone or Close was called
  };

  // Keeps itself alive until gRPC is done with it.
  static std::shared_ptr<StreamReactor> Start(Handlers handlers) {
    std::shared_ptr<StreamReactor> reactor(new StreamReactor(std::move(handlers)));
    reactor->self_ = reactor;
    return reactor;
  }

  // Reading begins here, not in Start, so that the owner can take note of the reactor before
  // messages come.
  void BeginReading() { this->StartRead(&incoming_); }

  // False when the peer does not take messages any more (its queue is full or the stream is
  // closed).
  bool Write(Out message) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (closing_ || outgoing_.size() >= kStreamQueueMax) return false;
    outgoing_.push_back(std::move(message));
    if (!writing_) {
      writing_ = true;
      this->StartWrite(&outgoing_.front());
    }
    return true;
  }

  // Ends the stream with this status once what is queued has been written.
  void Close(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (closing_) return;
    closing_ = true;
    final_status_ = ToGrpcStatus(status);
    if (!writing_) this->Finish(final_status_);
  }

 private:
  explicit StreamReactor(Handlers handlers) : handlers_(std::move(handlers)) {}

  void OnReadDone(bool ok) override {
    if (!ok) {
      Close(absl::OkStatus());
      return;
    }
    handlers_.on_message(incoming_);
    this->StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    outgoing_.pop_front();
    if (!ok) {
      outgoing_.clear();
      if (!closing_)
        final_status_ = grpc::Status(grpc::StatusCode::UNAVAILABLE, "the peer is gone");
      closing_ = true;
    }
    if (!outgoing_.empty()) {
      this->StartWrite(&outgoing_.front());
      return;
    }
    writing_ = false;
    if (closing_) this->Finish(final_status_);
  }

  void OnCancel() override { Close(absl::CancelledError("the peer went away")); }

  void OnDone() override {
    handlers_.on_closed();
    std::shared_ptr<StreamReactor> last = std::move(self_);
  }

  const Handlers handlers_;
  std::shared_ptr<StreamReactor> self_;
  In incoming_;
  absl::Mutex mutex_;
  std::deque<Out> outgoing_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status final_status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_CLUSTER_STREAM_REACTOR_H_
