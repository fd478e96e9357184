// What `tessera serve` shows: plan, progress, routes, notes. A moving bar on a terminal, whole
// lines elsewhere.

#ifndef TESSERA_CLI_SERVE_SCREEN_H_
#define TESSERA_CLI_SERVE_SCREEN_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

namespace tessera {

class ServeScreen {
 public:
  ServeScreen();

  void Model(const std::string& model, const std::string& architecture,
             const std::string& directory, const std::string& license);
  void Plan(const std::string& model, const std::string& table);
  void Loading(int group, int rank, uint64_t bytes_read, uint64_t bytes_total, double seconds);
  void Ready(const std::string& http, const std::string& grpc, const std::string& health,
             const std::string& console);
  void Note(const std::string& text);
  void Error(const std::string& text);

 private:
  struct Progress {
    uint64_t bytes_read = 0;
    uint64_t bytes_total = 0;
    double seconds = 0;
  };
  void EndBar();

  const bool terminal_;
  const std::chrono::steady_clock::time_point start_;
  std::map<std::pair<int, int>, Progress> progress_;  // by group and rank
  int last_tenth_ = -1;                               // shown so far, when not on a terminal
  bool bar_open_ = false;
};

}  // namespace tessera

#endif  // TESSERA_CLI_SERVE_SCREEN_H_
