// Turns SIGTERM and SIGINT into one call, on a thread of its own. A process that has not left by
// the deadline, or that gets a second signal, is ended there and then: whoever sent it must not
// have to wait.

#ifndef TESSERA_WORKER_SIGNALS_H_
#define TESSERA_WORKER_SIGNALS_H_

#include <signal.h>

#include <functional>
#include <string>
#include <thread>

#include "absl/time/time.h"

namespace tessera {

class SignalWatcher {
 public:
  // Blocks the signals in the calling thread; to be made before any other thread, which inherit
  // that. `on_signal` gets the signal's name.
  SignalWatcher(std::function<void(std::string)> on_signal, absl::Duration leave_within);
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  void Watch();

  const std::function<void(std::string)> on_signal_;
  const absl::Duration leave_within_;
  sigset_t signals_;
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_SIGNALS_H_
