// Notices that the process of a peer has ended, without its cooperation: a pidfd where the kernel
// has one, kill(pid, 0) otherwise. Only for peers of the same PID namespace; for others Ended() is
// always false and the deadline of the call has to do. One thread.

#ifndef TESSERA_WORKER_COMM_PEER_PROCESS_H_
#define TESSERA_WORKER_COMM_PEER_PROCESS_H_

#include <cstdint>

namespace tessera {

// A process as its peers know it.
struct ProcessIdentity {
  uint64_t pid = 0;
  uint64_t pid_namespace = 0;  // inode of /proc/self/ns/pid, 0: unknown
};
ProcessIdentity ThisProcess();

class PeerProcess {
 public:
  explicit PeerProcess(const ProcessIdentity& peer);
  ~PeerProcess();
  PeerProcess(const PeerProcess&) = delete;
  PeerProcess& operator=(const PeerProcess&) = delete;

  bool Ended() const;

 private:
  int pid_ = 0;  // 0: not watched (another namespace, or a thread of this process)
  int fd_ = -1;  // -1: no pidfd
};

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_PEER_PROCESS_H_
