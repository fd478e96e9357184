// A pidfd becomes readable when its process ends, also while its parent has not reaped it yet;
// kill(pid, 0) still finds such a zombie, which is why it is only the second choice.

#include "worker/comm/peer_process.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace tessera {

ProcessIdentity ThisProcess() {
  ProcessIdentity self;
  self.pid = static_cast<uint64_t>(getpid());
  struct stat info = {};
  if (stat("/proc/self/ns/pid", &info) == 0) self.pid_namespace = info.st_ino;
  return self;
}

PeerProcess::PeerProcess(const ProcessIdentity& peer) {
  const ProcessIdentity self = ThisProcess();
  if (self.pid_namespace == 0 || peer.pid_namespace != self.pid_namespace) return;
  if (peer.pid == 0 || peer.pid == self.pid) return;
  pid_ = static_cast<int>(peer.pid);
  fd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
}

PeerProcess::~PeerProcess() {
  if (fd_ >= 0) close(fd_);
}

bool PeerProcess::Ended() const {
  if (pid_ == 0) return false;
  if (fd_ >= 0) {
    pollfd event = {.fd = fd_, .events = POLLIN, .revents = 0};
    return poll(&event, 1, 0) == 1 && (event.revents & POLLIN) != 0;
  }
  return kill(pid_, 0) == -1 && errno == ESRCH;
}

}  // namespace tessera
