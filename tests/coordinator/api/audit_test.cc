// Lines of the audit log.

#include "coordinator/api/audit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

namespace tessera::api {
namespace {

const absl::Time kNow = absl::FromUnixMillis(1'700'000'000'123);

AuditLine Line() {
  AuditLine line;
  line.request_id = "req-1";
  line.trace_id = "0af7651916cd43dd8448eb211c80319c";
  line.door = "http";
  line.method = "POST /v1/completions";
  line.status = "200";
  line.seconds = 0.0123456;
  return line;
}

std::string Read(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(AuditTest, ALineSaysWhoAskedForWhatAndWhatBecameOfIt) {
  AuditLine line = Line();
  line.facts = {.tenant = "acme",
                .model = "demo",
                .generation = "cmpl-1",
                .finished = true,
                .prompt_tokens = 5,
                .cached_tokens = 4,
                .output_tokens = 3};
  EXPECT_EQ(ToJson(line, kNow),
            R"({"time":"2023-11-14T22:13:20.123Z","event":"request","request_id":"req-1",)"
            R"("trace_id":"0af7651916cd43dd8448eb211c80319c","door":"http",)"
            R"("method":"POST /v1/completions","status":"200","milliseconds":12.35,)"
            R"("tenant":"acme","model":"demo","id":"cmpl-1","prompt_tokens":5,"cached_tokens":4,)"
            R"("output_tokens":3})");
}

TEST(AuditTest, WhatIsNotKnownIsNotThere) {
  const auto json = nlohmann::json::parse(ToJson(Line(), kNow));
  for (const char* key : {"tenant", "model", "id", "output_tokens"})
    EXPECT_FALSE(json.contains(key));
}

TEST(AuditTest, WhatClientsChooseIsEscapedAndBounded) {
  AuditLine line = Line();
  line.request_id = std::string(1000, 'x');
  line.method = "GET \"\n\xff/";
  const std::string text = ToJson(line, kNow);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["request_id"].get<std::string>().size(), 256u);
}

TEST(AuditTest, AFileIsAppendedTo) {
  const std::string path = ::testing::TempDir() + "audit_test.log";
  std::remove(path.c_str());
  for (int start = 0; start < 2; ++start) {
    auto log = AuditLog::Open(path);
    ASSERT_TRUE(log.ok()) << log.status();
    (*log)->Write(Line(), kNow);
    EXPECT_EQ(Read(path), [&] {
      std::string all;
      for (int i = 0; i <= start; ++i) all += ToJson(Line(), kNow) + "\n";
      return all;
    }());
  }
  std::remove(path.c_str());
}

TEST(AuditTest, AFileThatCannotBeWrittenIsNamed) {
  const auto log = AuditLog::Open("/dev/null/audit.log");
  ASSERT_FALSE(log.ok());
  EXPECT_THAT(std::string(log.status().message()), ::testing::HasSubstr("/dev/null/audit.log"));
  ASSERT_TRUE(AuditLog::Open("off").ok());
}

}  // namespace
}  // namespace tessera::api
