// See the header.

#include "coordinator/launcher_link.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <optional>

namespace tessera {
namespace {

std::optional<WorkerGone> ParseLine(const std::string& line) {
  const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  const auto text = [&json](const char* name) {
    const auto found = json.find(name);
    return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  if (!json.is_object() || text("event") != "gone" || text("worker").empty()) return std::nullopt;
  return WorkerGone{.worker = text("worker"), .reason = text("reason")};
}

}  // namespace

LauncherLink::LauncherLink(int fd) : fd_(fd) {
  if (fd_ >= 0) fcntl(fd_, F_SETFL, fcntl(fd_, F_GETFL) | O_NONBLOCK);
}

LauncherLink::~LauncherLink() { Close(); }

void LauncherLink::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

std::vector<WorkerGone> LauncherLink::Take() {
  char buffer[kLauncherLineBytesMax];
  ssize_t n = 0;
  while (fd_ >= 0 && (n = read(fd_, buffer, sizeof(buffer))) > 0) {
    pending_.append(buffer, static_cast<size_t>(n));
  }
  const bool ended = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
  if (fd_ >= 0 && ended) Close();

  std::vector<WorkerGone> gone;
  size_t end = 0;
  while ((end = pending_.find('\n')) != std::string::npos) {
    const std::string line = pending_.substr(0, end);
    pending_.erase(0, end + 1);
    if (auto parsed = ParseLine(line)) {
      gone.push_back(*std::move(parsed));
    } else {
      spdlog::warn("--control-fd: not understood: {}", line.substr(0, 200));
    }
  }
  if (pending_.size() > kLauncherLineBytesMax) {
    spdlog::error("--control-fd: a line of more than {} bytes; it is not read any more",
                  kLauncherLineBytesMax);
    pending_.clear();
    Close();
  }
  return gone;
}

}  // namespace tessera
