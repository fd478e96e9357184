// Log lines as JSON.

#include "base/json_log.h"

#include <gtest/gtest.h>
#include <spdlog/details/log_msg.h>

#include <chrono>
#include <string>

namespace tessera {
namespace {

std::string Format(const std::string& text) {
  spdlog::details::log_msg message("worker", spdlog::level::warn, text);
  message.time = std::chrono::system_clock::time_point(std::chrono::milliseconds(1700000000123));
  spdlog::memory_buf_t line;
  JsonLogFormatter().clone()->format(message, line);
  return {line.data(), line.size()};
}

constexpr char kBegin[] =
    R"({"time":"2023-11-14T22:13:20.123000Z","level":"warning","logger":"worker",)";

TEST(JsonLogTest, ALineIsAnObject) {
  EXPECT_EQ(Format("ready"), std::string(kBegin) + "\"message\":\"ready\"}\n");
}

TEST(JsonLogTest, TheRequestHasAFieldOfItsOwn) {
  EXPECT_EQ(Format("request req-1 Chat failed: x"),
            std::string(kBegin) +
                "\"request_id\":\"req-1\",\"message\":\"request req-1 Chat failed: x\"}\n");
}

TEST(JsonLogTest, NothingBreaksTheLine) {
  EXPECT_EQ(Format("a\"b\\c\nd\xc3\xa9"),
            std::string(kBegin) + "\"message\":\"a\\\"b\\\\c\\u000ad\\u00c3\\u00a9\"}\n");
}

}  // namespace
}  // namespace tessera
