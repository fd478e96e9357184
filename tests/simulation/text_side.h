// The text threads and the client of every request, as far as the scheduler can tell: updates are
// read late, stop strings are found later still, and each choice of a request with stop strings is
// answered once, by TextStop or TextEnd.

#ifndef TESSERA_TESTS_SIMULATION_TEXT_SIDE_H_
#define TESSERA_TESTS_SIMULATION_TEXT_SIDE_H_

#include <functional>
#include <map>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/sched/event.h"
#include "coordinator/sim/event_queue.h"
#include "tests/simulation/request_book.h"

namespace tessera::simulation {

class TextSide {
 public:
  TextSide(sim::EventQueue& queue, RequestBook& book, std::function<void(Event)> post)
      : queue_(queue), book_(book), post_(std::move(post)) {}

  // How long this request's reader takes for each update.
  void SetLatency(RequestId request, absl::Duration latency) {
    readers_[request].latency = latency;
  }
  void Take(const RequestUpdate& update);

 private:
  struct Choice {
    std::vector<int32_t> text;  // tokens that are text
    bool answered = false;
  };
  struct Reader {
    absl::Duration latency;
    absl::Time busy_until = absl::InfinitePast();
    std::map<uint32_t, Choice> choices;
  };

  void Read(const RequestUpdate& update);

  sim::EventQueue& queue_;
  RequestBook& book_;
  const std::function<void(Event)> post_;
  std::map<RequestId, Reader> readers_;
};

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_TEXT_SIDE_H_
