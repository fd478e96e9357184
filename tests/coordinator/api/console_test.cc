// The console's routes: the page and its files as they lie in the tree, the state it draws, who may
// see which of them, and the flag that takes them away.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "coordinator/console/console_assets.h"
#include "coordinator/tenants/tenant_limits.h"
#include "tests/coordinator/api/api_fixture.h"

namespace tessera::api {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

constexpr char kKey[] = "Authorization: Bearer acme-key\r\n";

std::string FileOfTheTree(std::string_view name) {
  std::ifstream file(std::string(TESSERA_SOURCE_DIR "/coordinator/console/").append(name),
                     std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

class ConsoleTest : public ApiFixture {
 protected:
  void Configure(ApiOptions* options, SchedulerOptions*) override {
    options->console = console_;
    options->http_address = address_;
    limits_ = std::make_unique<TenantLimits>(*metrics_);
    Tenant acme, open;
    acme.name = "acme";
    open.name = "default";
    limits_->Configure(std::vector<Tenant>{acme, open});
    options->limits = limits_.get();
    if (!keys_) return;
    options->authenticate = [](std::string_view key) -> absl::StatusOr<Caller> {
      Caller caller;
      caller.tenant = "acme";
      if (key == "acme-key") return caller;
      caller.models = {"another-model"};
      if (key == "stranger-key") return caller;
      return absl::UnauthenticatedError("no such key");
    };
  }
  void TearDown() override {
    ApiFixture::TearDown();
    limits_.reset();
  }

  std::optional<bool> console_;
  std::string address_ = "127.0.0.1:0";
  bool keys_ = false;
  std::unique_ptr<TenantLimits> limits_;
};

struct KeysConsoleTest : ConsoleTest {
  KeysConsoleTest() { keys_ = true; }
};
struct NoConsoleTest : ConsoleTest {
  NoConsoleTest() { console_ = false; }
};
struct PublicConsoleTest : ConsoleTest {
  PublicConsoleTest() { address_ = "0.0.0.0:0"; }
};
struct AskedForConsoleTest : PublicConsoleTest {
  AskedForConsoleTest() { console_ = true; }
};

TEST_F(ConsoleTest, ThePageIsTheFilesOfTheTree) {
  EXPECT_EQ(addresses_.console, "http://" + addresses_.http + "/");
  ASSERT_GE(ConsoleAssets().size(), 3u);
  for (const ConsoleAsset& asset : ConsoleAssets()) {
    const bool page = asset.name == "index.html";
    const HttpResponse reply = Get(page ? "/" : "/console/files/" + std::string(asset.name));
    EXPECT_EQ(reply.status, 200) << asset.name;
    EXPECT_EQ(reply.body, FileOfTheTree(asset.name)) << asset.name;
    EXPECT_EQ(reply.headers.at("content-type"), asset.content_type);
    EXPECT_EQ(reply.headers.at("x-content-type-options"), "nosniff");
    const std::string& policy = reply.headers.at("content-security-policy");
    EXPECT_THAT(policy, HasSubstr("default-src 'none'"));
    EXPECT_THAT(policy, HasSubstr("script-src 'self';"));
    EXPECT_THAT(policy, Not(HasSubstr("unsafe")));
    EXPECT_THAT(policy, Not(HasSubstr("http")));
  }
  EXPECT_THAT(Get("/").headers.at("content-type"), HasSubstr("text/html"));
  for (const char* none : {"/console/files/", "/console/files/nothing.js", "/console",
                           "/console/files/../state", "/console/files/%2e%2e/console.js"}) {
    EXPECT_EQ(Get(none).status, 404) << none;
  }
  EXPECT_EQ(Post("/", "{}").status, 405);
  EXPECT_EQ(Post("/console/state", "{}").headers.at("allow"), "GET");
}

// What the policy forbids is not there in the first place, and the page asks only for what there
// is.
TEST_F(ConsoleTest, ThePageNamesOnlyFilesThatAreServed) {
  const std::string page = Get("/").body;
  for (const char* bad :
       {"<script>", "javascript:", " onclick=", " onload=", " style=", "https:"}) {
    EXPECT_THAT(page, Not(HasSubstr(bad)));
  }
  for (const char* name : {"console.css", "console.js"}) {
    EXPECT_THAT(page, HasSubstr("\"console/files/" + std::string(name) + "\""));
  }
  for (const ConsoleAsset& asset : ConsoleAssets()) {
    if (!absl::EndsWith({asset.name.data(), asset.name.size()}, ".js")) continue;
    EXPECT_THAT(std::string(asset.content), Not(HasSubstr("innerHTML"))) << asset.name;
    EXPECT_THAT(std::string(asset.content), Not(HasSubstr("https://"))) << asset.name;
  }
}

TEST_F(ConsoleTest, TheStateIsTheEnginesOwn) {
  const json idle = Get("/console/state").json();
  EXPECT_TRUE(idle["ready"].get<bool>());
  EXPECT_FALSE(idle["draining"].get<bool>());
  ASSERT_EQ(idle["models"].size(), 1u);
  EXPECT_EQ(idle["models"][0]["name"], "demo");
  EXPECT_EQ(idle["models"][0]["running"], 0);
  ASSERT_EQ(idle["groups"].size(), 1u);
  EXPECT_EQ(idle["groups"][0]["model"], "demo");
  EXPECT_TRUE(idle["groups"][0]["ready"].get<bool>());
  ASSERT_EQ(idle["groups"][0]["kv"].size(), model_.spec.kv_groups.size());
  EXPECT_EQ(idle["groups"][0]["kv"][0]["total"], 4096);
  EXPECT_EQ(idle["groups"][0]["kv"][0]["held"], 0);
  EXPECT_EQ(idle["tenants"].size(), 2u);
  EXPECT_EQ(idle["tenants"][0]["in_flight"], 0);

  AnswerForever(" word");
  SocketClient client(addresses_.http);
  const std::string secret = "a word that nobody may see elsewhere";
  client.SendRequest("POST", "/v1/completions",
                     json({{"prompt", secret}, {"stream", true}, {"max_tokens", 400}}).dump());
  ASSERT_TRUE(WaitFor([this] { return Running() == 1; }));
  std::string body;
  ASSERT_TRUE(WaitFor([&] {
    body = Get("/console/state").body;
    return json::parse(body)["groups"][0]["kv"][0]["held"] > 0;
  }));
  const json busy = json::parse(body);
  EXPECT_EQ(busy["models"][0]["running"], 1);
  EXPECT_EQ(busy["groups"][0]["running"], 1);
  EXPECT_GT(busy["groups"][0]["steps"], idle["groups"][0]["steps"]);
  EXPECT_EQ(busy["tenants"][0]["tenant"], "default");  // the busiest is the first
  EXPECT_EQ(busy["tenants"][0]["in_flight"], 1);
  EXPECT_THAT(body, Not(HasSubstr("nobody may see")));
  client.Close();
  EXPECT_TRUE(WaitFor([this] {
    const json state = Get("/console/state").json();
    return state["groups"][0]["kv"][0]["held"] == 0 && state["tenants"][0]["in_flight"] == 0;
  }));
}

TEST_F(ConsoleTest, WhoIsNotReadySaysWhy) {
  server_->LoseModel(0, absl::UnavailableError("rank 0 was killed"));
  server_->BeginDrain();
  const json state = Get("/console/state").json();
  EXPECT_FALSE(state["ready"].get<bool>());
  EXPECT_TRUE(state["draining"].get<bool>());
  EXPECT_EQ(state["models"][0]["reason"], "rank 0 was killed");
}

TEST_F(KeysConsoleTest, ThePageIsForEverybodyAndTheStateIsNot) {
  EXPECT_EQ(Get("/").status, 200);
  EXPECT_EQ(Get("/console/files/console.js").status, 200);
  EXPECT_EQ(Get("/console/state").status, 401);
  EXPECT_EQ(
      Fetch(addresses_.http, "GET", "/console/state", "", "Authorization: Bearer x\r\n").status,
      401);
  const HttpResponse reply = Fetch(addresses_.http, "GET", "/console/state", "", kKey);
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.json()["groups"].size(), 1u);
  // A model that a caller may not use does not exist for it.
  const HttpResponse stranger =
      Fetch(addresses_.http, "GET", "/console/state", "", "Authorization: Bearer stranger-key\r\n");
  EXPECT_EQ(stranger.status, 200);
  EXPECT_TRUE(stranger.json()["models"].empty());
  EXPECT_TRUE(stranger.json()["groups"].empty());
}

TEST_F(NoConsoleTest, ThereIsNothing) {
  EXPECT_EQ(addresses_.console, "");
  for (const char* path : {"/", "/console/files/console.js", "/console/state"}) {
    const HttpResponse reply = Get(path);
    EXPECT_EQ(reply.status, 404) << path;
    EXPECT_EQ(reply.json()["error"]["code"], "unknown_route");
  }
}

TEST_F(PublicConsoleTest, OnAnAddressThatOthersReachItIsOffUnlessAskedFor) {
  EXPECT_EQ(addresses_.console, "");
  addresses_.http.replace(0, addresses_.http.find(':'), "127.0.0.1");
  EXPECT_EQ(Get("/").status, 404);
}

TEST_F(AskedForConsoleTest, OnAnAddressThatOthersReachItComesWhenAskedFor) {
  EXPECT_NE(addresses_.console, "");
  addresses_.http.replace(0, addresses_.http.find(':'), "127.0.0.1");
  EXPECT_EQ(Get("/").status, 200);
}

}  // namespace
}  // namespace tessera::api
