// Threads and forks. A forked rank writes its hello to a pipe, reads everybody's from another, and
// at the end writes its status; it leaves by _exit, so nothing of the parent's test state runs in
// it.

#include "rank_harness.h"

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "fake_ops.h"
#include "worker/comm/loopback.h"

namespace tessera {
namespace {

void WriteAll(int fd, const std::string& text) {
  const uint64_t bytes = text.size();
  std::string frame(reinterpret_cast<const char*>(&bytes), sizeof(bytes));
  frame += text;
  for (size_t done = 0; done < frame.size();) {
    const ssize_t n = write(fd, frame.data() + done, frame.size() - done);
    if (n <= 0) return;
    done += static_cast<size_t>(n);
  }
}

bool ReadExactly(int fd, char* to, size_t bytes) {
  while (bytes > 0) {
    const ssize_t n = read(fd, to, bytes);
    if (n <= 0) return false;
    to += n;
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

// False at the end of the stream.
bool ReadFrame(int fd, std::string& text) {
  uint64_t bytes = 0;
  if (!ReadExactly(fd, reinterpret_cast<char*>(&bytes), sizeof(bytes))) return false;
  text.resize(bytes);
  return ReadExactly(fd, text.data(), bytes);
}

struct Child {
  pid_t pid = 0;
  int to = -1;    // blobs, parent to child
  int from = -1;  // hello, then status
};

absl::Status RunChild(const CommOptions& options, int in, int out, const RankBody& body) {
  FakeOps ops;
  absl::StatusOr<CommBuilder> builder = CommBuilder::Create(options, ops);
  WriteAll(out, builder.ok() ? builder->hello() : "");
  std::vector<std::string> blobs(options.size);
  for (std::string& blob : blobs) {
    if (!ReadFrame(in, blob)) return absl::InternalError("the parent went away");
  }
  TESSERA_RETURN_IF_ERROR(builder.status());
  TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> comm,
                           (*std::move(builder)).Connect(blobs));
  return body(*comm);
}

Child Fork(const CommOptions& options, const RankBody& body, const std::vector<Child>& others) {
  int down[2], up[2];
  TESSERA_CHECK(pipe(down) == 0 && pipe(up) == 0);
  const pid_t pid = fork();
  TESSERA_CHECK(pid >= 0) << "fork";
  if (pid == 0) {
    for (const Child& other : others) {
      close(other.to);
      close(other.from);
    }
    close(down[1]);
    close(up[0]);
    const absl::Status status = RunChild(options, down[0], up[1], body);
    WriteAll(up[1], absl::StrCat(static_cast<int>(status.code()), "|", status.message()));
    _exit(0);
  }
  close(down[0]);
  close(up[1]);
  return {pid, down[1], up[0]};
}

std::vector<absl::Status> RunProcesses(Transport transport, int size, absl::Duration deadline,
                                       const RankBody& body) {
  std::vector<Child> children;
  for (int rank = 0; rank < size; ++rank) {
    children.push_back(Fork(OptionsFor(transport, rank, size, deadline), body, children));
  }
  std::vector<std::string> hellos(size);
  for (int rank = 0; rank < size; ++rank) ReadFrame(children[rank].from, hellos[rank]);
  for (const Child& child : children) {
    for (const std::string& hello : hellos) WriteAll(child.to, hello);
  }
  std::vector<absl::Status> statuses;
  for (const Child& child : children) {
    std::string text;
    if (ReadFrame(child.from, text)) {
      statuses.emplace_back(static_cast<absl::StatusCode>(std::stoi(text)),
                            text.substr(text.find('|') + 1));
    } else {
      statuses.push_back(absl::AbortedError("the rank died"));
    }
    close(child.to);
    close(child.from);
    waitpid(child.pid, nullptr, 0);
  }
  return statuses;
}

// Builders in this thread, then a thread per rank that connects and runs.
std::vector<absl::Status> RunThreads(Transport transport, int size, absl::Duration deadline,
                                     const RankBody& body) {
  std::vector<FakeOps> ops(size);
  std::vector<std::unique_ptr<Communicator>> loopback;
  std::vector<CommBuilder> builders;
  std::vector<std::string> blobs;
  if (transport == Transport::kLoopback) {
    std::vector<Ops*> pointers;
    for (FakeOps& o : ops) pointers.push_back(&o);
    loopback = NewLoopback(pointers, deadline);
  } else {
    for (int rank = 0; rank < size; ++rank) {
      auto builder = CommBuilder::Create(OptionsFor(transport, rank, size, deadline), ops[rank]);
      TESSERA_CHECK(builder.ok()) << builder.status();
      blobs.push_back(builder->hello());
      builders.push_back(*std::move(builder));
    }
  }
  std::vector<absl::Status> statuses(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank]() {
      std::unique_ptr<Communicator> comm;
      if (transport == Transport::kLoopback) {
        comm = std::move(loopback[rank]);
      } else {
        auto connected = std::move(builders[rank]).Connect(blobs);
        statuses[rank] = connected.status();
        if (!connected.ok()) return;
        comm = *std::move(connected);
      }
      statuses[rank] = body(*comm);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return statuses;
}

}  // namespace

const char* Name(Transport transport) {
  switch (transport) {
    case Transport::kLoopback:
      return "Loopback";
    case Transport::kSharedThreads:
      return "SharedThreads";
    case Transport::kSharedProcesses:
      return "SharedProcesses";
    case Transport::kGloo:
      break;
  }
  return "Gloo";
}

CommOptions OptionsFor(Transport transport, int rank, int size, absl::Duration call_deadline) {
  CommOptions options;
  options.kind =
      transport == Transport::kGloo ? cluster::v1::COMM_GLOO : cluster::v1::COMM_SHARED_MEMORY;
  options.rank = rank;
  options.size = size;
  options.call_deadline = call_deadline;
  if (transport == Transport::kGloo) options.gloo_host = "127.0.0.1";
  return options;
}

std::vector<absl::Status> RunRanks(Transport transport, int size, absl::Duration call_deadline,
                                   const RankBody& body) {
  if (transport == Transport::kLoopback || transport == Transport::kSharedThreads) {
    return RunThreads(transport, size, call_deadline, body);
  }
  return RunProcesses(transport, size, call_deadline, body);
}

std::vector<std::string> SegmentNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("tessera-comm-", 0) == 0) names.push_back(name);
  }
  return names;
}

}  // namespace tessera
