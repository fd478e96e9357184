// What the program that started the workers (`tessera serve`) tells the coordinator, as JSON lines
// on --control-fd: {"event": "gone", "worker": "local-0", "reason": "was killed ..."} for a worker
// that will not come back. On main's thread.

#ifndef TESSERA_COORDINATOR_LAUNCHER_LINK_H_
#define TESSERA_COORDINATOR_LAUNCHER_LINK_H_

#include <cstddef>
#include <string>
#include <vector>

namespace tessera {

inline constexpr size_t kLauncherLineBytesMax = 4096;

struct WorkerGone {
  std::string worker;  // its --name
  std::string reason;  // what comes after the name in a sentence
};

class LauncherLink {
 public:
  explicit LauncherLink(int fd);  // takes it over; -1: nobody will say anything
  ~LauncherLink();
  LauncherLink(const LauncherLink&) = delete;
  LauncherLink& operator=(const LauncherLink&) = delete;

  // Readable when there is something to take; -1 from the end of the other side on.
  int fd() const { return fd_; }
  // What has come since the last call, without waiting. A line that is not understood is logged.
  std::vector<WorkerGone> Take();

 private:
  void Close();

  int fd_;
  std::string pending_;  // part of a line
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LAUNCHER_LINK_H_
