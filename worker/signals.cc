// sigwait on a thread, woken for its own end by SIGUSR1.

#include "worker/signals.h"

#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace tessera {

SignalWatcher::SignalWatcher(std::function<void(std::string)> on_signal,
                             absl::Duration leave_within)
    : on_signal_(std::move(on_signal)), leave_within_(leave_within) {
  sigemptyset(&signals_);
  for (int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&signals_, signal);
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  signal(SIGPIPE, SIG_IGN);
  thread_ = std::thread([this] { Watch(); });
}

SignalWatcher::~SignalWatcher() {
  pthread_kill(thread_.native_handle(), SIGUSR1);
  thread_.join();
}

void SignalWatcher::Watch() {
  int met = 0;
  if (sigwait(&signals_, &met) != 0 || met == SIGUSR1) return;
  on_signal_(met == SIGTERM ? "SIGTERM" : "SIGINT");
  const timespec patience = absl::ToTimespec(leave_within_);
  met = sigtimedwait(&signals_, nullptr, &patience);
  // SIGUSR1: the process is leaving in good order.
  if (met != SIGUSR1) _exit(0);
}

}  // namespace tessera
