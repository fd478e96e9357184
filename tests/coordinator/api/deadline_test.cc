// Deadlines that HTTP clients send as a header: before the first text, in the middle of a stream,
// and nonsense.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "coordinator/api/http/http_call.h"
#include "coordinator/api/status_map.h"
#include "tests/coordinator/api/api_fixture.h"

namespace tessera::api {
namespace {

using nlohmann::json;

class DeadlineTest : public ApiFixture {
 protected:
  void SetUp() override {
    ApiFixture::SetUp();
    executor_->SetStepTime(absl::Milliseconds(2));
    AnswerForever(" the");
  }
  HttpResponse PostWith(const std::string& header, const std::string& body) {
    return Fetch(addresses_.http, "POST", "/v1/completions", body, header + "\r\n");
  }
};

TEST_F(DeadlineTest, WholeAnswersThatCannotBeFinishedAre504) {
  for (const char* header : {"x-request-timeout-ms: 150", "X-Request-Timeout: 0.15"}) {
    const absl::Time start = absl::Now();
    const HttpResponse response = PostWith(header, R"({"prompt":"x"})");
    EXPECT_EQ(response.status, 504) << response.body;
    EXPECT_EQ(response.json()["error"]["code"], "deadline_exceeded");
    EXPECT_GE(absl::Now() - start, absl::Milliseconds(140));
    EXPECT_TRUE(WaitFor([this] { return Running() == 0; }));
  }
}

TEST_F(DeadlineTest, AStreamBeforeItsFirstTextIs504) {
  executor_->Hold(true);
  const HttpResponse response =
      PostWith("x-request-timeout-ms: 50", R"({"prompt":"x","stream":true})");
  EXPECT_EQ(response.status, 504) << response.body;
}

TEST_F(DeadlineTest, AStreamThatHasBegunEndsWithAnErrorEvent) {
  const HttpResponse response =
      PostWith("x-request-timeout-ms: 150", R"({"prompt":"x","stream":true})");
  EXPECT_EQ(response.status, 200);
  const std::vector<std::string> events = response.events();
  ASSERT_GE(events.size(), 2u) << response.body;
  EXPECT_EQ(json::parse(events.front())["choices"][0]["finish_reason"], nullptr);
  EXPECT_EQ(json::parse(events.back())["error"]["code"], "deadline_exceeded");
}

TEST_F(DeadlineTest, OneThatIsFarAwayChangesNothing) {
  EXPECT_EQ(PostWith("x-request-timeout: 60", R"({"prompt":"x","max_tokens":2})").status, 200);
}

TEST_F(DeadlineTest, NonsenseIsRefused) {
  for (const std::string header : {"x-request-timeout-ms", "x-request-timeout"}) {
    for (const char* value : {"soon", "", "0", "-5", "nan", "inf", "1e12", "5 s"}) {
      const HttpResponse response =
          PostWith(absl::StrCat(header, ": ", value), R"({"prompt":"x"})");
      EXPECT_EQ(response.status, 400) << header << " " << value;
      EXPECT_EQ(response.json()["error"]["param"], header);
    }
  }
  EXPECT_EQ(
      PostWith("x-request-timeout: 5\r\nx-request-timeout-ms: 5000", R"({"prompt":"x"})").status,
      400);
  EXPECT_EQ(executor_->sampled(), 0u);
}

TEST(RequestDeadlineTest, CountsFromTheArrival) {
  HttpRequest request;
  request.arrival = absl::FromUnixSeconds(1'000);
  EXPECT_EQ(*RequestDeadline(request), absl::InfiniteFuture());
  request.timeout_ms = "2500";
  EXPECT_EQ(*RequestDeadline(request), absl::FromUnixMillis(1'002'500));
  request.timeout_ms.reset();
  request.timeout_seconds = "2.5";
  EXPECT_EQ(*RequestDeadline(request), absl::FromUnixMillis(1'002'500));
  request.timeout_seconds = "86401";
  EXPECT_EQ(ParamOf(RequestDeadline(request).status()), "x-request-timeout");
}

}  // namespace
}  // namespace tessera::api
