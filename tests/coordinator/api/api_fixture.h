// A whole coordinator without ranks: real engine, real scheduler, real tokenizer (of the demo
// model), real sockets on port 0; the ranks are a script.

#ifndef TESSERA_TESTS_COORDINATOR_API_API_FIXTURE_H_
#define TESSERA_TESTS_COORDINATOR_API_API_FIXTURE_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "coordinator/api/api_server.h"
#include "coordinator/engine/engine.h"
#include "coordinator/telemetry/metrics.h"
#include "tests/coordinator/api/scripted_executor.h"
#include "tests/coordinator/api/socket_client.h"

namespace tessera::api {

// The demo model as a front door sees it, with a context of 512 tokens.
ServedModel DemoModel(const std::string& name = "demo");
std::vector<int32_t> Encode(const ServedModel& model, const std::string& text);

class ApiFixture : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;
  // What tests change before the doors open.
  virtual void Configure(ApiOptions*, SchedulerOptions*) {}

  // Every request is answered with this text, then the end token.
  void AnswerWith(const std::string& text);
  // Choice i of every request is answered with texts[i], then the end token.
  void AnswerChoicesWith(const std::vector<std::string>& texts);
  // Every request is answered with this token again and again.
  void AnswerForever(const std::string& word);
  bool WaitFor(const std::function<bool()>& condition);
  int64_t Running() const { return engine_->Stats().running; }

  HttpResponse Post(const std::string& path, const std::string& body) {
    return Fetch(addresses_.http, "POST", path, body);
  }
  HttpResponse Get(const std::string& path) { return Fetch(addresses_.http, "GET", path); }

  const RealClock clock_{};
  ServedModel model_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<ScriptedExecutor> executor_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ApiServer> server_;
  ApiAddresses addresses_;
};

}  // namespace tessera::api

#endif  // TESSERA_TESTS_COORDINATOR_API_API_FIXTURE_H_
