// tessera-comm-bench: microseconds per all-reduce between processes of this machine, per transport,
// group size and message size. Each rank is forked; the parent relays the blobs and prints what
// rank 0 measured: every call timed on its own, back to back, so a call includes the wait for the
// slowest rank.

#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/ops.h"
#include "worker/comm/blob.h"
#include "worker/comm/comm_builder.h"

namespace tessera {
namespace {

using cluster::v1::CommKind;

struct Settings {
  int rounds = 2000;
  std::vector<int> ranks = {2, 4};
  size_t kib_min = 8;
  size_t kib_max = 1024;
};

// Microseconds.
struct Result {
  double median = 0;
  double p99 = 0;
};

// Blobs travel in frames of one size, so a pipe needs no framing.
using Frame = std::array<char, kCommBlobBytesMax + sizeof(uint64_t)>;

void SendBlob(int fd, const std::string& blob) {
  Frame frame = {};
  const uint64_t bytes = blob.size();
  std::memcpy(frame.data(), &bytes, sizeof(bytes));
  std::memcpy(frame.data() + sizeof(bytes), blob.data(), blob.size());
  TESSERA_CHECK(write(fd, frame.data(), frame.size()) == static_cast<ssize_t>(frame.size()));
}

std::string ReceiveBlob(int fd) {
  Frame frame;
  for (size_t done = 0; done < frame.size();) {
    const ssize_t n = read(fd, frame.data() + done, frame.size() - done);
    TESSERA_CHECK(n > 0) << "a rank has gone";
    done += static_cast<size_t>(n);
  }
  uint64_t bytes = 0;
  std::memcpy(&bytes, frame.data(), sizeof(bytes));
  TESSERA_CHECK(bytes <= kCommBlobBytesMax);
  return std::string(frame.data() + sizeof(bytes), bytes);
}

Result Measure(Communicator& comm, size_t floats, int rounds) {
  using Clock = std::chrono::steady_clock;
  std::vector<float> data(floats, 0.0f);
  const TensorView view(data.data(), DType::kFloat32, {static_cast<int64_t>(floats)});
  std::vector<double> micros;
  for (int i = -rounds / 10; i < rounds; ++i) {
    const auto start = Clock::now();
    const absl::Status status = comm.AllReduce(ExecContext(), view);
    TESSERA_CHECK(status.ok()) << status;
    const std::chrono::duration<double, std::micro> took = Clock::now() - start;
    if (i >= 0) micros.push_back(took.count());  // the first tenth warms up
  }
  std::sort(micros.begin(), micros.end());
  return {micros[micros.size() / 2], micros[micros.size() * 99 / 100]};
}

std::vector<size_t> Sizes(const Settings& settings) {
  std::vector<size_t> sizes;
  for (size_t kib = settings.kib_min; kib <= settings.kib_max; kib *= 2)
    sizes.push_back(kib * 1024);
  return sizes;
}

// In the child of one rank: connects, measures every size, rank 0 prints.
void RunRank(const CommOptions& options, const Settings& settings, int in, int out) {
  const std::unique_ptr<Ops> ops = std::move(NewCpuOps()).value();
  CommBuilder builder = std::move(CommBuilder::Create(options, *ops)).value();
  SendBlob(out, builder.hello());
  std::vector<std::string> blobs;
  for (int r = 0; r < options.size; ++r) blobs.push_back(ReceiveBlob(in));
  const std::unique_ptr<Communicator> comm = std::move(builder).Connect(blobs).value();
  for (const size_t bytes : Sizes(settings)) {
    const Result result = Measure(*comm, bytes / sizeof(float), settings.rounds);
    if (options.rank != 0) continue;
    std::printf("%-6s %5d %8zu %10.1f %10.1f\n",
                options.kind == cluster::v1::COMM_GLOO ? "gloo" : "shm", options.size, bytes / 1024,
                result.median, result.p99);
    std::fflush(stdout);
  }
}

void RunGroup(CommKind kind, int size, const Settings& settings) {
  std::vector<std::pair<int, int>> pipes;  // of each rank: to it, from it
  std::vector<pid_t> children;
  for (int rank = 0; rank < size; ++rank) {
    int down[2], up[2];
    TESSERA_CHECK(pipe(down) == 0 && pipe(up) == 0);
    const pid_t child = fork();
    TESSERA_CHECK(child >= 0) << "fork";
    if (child == 0) {
      close(down[1]);
      close(up[0]);
      CommOptions options;
      options.kind = kind;
      options.rank = rank;
      options.size = size;
      if (kind == cluster::v1::COMM_GLOO) options.gloo_host = "127.0.0.1";
      RunRank(options, settings, down[0], up[1]);
      _exit(0);
    }
    close(down[0]);
    close(up[1]);
    pipes.emplace_back(down[1], up[0]);
    children.push_back(child);
  }
  std::vector<std::string> blobs;
  for (const auto& [to, from] : pipes) blobs.push_back(ReceiveBlob(from));
  for (const auto& [to, from] : pipes) {
    for (const std::string& blob : blobs) SendBlob(to, blob);
  }
  for (const pid_t child : children) waitpid(child, nullptr, 0);
  for (const auto& [to, from] : pipes) {
    close(to);
    close(from);
  }
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::Settings settings;
  bool gloo = true;
  CLI::App app("Microseconds per all-reduce between processes of this machine.");
  app.add_option("--rounds", settings.rounds, "calls per size")->check(CLI::Range(100, 1000000));
  app.add_option("--ranks", settings.ranks, "group sizes");
  app.add_option("--min-kib", settings.kib_min, "smallest message")->check(CLI::Range(1, 65536));
  app.add_option("--max-kib", settings.kib_max, "largest message")->check(CLI::Range(1, 65536));
  app.add_flag("--gloo,!--no-gloo", gloo, "also measure gloo over 127.0.0.1");
  CLI11_PARSE(app, argc, argv);
  std::printf("kind   ranks      KiB  median us     p99 us\n");
  std::fflush(stdout);
  for (const int ranks : settings.ranks) {
    tessera::RunGroup(tessera::cluster::v1::COMM_SHARED_MEMORY, ranks, settings);
    if (gloo) tessera::RunGroup(tessera::cluster::v1::COMM_GLOO, ranks, settings);
  }
  return 0;
}
