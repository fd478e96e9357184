// See the header. The parent has one thread: it waits for records with poll and looks at what its
// children do.

#include "tests/simulation/runner.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tessera::simulation {
namespace {

constexpr int kProcessesMax = 256;
constexpr int kPollMilliseconds = 100;

double SecondsNow() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

// In memory that parent and children share.
struct Shared {
  std::atomic<uint64_t> next;
  struct Child {
    std::atomic<uint64_t> seed;  // 0: none at the moment
    std::atomic<double> begun;   // SecondsNow() when it began
  } children[kProcessesMax];
};

// What a child writes of a life; the texts of the violations follow.
struct Record {
  uint64_t seed = 0;
  uint64_t trace_hash = 0;
  int64_t virtual_ns = 0;
  LifeCounts counts;
  uint64_t num_violations = 0;
};
static_assert(std::is_trivially_copyable_v<Record>);

void WriteAll(int fd, const std::string& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t wrote = write(fd, bytes.data() + done, bytes.size() - done);
    if (wrote <= 0) _exit(1);
    done += static_cast<size_t>(wrote);
  }
}

template <typename T>
void Append(const T& value, std::string& bytes) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string Encode(const LifeReport& report) {
  Record record{report.seed, report.trace_hash, absl::ToInt64Nanoseconds(report.virtual_time),
                report.counts, report.violations.size()};
  std::string bytes;
  Append(record, bytes);
  for (const Violation& violation : report.violations) {
    Append(violation.checker, bytes);
    Append(violation.text.size(), bytes);
    bytes += violation.text;
  }
  return bytes;
}

// Takes one report from the front of `bytes`; false when it is not complete yet.
bool Decode(std::string& bytes, LifeReport& report) {
  size_t at = 0;
  const auto take = [&](auto& value) {
    if (bytes.size() < at + sizeof(value)) return false;
    std::memcpy(static_cast<void*>(&value), bytes.data() + at, sizeof(value));
    at += sizeof(value);
    return true;
  };
  Record record;
  if (!take(record)) return false;
  report = LifeReport();
  report.seed = record.seed;
  report.trace_hash = record.trace_hash;
  report.virtual_time = absl::Nanoseconds(record.virtual_ns);
  report.counts = record.counts;
  for (uint64_t i = 0; i < record.num_violations; ++i) {
    Violation violation;
    size_t size = 0;
    if (!take(violation.checker) || !take(size) || bytes.size() < at + size) return false;
    violation.text = bytes.substr(at, size);
    at += size;
    report.violations.push_back(std::move(violation));
  }
  bytes.erase(0, at);
  return true;
}

struct Child {
  pid_t pid = -1;
  int fd = -1;
  std::string bytes;  // read and not decoded
  bool killed = false;
};

class Runner {
 public:
  Runner(const RunnerOptions& options, const std::function<LifeReport(uint64_t)>& live,
         const std::function<bool(const LifeReport&)>& take)
      : options_(options), live_(live), take_(take) {
    TESSERA_CHECK(options.processes >= 1 && options.processes <= kProcessesMax);
    void* memory =
        mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    TESSERA_CHECK(memory != MAP_FAILED) << "no shared memory";
    shared_ = new (memory) Shared();
    shared_->next = options.first;
    children_.resize(static_cast<size_t>(options.processes));
  }
  ~Runner() {
    for (Child& child : children_) Reap(child, /*kill_it=*/true);
    munmap(shared_, sizeof(Shared));
  }

  void Run() {
    for (size_t i = 0; i < children_.size(); ++i) Spawn(i);
    while (going_ && AnyAlive()) {
      PollOnce();
      for (size_t i = 0; i < children_.size(); ++i) KillIfHanging(i);
    }
  }

 private:
  void Spawn(size_t index) {
    int ends[2];
    TESSERA_CHECK(pipe2(ends, O_CLOEXEC) == 0) << "no pipe";
    Child& child = children_[index];
    child = Child();
    shared_->children[index].seed = 0;
    std::fflush(stdout);
    child.pid = fork();
    TESSERA_CHECK(child.pid >= 0) << "no process";
    if (child.pid == 0) {
      close(ends[0]);
      LiveSeeds(index, ends[1]);
      _exit(0);
    }
    close(ends[1]);
    child.fd = ends[0];
  }

  void LiveSeeds(size_t index, int fd) {
    const uint64_t end = options_.first + options_.seeds;
    while (true) {
      const uint64_t seed = shared_->next++;
      if (seed >= end) return;
      shared_->children[index].begun = SecondsNow();
      shared_->children[index].seed = seed;
      const std::string bytes = Encode(live_(seed));
      shared_->children[index].seed = 0;
      WriteAll(fd, bytes);
    }
  }

  bool AnyAlive() const {
    for (const Child& child : children_) {
      if (child.pid > 0) return true;
    }
    return false;
  }

  void PollOnce() {
    std::vector<pollfd> fds;
    std::vector<size_t> indices;
    for (size_t i = 0; i < children_.size(); ++i) {
      if (children_[i].pid <= 0) continue;
      fds.push_back({children_[i].fd, POLLIN, 0});
      indices.push_back(i);
    }
    if (poll(fds.data(), fds.size(), kPollMilliseconds) <= 0) return;
    for (size_t k = 0; k < fds.size() && going_; ++k) {
      if (fds[k].revents != 0) Read(indices[k]);
    }
  }

  void Read(size_t index) {
    Child& child = children_[index];
    char buffer[1 << 16];
    const ssize_t size = read(child.fd, buffer, sizeof(buffer));
    if (size <= 0) return Ended(index);
    child.bytes.append(buffer, static_cast<size_t>(size));
    LifeReport report;
    while (going_ && Decode(child.bytes, report)) going_ = take_(report);
  }

  // The child is done, or died in the middle of a life.
  void Ended(size_t index) {
    Child& child = children_[index];
    const bool killed = child.killed;
    const int status = Reap(child, /*kill_it=*/false);
    const uint64_t seed = shared_->children[index].seed;
    if (seed == 0) return;
    LifeReport report;
    report.seed = seed;
    report.violations.push_back(
        {Checker::kCrash,
         killed
             ? absl::StrCat("takes longer than ", options_.seconds_per_life_max, " s of real time")
         : WIFSIGNALED(status) ? absl::StrCat("died by signal ", WTERMSIG(status))
                               : absl::StrCat("ended with status ", WEXITSTATUS(status))});
    going_ = take_(report);
    if (going_) Spawn(index);
  }

  void KillIfHanging(size_t index) {
    Child& child = children_[index];
    if (child.pid <= 0 || child.killed || shared_->children[index].seed == 0) return;
    if (SecondsNow() - shared_->children[index].begun < options_.seconds_per_life_max) return;
    child.killed = true;
    kill(child.pid, SIGKILL);
  }

  static int Reap(Child& child, bool kill_it) {
    int status = 0;
    if (child.pid <= 0) return status;
    if (kill_it) kill(child.pid, SIGKILL);
    waitpid(child.pid, &status, 0);
    close(child.fd);
    child.pid = -1;
    return status;
  }

  const RunnerOptions& options_;
  const std::function<LifeReport(uint64_t)>& live_;
  const std::function<bool(const LifeReport&)>& take_;
  Shared* shared_ = nullptr;
  std::vector<Child> children_;
  bool going_ = true;
};

}  // namespace

void RunSeeds(const RunnerOptions& options, const std::function<LifeReport(uint64_t seed)>& live,
              const std::function<bool(const LifeReport&)>& take) {
  Runner(options, live, take).Run();
}

}  // namespace tessera::simulation
