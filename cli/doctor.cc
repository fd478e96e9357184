// See the header. Every finding is one line: "ok", "note" (would be slower or smaller) or "FAIL"
// (would not run), what was met, and what would help.

#include "cli/doctor.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "cli/child_process.h"
#include "models/checkpoint.h"
#include "models/describe.h"
#include "models/memory_plan.h"
#include "models/weight_spec.h"

namespace tessera {
namespace {

using nlohmann::json;

// What a group of ranks on one host exchanges through /dev/shm, generously.
constexpr uint64_t kSharedMemoryWanted = uint64_t{64} << 20;
constexpr uint64_t kOpenFilesWanted = 4096;

class Report {
 public:
  void Ok(const std::string& text) { std::cout << "  ok    " << text << "\n"; }
  void Note(const std::string& text) { std::cout << "  note  " << text << "\n"; }
  void Fail(const std::string& text) {
    std::cout << "  FAIL  " << text << "\n";
    failed_ = true;
  }
  bool failed() const { return failed_; }

 private:
  bool failed_ = false;
};

void CheckCpu(const json& cpu, Report& report) {
  const std::string what =
      absl::StrCat(cpu.value("name", "CPU"), ", ", cpu.value("cores_usable", 0), " of ",
                   cpu.value("cores_online", 0), " cores usable, ", cpu.value("isa", ""));
  if (!cpu.value("avx2", false)) {
    report.Fail(what + ": CPU ranks need AVX2 and FMA (x86-64-v3)");
    return;
  }
  report.Ok(what);
  if (!cpu.value("avx512", false)) report.Note("no AVX-512: CPU ranks compute with AVX2");
  const double quota = cpu.value("cores_quota", 0.0);
  if (quota > 0 && quota < cpu.value("cores_usable", 0)) {
    report.Note(absl::StrCat("the container may use ", quota,
                             " cores only: give --threads so that ranks do not starve each other"));
  }
}

void CheckMemory(const json& memory, Report& report) {
  const uint64_t usable = memory.value("usable_bytes", uint64_t{0});
  const uint64_t now = memory.value("usable_now_bytes", uint64_t{0});
  report.Ok(absl::StrCat("memory: ", FormatBytes(usable), " usable, ", FormatBytes(now), " now"));
  const uint64_t shm = memory.value("shm_free_bytes", uint64_t{0});
  if (shm < kSharedMemoryWanted) {
    report.Fail(absl::StrCat("/dev/shm has ", FormatBytes(shm), " free, ranks of one host want ",
                             FormatBytes(kSharedMemoryWanted),
                             ": mount it larger (containers: --shm-size, or an emptyDir of medium "
                             "Memory)"));
  } else {
    report.Ok(absl::StrCat("/dev/shm: ", FormatBytes(shm), " free"));
  }
}

void CheckGpu(const json& gpu, Report& report) {
  const json nodes = gpu.value("device_nodes", json::array());
  const std::string driver = gpu.value("driver_library", "");
  if (nodes.empty()) {
    report.Note("no NVIDIA GPU: ranks run on the CPU");
    return;
  }
  report.Ok(absl::StrCat(nodes.size(), " GPU device nodes"));
  if (driver.empty()) {
    report.Note("libnvidia-ml.so.1 is not found: install the NVIDIA driver to use the GPUs");
  }
  if (gpu.value("nccl_library", "").empty()) {
    report.Note("libnccl.so.2 is not found: ranks on GPUs need NCCL to talk to each other");
  }
}

bool PortIsFree(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const int yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool free_port = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  return free_port;
}

void CheckSystem(Report& report) {
  rlimit files = {};
  getrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < kOpenFilesWanted) {
    report.Note(absl::StrCat("at most ", files.rlim_cur,
                             " open files, so about as many clients: `ulimit -n ", kOpenFilesWanted,
                             "` allows more"));
  } else {
    report.Ok(absl::StrCat("open files: ", files.rlim_cur));
  }
  const std::pair<int, const char*> doors[] = {
      {8000, "--http-port"}, {50051, "--grpc-port"}, {50052, "--health-port"}};
  for (const auto& [port, flag] : doors) {
    if (!PortIsFree(port)) {
      report.Note(absl::StrCat("port ", port, " is in use: choose another with ", flag));
    }
  }
}

void CheckModel(const DoctorOptions& options, uint64_t memory_bytes, Report& report) {
  const auto fits = [&]() -> absl::StatusOr<MemoryPlan> {
    TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint,
                             Checkpoint::Open(options.model));
    TESSERA_ASSIGN_OR_RETURN(const ModelSpec spec, ParseModelSpec(checkpoint->config_json()));
    TESSERA_RETURN_IF_ERROR(CheckTensorParallel(spec, options.tp));
    TESSERA_RETURN_IF_ERROR(CheckTensors(spec, *checkpoint));
    MemoryRequest request;
    request.tp = options.tp;
    if (spec.checkpoint_dtype == DType::kFloat32) request.dtype = DType::kFloat32;
    request.kv_dtype = request.dtype;
    request.budget_bytes = memory_bytes / static_cast<uint64_t>(options.tp);
    return PlanMemory(spec, request);
  };
  const absl::StatusOr<MemoryPlan> plan = fits();
  if (!plan.ok()) {
    report.Fail(absl::StrCat(options.model, ": ", plan.status().message()));
    return;
  }
  report.Ok(absl::StrCat(options.model, " fits on ", options.tp, " CPU ranks here, with room for ",
                         plan->kv_tokens, " tokens of KV cache"));
}

absl::Status Examine(const DoctorOptions& options, Report& report) {
  TESSERA_ASSIGN_OR_RETURN(const std::string worker, SiblingProgram("tessera-worker"));
  TESSERA_RETURN_IF_ERROR(SiblingProgram("tessera-coordinator").status());
  TESSERA_ASSIGN_OR_RETURN(const std::string output, OutputOf({worker, "--probe"}));
  const json facts = json::parse(output, nullptr, false);
  if (!facts.is_object()) return absl::InternalError("the worker's probe printed no JSON");
  const json memory = facts.value("memory", json::object());
  CheckCpu(facts.value("cpu", json::object()), report);
  CheckMemory(memory, report);
  CheckGpu(facts.value("gpu", json::object()), report);
  CheckSystem(report);
  if (!options.model.empty()) {
    CheckModel(options, memory.value("usable_now_bytes", uint64_t{0}), report);
  }
  return absl::OkStatus();
}

}  // namespace

CLI::App* AddDoctorCommand(CLI::App& app, DoctorOptions& options) {
  CLI::App* command =
      app.add_subcommand("doctor", "Say what this machine has and what would go wrong");
  CLI::Option* model =
      command->add_option("--model", options.model, "Also check whether this model fits here");
  command->add_option("--tp", options.tp, "with that many CPU ranks: 1, 2, 4 or 8 [1]")
      ->check(CLI::IsMember({1, 2, 4, 8}))
      ->needs(model);
  return command;
}

int RunDoctor(const DoctorOptions& options) {
  Report report;
  const absl::Status status = Examine(options, report);
  if (!status.ok()) report.Fail(std::string(status.message()));
  std::cout << (report.failed() ? "\nsomething stands in the way, see FAIL above\n"
                                : "\na cluster can run here\n");
  return report.failed() ? 1 : 0;
}

}  // namespace tessera
