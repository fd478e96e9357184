// Opening and shutting the doors.

#include "coordinator/api/api_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "tests/coordinator/api/api_fixture.h"

namespace tessera::api {
namespace {

using testing::HasSubstr;

using ApiServerTest = ApiFixture;

TEST_F(ApiServerTest, PortsThatAreTakenAreNamed) {
  for (const bool http : {true, false}) {
    ApiOptions options;
    options.http_address = http ? addresses_.http : "";
    options.grpc_address = http ? "" : addresses_.grpc;
    ApiServer second(options, {model_}, *engine_, clock_, *metrics_);
    const absl::Status status = second.Start().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    const std::string message(status.message());
    EXPECT_THAT(message, HasSubstr(http ? addresses_.http : addresses_.grpc));
    EXPECT_THAT(message, HasSubstr("already in use"));
    EXPECT_THAT(message, HasSubstr("port 0"));
  }
}

TEST_F(ApiServerTest, BadAddressesAreRefused) {
  ApiOptions options;
  options.http_address = "8000";
  ApiServer server(options, {model_}, *engine_, clock_, *metrics_);
  EXPECT_EQ(server.Start().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ApiServerTest, DoorsThatStayShut) {
  ApiOptions options;
  options.http_address = "127.0.0.1:0";
  options.grpc_address = "";
  ApiServer server(options, {model_}, *engine_, clock_, *metrics_);
  const auto addresses = server.Start();
  ASSERT_TRUE(addresses.ok()) << addresses.status();
  EXPECT_EQ(Fetch(addresses->http, "GET", "/livez").status, 200);
  EXPECT_EQ(addresses->grpc, "");
  EXPECT_EQ(addresses->health, "");
}

TEST_F(ApiServerTest, StopCutsOffWhatIsOpenAndCancelsIt) {
  executor_->SetStepTime(absl::Milliseconds(2));
  AnswerForever(" the");
  SocketClient stream(addresses_.http);
  stream.SendRequest("POST", "/v1/completions", R"({"prompt":"x","stream":true})");
  SocketClient idle(addresses_.http);
  ASSERT_EQ(idle.Request("GET", "/livez").status, 200);
  ASSERT_TRUE(stream.ReadUntil("\" the"));
  const absl::Time start = absl::Now();
  server_->Stop();
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
  EXPECT_TRUE(stream.ReadToEnd());
  EXPECT_TRUE(idle.ReadToEnd());
  EXPECT_TRUE(WaitFor([this] { return Running() == 0; }));
  EXPECT_FALSE(SocketClient(addresses_.http).connected());
  server_->Stop();  // again does nothing
}

TEST_F(ApiServerTest, AWakeAfterTheEndGoesNowhere) {
  executor_->Hold(true);
  SocketClient client(addresses_.http);
  client.SendRequest("POST", "/v1/completions", R"({"prompt":"x","stream":true})");
  ASSERT_TRUE(WaitFor([this] { return Running() == 1; }));
  server_.reset();
  executor_->Hold(false);  // the engine still has updates for a stream that nobody reads
  EXPECT_TRUE(WaitFor([this] { return Running() == 0; }));
}

}  // namespace
}  // namespace tessera::api
