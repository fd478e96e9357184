// See the header.

#include "cli/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"

namespace tessera {
namespace {

// After fork, before exec: only async-signal-safe calls.
[[noreturn]] void BecomeChild(std::vector<char*>& arguments, pid_t parent,
                              const std::vector<int>& keep_fds, int stdout_fd) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(1);  // it died before we asked to be told
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int fd : keep_fds) fcntl(fd, F_SETFD, 0);
  if (stdout_fd >= 0) dup2(stdout_fd, STDOUT_FILENO);
  execv(arguments[0], arguments.data());
  _exit(127);
}

absl::StatusOr<pid_t> Fork(const std::vector<std::string>& argv, const std::vector<int>& keep_fds,
                           int stdout_fd) {
  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return absl::InternalError(absl::StrCat("fork: ", std::strerror(errno)));
  if (child == 0) BecomeChild(arguments, parent, keep_fds, stdout_fd);
  return child;
}

}  // namespace

absl::StatusOr<std::string> SiblingProgram(const std::string& name) {
  char self[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
  if (length <= 0) return absl::InternalError("cannot read /proc/self/exe");
  self[length] = '\0';
  const std::string directory(self, static_cast<size_t>(std::strrchr(self, '/') - self));
  const std::string path = absl::StrCat(directory, "/", name);
  if (access(path.c_str(), X_OK) != 0) {
    return absl::NotFoundError(
        absl::StrCat(name, " is not beside tessera in ", directory, "; install or build both"));
  }
  return path;
}

absl::StatusOr<pid_t> StartProcess(const std::vector<std::string>& argv,
                                   const std::vector<int>& keep_fds) {
  return Fork(argv, keep_fds, -1);
}

absl::StatusOr<std::string> OutputOf(const std::vector<std::string>& argv) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::InternalError("pipe");
  const absl::StatusOr<pid_t> child = Fork(argv, {}, ends[1]);
  close(ends[1]);
  std::string output;
  char buffer[4096];
  ssize_t n = 0;
  while (child.ok() && (n = read(ends[0], buffer, sizeof(buffer))) > 0) {
    output.append(buffer, static_cast<size_t>(n));
  }
  close(ends[0]);
  TESSERA_RETURN_IF_ERROR(child.status());
  int status = 0;
  waitpid(*child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return absl::InternalError(
        absl::StrCat("`", absl::StrJoin(argv, " "), "` ", DescribeExit(status)));
  }
  return output;
}

std::string DescribeExit(int wait_status) {
  if (WIFSIGNALED(wait_status)) {
    const int signal_number = WTERMSIG(wait_status);
    return absl::StrCat("was killed by signal ", signal_number, " (", strsignal(signal_number),
                        ")");
  }
  return absl::StrCat("exited with ", WEXITSTATUS(wait_status));
}

}  // namespace tessera
