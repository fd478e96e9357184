// A program started by the launcher, in a process group of its own (a Ctrl-C in the terminal
// reaches the launcher only) and told to end when the launcher dies. For a single-threaded parent.

#ifndef TESSERA_CLI_CHILD_PROCESS_H_
#define TESSERA_CLI_CHILD_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

// The path of a program that lies beside this one.
absl::StatusOr<std::string> SiblingProgram(const std::string& name);

// Starts argv[0]. `keep_fds` stay open in the child; every other descriptor above 2 must be
// close-on-exec.
absl::StatusOr<pid_t> StartProcess(const std::vector<std::string>& argv,
                                   const std::vector<int>& keep_fds = {});

// Runs argv to its end and returns what it wrote to stdout; an error when it failed.
absl::StatusOr<std::string> OutputOf(const std::vector<std::string>& argv);

// "exited with 3" or "was killed by signal 9 (Killed)", from a wait status.
std::string DescribeExit(int wait_status);

}  // namespace tessera

#endif  // TESSERA_CLI_CHILD_PROCESS_H_
