// See the header.

#include "coordinator/status_board.h"

#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"

namespace tessera {
namespace {

std::string ToJsonLine(const Notice& notice, const std::string& model) {
  nlohmann::json line = {{"event", NoticeKindName(notice.kind)},
                         {"group", notice.group},
                         {"model", model},
                         {"rank", notice.rank},
                         {"epoch", notice.epoch}};
  if (!notice.worker.empty()) line["worker"] = notice.worker;
  if (!notice.text.empty()) line["text"] = notice.text;
  if (!notice.status.ok()) line["error"] = std::string(notice.status.message());
  if (notice.kind == Notice::Kind::kLoading) {
    line["bytes_read"] = notice.bytes_read;
    line["bytes_total"] = notice.bytes_total;
  }
  if (notice.seconds > 0) line["seconds"] = notice.seconds;
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

StatusBoard::StatusBoard(std::vector<std::string> model_names, int ranks, int status_fd,
                         Metrics& metrics)
    : model_names_(std::move(model_names)),
      ranks_(ranks),
      status_fd_(status_fd),
      wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      metrics_(metrics),
      ready_(model_names_.size(), false),
      lost_groups_(model_names_.size(), ranks) {
  TESSERA_CHECK(wake_fd_ >= 0) << "eventfd";
}

StatusBoard::~StatusBoard() { close(wake_fd_); }

void StatusBoard::Tell(const Notice& notice) {
  Log(notice);
  const bool up = notice.kind == Notice::Kind::kReady;
  const bool down = notice.kind == Notice::Kind::kLost;
  if (up || down) {
    for (int rank = 0; rank < ranks_; ++rank) {
      metrics_.SetRankUp(notice.group, static_cast<uint32_t>(rank), up);
    }
  }
  if (up) metrics_.SetGroupLoadTime(notice.group, notice.group, notice.seconds);
  WriteLine(ToJsonLine(notice, model_names_.at(notice.group)));
  {
    absl::MutexLock lock(&mutex_);
    if (up || down) ready_[notice.group] = up;
    if (notice.kind == Notice::Kind::kLoadFailed) load_failure_ = notice.status;
    lost_groups_.Apply(notice);
  }
  eventfd_write(wake_fd_, 1);
}

void StatusBoard::OnWorkerGone(const WorkerGone& gone) {
  absl::MutexLock lock(&mutex_);
  lost_groups_.OnWorkerGone(gone);
}

std::vector<LostGroups::Change> StatusBoard::TakeLosses() {
  absl::MutexLock lock(&mutex_);
  return lost_groups_.TakeChanges();
}

void StatusBoard::WriteLine(const std::string& json) {
  if (status_fd_ < 0) return;
  const std::string line = json + "\n";
  absl::MutexLock lock(&mutex_);
  // A reader that went away is no reason to stop serving.
  if (write(status_fd_, line.data(), line.size()) < 0) return;
}

bool StatusBoard::AllReady() const {
  absl::MutexLock lock(&mutex_);
  return std::all_of(ready_.begin(), ready_.end(), [](bool ready) { return ready; });
}

absl::Status StatusBoard::LoadFailure() const {
  absl::MutexLock lock(&mutex_);
  return load_failure_;
}

void StatusBoard::Log(const Notice& notice) const {
  const std::string& model = model_names_.at(notice.group);
  switch (notice.kind) {
    case Notice::Kind::kJoined:
      spdlog::info("worker {} joined", notice.worker);
      break;
    case Notice::Kind::kWaiting:
      spdlog::info("{}", notice.text);
      break;
    case Notice::Kind::kPlan:
      spdlog::info("model {}: memory of one rank\n{}", model, notice.text);
      break;
    case Notice::Kind::kLoading:
      spdlog::debug("model {} rank {}: {} of {} bytes read", model, notice.rank, notice.bytes_read,
                    notice.bytes_total);
      break;
    case Notice::Kind::kReady:
      spdlog::info("model {}: group {} is ready, epoch {}, after {:.2f} s", model, notice.group,
                   notice.epoch, notice.seconds);
      break;
    case Notice::Kind::kLost:
      spdlog::warn("model {}: group {} lost in epoch {}: {}", model, notice.group, notice.epoch,
                   std::string(notice.status.message()));
      break;
    case Notice::Kind::kLoadFailed:
      spdlog::error("model {} cannot be loaded: {}", model, std::string(notice.status.message()));
      break;
    case Notice::Kind::kLeft:
      spdlog::info("worker {} left: {}", notice.worker, notice.text);
      break;
  }
}

}  // namespace tessera
