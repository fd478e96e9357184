// One direction of a simulated stream: messages arrive after a delay, in order, unless the hook for
// faults decides otherwise. A stream is two pipes; closing it is a message of its own that comes
// behind all others.

#ifndef TESSERA_COORDINATOR_SIM_PIPE_H_
#define TESSERA_COORDINATOR_SIM_PIPE_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "coordinator/sim/event_queue.h"
#include "coordinator/sim/random.h"

namespace tessera::sim {

enum class MessageKind { kFromWorker, kToWorker, kPlan, kResult };

// What a fault does to one message.
struct MessageFate {
  bool drop = false;
  bool duplicate = false;
  bool overtake = false;  // need not wait for messages sent before it
  absl::Duration delay;   // on top of the link's own
};

// `worker` is the index of the simulated worker at the other end.
using FateHook = std::function<MessageFate(MessageKind kind, uint32_t worker)>;

struct LinkModel {
  absl::Duration delay = absl::Microseconds(100);
  absl::Duration jitter = absl::Microseconds(50);  // mean of an exponential
};

// What all pipes of a simulation share. Must outlive them.
struct Wire {
  EventQueue& queue;
  Random random;
  LinkModel model;
  FateHook fate;  // may be empty
};

template <typename Message>
class Pipe {
 public:
  Pipe(Wire& wire, MessageKind kind, uint32_t worker) : wire_(wire), kind_(kind), worker_(worker) {}

  // Whoever listens; must be set before the first message.
  void Listen(std::function<void(const Message&)> receive, std::function<void()> closed) {
    end_->receive = std::move(receive);
    end_->closed = std::move(closed);
  }
  void Send(Message message) {
    MessageFate fate;
    if (wire_.fate) fate = wire_.fate(kind_, worker_);
    if (fate.drop || closing_) return;
    const auto shared = std::make_shared<const Message>(std::move(message));
    const absl::Time arrival = Arrival(fate);
    const auto deliver = [end = end_, shared] {
      if (!end->cut) end->receive(*shared);
    };
    wire_.queue.At(arrival, deliver);
    if (fate.duplicate) wire_.queue.At(arrival + wire_.model.delay, deliver);
  }
  // Ends this direction; the listener hears of it after what was sent, but not before `notice`.
  void Close(absl::Duration notice = absl::ZeroDuration()) {
    if (closing_) return;
    closing_ = true;
    wire_.queue.At(std::max(Arrival({}), wire_.queue.Now() + notice), [end = end_] {
      if (!end->cut) end->closed();
    });
  }
  // The listener is gone: nothing is delivered any more, not even what is under way.
  void Cut() { end_->cut = true; }

 private:
  struct End {
    std::function<void(const Message&)> receive;
    std::function<void()> closed;
    bool cut = false;
  };

  absl::Time Arrival(const MessageFate& fate) {
    const absl::Duration jitter = wire_.model.jitter * wire_.random.Exponential();
    const absl::Time arrival = wire_.queue.Now() + wire_.model.delay + jitter + fate.delay;
    if (fate.overtake) return arrival;
    return last_arrival_ = std::max(arrival, last_arrival_);
  }

  Wire& wire_;
  const MessageKind kind_;
  const uint32_t worker_;
  const std::shared_ptr<End> end_ = std::make_shared<End>();
  absl::Time last_arrival_ = absl::InfinitePast();
  bool closing_ = false;
};

}  // namespace tessera::sim

#endif  // TESSERA_COORDINATOR_SIM_PIPE_H_
