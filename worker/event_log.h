// The worker's log: one line per event on stderr, each saying which worker and, while it has one,
// which group, rank and epoch speak. Owned by main, handed down; any thread may write.

#ifndef TESSERA_WORKER_EVENT_LOG_H_
#define TESSERA_WORKER_EVENT_LOG_H_

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/json_log.h"

namespace tessera {

class EventLog {
 public:
  EventLog(const std::string& worker_name, spdlog::level::level_enum level, bool json = false)
      : logger_("worker", std::make_shared<spdlog::sinks::stderr_sink_mt>()), name_(worker_name) {
    logger_.set_level(level);
    if (json) {
      logger_.set_formatter(std::make_unique<JsonLogFormatter>());
    } else {
      logger_.set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
    }
    logger_.flush_on(spdlog::level::trace);
  }

  void SetRank(uint32_t group, uint32_t rank, uint64_t epoch) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    rank_ = absl::StrCat(" group=", group, " rank=", rank, " epoch=", epoch);
  }
  void ClearRank() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    rank_.clear();
  }

  template <typename... Args>
  void Debug(const Args&... args) {
    Write(spdlog::level::debug, absl::StrCat(args...));
  }
  template <typename... Args>
  void Info(const Args&... args) {
    Write(spdlog::level::info, absl::StrCat(args...));
  }
  template <typename... Args>
  void Warn(const Args&... args) {
    Write(spdlog::level::warn, absl::StrCat(args...));
  }
  template <typename... Args>
  void Error(const Args&... args) {
    Write(spdlog::level::err, absl::StrCat(args...));
  }

 private:
  void Write(spdlog::level::level_enum level, const std::string& text) ABSL_LOCKS_EXCLUDED(mutex_) {
    std::string rank;
    {
      absl::MutexLock lock(&mutex_);
      rank = rank_;
    }
    logger_.log(level, "worker={}{} {}", name_, rank, text);
  }

  spdlog::logger logger_;
  const std::string name_;
  absl::Mutex mutex_;
  std::string rank_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_WORKER_EVENT_LOG_H_
