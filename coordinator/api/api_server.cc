// Putting the front doors together, see api_server.h.

#include "coordinator/api/api_server.h"

#include <boost/asio/steady_timer.hpp>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/status.h"
#include "coordinator/api/address.h"
#include "coordinator/api/front_door.h"
#include "coordinator/api/grpc/grpc_server.h"
#include "coordinator/api/grpc/grpc_service.h"
#include "coordinator/api/http/http_server.h"
#include "coordinator/api/http/routes.h"
#include "coordinator/api/io_pool.h"

namespace tessera {

using api::Address;

struct ApiServer::State {
  State(ApiOptions given, std::vector<ServedModel> models, Engine& engine, const Clock& clock,
        Metrics& metrics)
      : options(std::move(given)),
        door{.models = std::move(models),
             .engine = engine,
             .clock = clock,
             .metrics = metrics,
             .version = options.version,
             .started = clock.Now(),
             .progress_deadline = options.progress_deadline,
             .authenticate = options.authenticate,
             .limits = options.limits,
             .pricing = options.pricing,
             .audit = options.audit,
             .bodies = std::make_shared<api::BodyBudget>(options.body_bytes_max),
             .lost_models = std::make_shared<api::LostModels>(),
             .random = api::RandomSource(options.seed),
             .anyone = {}},
        pool(options.io_threads),
        health_timer(pool.MakeSerial().strand()) {}

  absl::StatusOr<Address> StartHttp();
  absl::Status StartGrpc(ApiAddresses* addresses);
  void PollHealth();

  const ApiOptions options;
  api::FrontDoor door;
  api::IoPool pool;
  boost::asio::steady_timer health_timer;
  std::unique_ptr<api::HttpServer> http;
  std::unique_ptr<api::GrpcService> service;
  api::GrpcServer grpc;
  api::GrpcServer health;
  bool started = false;
  // Between a poll's judgement and what it sets nothing else sets health.
  absl::Mutex health_mutex;
  bool stopped ABSL_GUARDED_BY(health_mutex) = false;
};

namespace {

constexpr auto kHealthPollInterval = std::chrono::milliseconds(250);
constexpr absl::Duration kStopLimit = absl::Seconds(2);

}  // namespace

ApiServer::ApiServer(ApiOptions options, std::vector<ServedModel> models, Engine& engine,
                     const Clock& clock, Metrics& metrics)
    : state_(
          std::make_unique<State>(std::move(options), std::move(models), engine, clock, metrics)) {
  for (size_t i = 0; i < state_->door.models.size(); ++i) {
    TESSERA_CHECK(state_->door.models[i].index == i) << "model " << i << " is out of order";
  }
}

ApiServer::~ApiServer() { Stop(); }

absl::StatusOr<ApiAddresses> ApiServer::Start() {
  TESSERA_CHECK(!state_->started) << "started twice";
  ApiAddresses addresses;
  if (!state_->options.http_address.empty()) {
    TESSERA_ASSIGN_OR_RETURN(const Address bound, state_->StartHttp());
    addresses.http = bound.ToString();
    if (state_->door.console) addresses.console = "http://" + addresses.http + "/";
  }
  TESSERA_RETURN_IF_ERROR(state_->StartGrpc(&addresses));
  state_->started = true;
  state_->pool.Start();
  state_->PollHealth();
  return addresses;
}

absl::StatusOr<Address> ApiServer::State::StartHttp() {
  TESSERA_ASSIGN_OR_RETURN(const Address address, api::ParseAddress(options.http_address));
  door.console = options.console.value_or(address.IsLoopback());
  api::HttpOptions http_options;
  http_options.connections_max = options.connections_max;
  http_options.idle_deadline = options.idle_deadline;
  http_options.read_deadline = options.read_deadline;
  http_options.write_deadline = options.write_deadline;
  http_options.identify = [this](std::string_view path, std::string_view authorization) {
    return api::IdentifyCall(door, path, authorization);
  };
  http_options.bodies = door.bodies;
  http_options.router = [this](api::HttpCall& call) { api::RouteCall(door, call); };
  http_options.make_request_id = [this] { return door.random.NextId("req-"); };
  http_options.continue_trace = [this](std::string_view traceparent) {
    return api::ContinueTrace(traceparent, door.random);
  };
  http_options.audit = [this](const api::AuditLine& line) {
    if (door.audit != nullptr) door.audit->Write(line, door.clock.Now());
  };
  http_options.now = [this] { return door.clock.Now(); };
  http_options.draining = [this] { return door.draining.load(std::memory_order_relaxed); };
  http = std::make_unique<api::HttpServer>(pool, std::move(http_options), door.metrics);
  return http->Start(address);
}

absl::Status ApiServer::State::StartGrpc(ApiAddresses* addresses) {
  if (!options.grpc_address.empty()) {
    TESSERA_ASSIGN_OR_RETURN(const Address address, api::ParseAddress(options.grpc_address));
    service = std::make_unique<api::GrpcService>(door, pool, options.write_deadline);
    TESSERA_ASSIGN_OR_RETURN(const Address bound,
                             grpc.Start("gRPC", address, service.get(), options.reflection));
    addresses->grpc = bound.ToString();
  }
  if (!options.health_address.empty()) {
    TESSERA_ASSIGN_OR_RETURN(const Address address, api::ParseAddress(options.health_address));
    TESSERA_ASSIGN_OR_RETURN(const Address bound,
                             health.Start("gRPC health", address, nullptr, false));
    addresses->health = bound.ToString();
  }
  return absl::OkStatus();
}

// First on the caller of Start, then on the pool, until Stop.
void ApiServer::State::PollHealth() {
  absl::MutexLock lock(&health_mutex);
  if (stopped) return;
  const api::ReadinessReport report = door.Judge();
  for (size_t i = 0; i < report.models.size(); ++i) {
    door.metrics.model(i).ready->Set(report.models[i].ready ? 1 : 0);
  }
  grpc.SetServing(report.ready);
  health.SetServing(report.ready);
  health_timer.expires_after(kHealthPollInterval);
  health_timer.async_wait([this](const boost::system::error_code& error) {
    if (!error) PollHealth();
  });
}

bool ApiServer::Ready() const { return state_->door.Judge().ready; }

void ApiServer::LoseModel(uint32_t model, absl::Status reason) {
  TESSERA_CHECK(model < state_->door.models.size() && !reason.ok()) << "model " << model;
  state_->door.lost_models->Lose(model, std::move(reason));
}

void ApiServer::RegainModel(uint32_t model) { state_->door.lost_models->Regain(model); }

void ApiServer::BeginDrain() {
  state_->door.draining.store(true, std::memory_order_relaxed);
  absl::MutexLock lock(&state_->health_mutex);
  if (state_->stopped) return;
  state_->grpc.SetServing(false);
  state_->health.SetServing(false);
}

void ApiServer::Stop() {
  State& state = *state_;
  {
    absl::MutexLock lock(&state.health_mutex);
    if (std::exchange(state.stopped, true)) return;
    state.door.draining.store(true, std::memory_order_relaxed);
    state.health_timer.cancel();
  }
  const absl::Time end = absl::Now() + kStopLimit;
  if (state.http != nullptr) state.http->Stop();
  // The calls' reactors end on the pool, so it runs until gRPC has none left.
  state.grpc.Stop(kStopLimit / 4);
  state.health.Stop(absl::ZeroDuration());
  state.pool.Drain(end - absl::Now());
  if (state.http != nullptr) state.http->CutOff();
  state.pool.Stop();
}

}  // namespace tessera
