// See the header.

#include "cli/serve_screen.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace tessera {
namespace {

constexpr int kBarWidth = 30;  // characters

}  // namespace

ServeScreen::ServeScreen()
    : terminal_(isatty(STDOUT_FILENO) == 1), start_(std::chrono::steady_clock::now()) {}

void ServeScreen::Model(const std::string& model, const std::string& architecture,
                        const std::string& directory, const std::string& license) {
  EndBar();
  std::printf("Model %s: %s, licence %s\n  %s\n", model.c_str(), architecture.c_str(),
              license.c_str(), directory.c_str());
  std::fflush(stdout);
}

void ServeScreen::Plan(const std::string& model, const std::string& table) {
  EndBar();
  std::printf("Model %s, memory of one rank:\n%s\n", model.c_str(), table.c_str());
  std::fflush(stdout);
}

void ServeScreen::Loading(int group, int rank, uint64_t bytes_read, uint64_t bytes_total,
                          double seconds) {
  progress_[{group, rank}] = {bytes_read, bytes_total, seconds};
  Progress all;
  for (const auto& [key, one] : progress_) {
    all.bytes_read += one.bytes_read;
    all.bytes_total += one.bytes_total;
    all.seconds = std::max(all.seconds, one.seconds);
  }
  if (all.bytes_total == 0) return;
  const double done = static_cast<double>(all.bytes_read) / static_cast<double>(all.bytes_total);
  const double gigabytes = static_cast<double>(all.bytes_read) / 1e9;
  const double rate = all.seconds > 0 ? gigabytes / all.seconds : 0;
  if (terminal_) {
    const int filled = static_cast<int>(done * kBarWidth);
    std::printf("\rLoading weights [%s%s] %3.0f %%  %.2f GB  %.2f GB/s ",
                std::string(static_cast<size_t>(filled), '#').c_str(),
                std::string(static_cast<size_t>(kBarWidth - filled), '.').c_str(), done * 100,
                gigabytes, rate);
    bar_open_ = true;
  } else if (const int tenth = static_cast<int>(done * 10); tenth > last_tenth_) {
    last_tenth_ = tenth;
    std::printf("Loading weights: %.0f %%, %.3f GB, %.2f GB/s\n", done * 100, gigabytes, rate);
  }
  std::fflush(stdout);
}

void ServeScreen::Ready(const std::string& http, const std::string& grpc, const std::string& health,
                        const std::string& console) {
  EndBar();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  std::printf(
      "Routes\n"
      "  POST http://%s/v1/chat/completions   POST /v1/completions\n"
      "  GET  http://%s/v1/models             GET  /metrics /readyz /livez /version\n"
      "  POST http://%s/tokenize              POST /detokenize\n"
      "  gRPC %s  tessera.v1.Tessera\n"
      "  gRPC %s  grpc.health.v1.Health\n"
      "%s%s%s"
      "ready in %.1f s - Ctrl-C stops\n",
      http.c_str(), http.c_str(), http.c_str(), grpc.c_str(), health.c_str(),
      console.empty() ? "" : "  Console ", console.c_str(), console.empty() ? "" : "\n", seconds);
  std::fflush(stdout);
}

void ServeScreen::Note(const std::string& text) {
  EndBar();
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
}

void ServeScreen::Error(const std::string& text) {
  EndBar();
  std::fprintf(stderr, "error: %s\n", text.c_str());
}

void ServeScreen::EndBar() {
  if (bar_open_) std::printf("\n");
  bar_open_ = false;
}

}  // namespace tessera
