// Log lines as JSON objects, one per line, for collectors: time, level, logger, message, and the id
// of the request where the message begins with "request ID". For the programs' main.

#ifndef TESSERA_BASE_JSON_LOG_H_
#define TESSERA_BASE_JSON_LOG_H_

#include <spdlog/formatter.h>

#include <memory>

namespace tessera {

class JsonLogFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& line) override;
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonLogFormatter>();
  }
};

}  // namespace tessera

#endif  // TESSERA_BASE_JSON_LOG_H_
