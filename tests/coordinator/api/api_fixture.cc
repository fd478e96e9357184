// A coordinator without ranks, see api_fixture.h.

#include "tests/coordinator/api/api_fixture.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/time/clock.h"
#include "base/check.h"

namespace tessera::api {
namespace {

constexpr char kDemoModel[] = TESSERA_SOURCE_DIR "/deploy/demo-model";
constexpr int64_t kContext = 512;  // tokens
constexpr uint64_t kSeed = 20240817;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

}  // namespace

ServedModel DemoModel(const std::string& name) {
  ServedModel model;
  model.name = name;
  model.directory = kDemoModel;
  const std::string config = ReadFile(model.directory + "/config.json");
  auto spec = ParseModelSpec(config);
  TESSERA_CHECK(spec.ok()) << spec.status().ToString();
  model.spec = *std::move(spec);
  const std::string generation = ReadFile(model.directory + "/generation_config.json");
  auto defaults = ParseGenerationDefaults(config, generation);
  TESSERA_CHECK(defaults.ok()) << defaults.status().ToString();
  model.defaults = *std::move(defaults);
  TESSERA_CHECK(!model.defaults.eos_token_ids.empty());
  auto tokenizer = text::Tokenizer::Load(model.directory);
  TESSERA_CHECK(tokenizer.ok()) << tokenizer.status().ToString();
  model.tokenizer = *std::move(tokenizer);
  auto chat_template = text::ChatTemplate::Load(model.directory, model.tokenizer);
  TESSERA_CHECK(chat_template.ok()) << chat_template.status().ToString();
  model.chat_template = *std::move(chat_template);
  model.context_max = kContext;
  model.license = "test";
  return model;
}

std::vector<int32_t> Encode(const ServedModel& model, const std::string& text) {
  auto ids = model.tokenizer->Encode(text, {});
  TESSERA_CHECK(ids.ok()) << ids.status().ToString();
  return *std::move(ids);
}

void ApiFixture::SetUp() {
  model_ = DemoModel();
  metrics_ = std::make_unique<Metrics>(std::vector<std::string>{model_.name});
  executor_ = std::make_unique<ScriptedExecutor>();
  SchedulerOptions scheduler;
  scheduler.heartbeat_interval = absl::Milliseconds(50);
  scheduler.models = {{.context_max = model_.context_max, .kv_groups = model_.spec.kv_groups}};
  ApiOptions options;
  options.http_address = "127.0.0.1:0";
  options.grpc_address = "127.0.0.1:0";
  options.health_address = "127.0.0.1:0";
  options.seed = kSeed;
  Configure(&options, &scheduler);
  engine_ = std::make_unique<Engine>(scheduler, *executor_, clock_, *metrics_);
  AnswerWith("Hello there.");
  engine_->Start();
  executor_->Start(engine_.get());
  engine_->Post(
      GroupReady{.group = 0,
                 .epoch = 1,
                 .model = 0,
                 .num_blocks = std::vector<uint32_t>(model_.spec.kv_groups.size(), 4096)});
  server_ = std::make_unique<ApiServer>(options, std::vector<ServedModel>{model_}, *engine_, clock_,
                                        *metrics_);
  auto addresses = server_->Start();
  ASSERT_TRUE(addresses.ok()) << addresses.status();
  addresses_ = *std::move(addresses);
  ASSERT_TRUE(WaitFor([this] { return server_->Ready(); }));
}

void ApiFixture::TearDown() {
  if (server_ != nullptr) server_->Stop();
  if (engine_ != nullptr) engine_->Stop();
  if (executor_ != nullptr) executor_->Stop();
  server_.reset();
}

void ApiFixture::AnswerWith(const std::string& text) {
  executor_->SetScript(
      [tokens = Encode(model_, text), end = model_.defaults.eos_token_ids.front()](
          size_t, size_t index, uint32_t) { return index < tokens.size() ? tokens[index] : end; });
}

void ApiFixture::AnswerChoicesWith(const std::vector<std::string>& texts) {
  std::vector<std::vector<int32_t>> answers;
  for (const std::string& text : texts) {
    answers.push_back(Encode(model_, text));
    answers.back().push_back(model_.defaults.eos_token_ids.front());
  }
  executor_->SetScript([answers](size_t, size_t index, uint32_t choice) {
    const std::vector<int32_t>& answer = answers.at(choice);
    return answer[std::min(index, answer.size() - 1)];
  });
}

void ApiFixture::AnswerForever(const std::string& word) {
  executor_->SetScript(
      [token = Encode(model_, word).front()](size_t, size_t, uint32_t) { return token; });
}

bool ApiFixture::WaitFor(const std::function<bool()>& condition) {
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (absl::Now() < end) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return condition();
}

}  // namespace tessera::api
