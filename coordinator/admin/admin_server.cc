// See the header. The HTTP part is the public door's.

#include "coordinator/admin/admin_server.h"

#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "coordinator/admin/admin_routes.h"
#include "coordinator/api/address.h"
#include "coordinator/api/audit.h"
#include "coordinator/api/body_budget.h"
#include "coordinator/api/http/http_server.h"
#include "coordinator/api/io_pool.h"
#include "coordinator/api/random_source.h"
#include "coordinator/api/trace_context.h"
#include "coordinator/tenants/key_file.h"

namespace tessera {
namespace {

constexpr int kThreads = 2;
constexpr size_t kBodyBytesMax = 64 << 10;  // nothing here takes a body
constexpr absl::Duration kIdleDeadline = absl::Seconds(75);
constexpr absl::Duration kReadDeadline = absl::Seconds(10);
constexpr absl::Duration kWriteDeadline = absl::Seconds(30);
constexpr absl::Duration kStopLimit = absl::Seconds(1);
constexpr std::string_view kBearer = "Bearer ";

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("--admin-token-file ", path, " cannot be read"));
  std::string token(kAdminTokenBytesMax + 2, '\0');
  in.read(token.data(), static_cast<std::streamsize>(token.size()));
  token.resize(static_cast<size_t>(in.gcount()));
  while (!token.empty() && (token.back() == '\n' || token.back() == '\r')) token.pop_back();
  if (token.size() < kAdminTokenBytesMin || token.size() > kAdminTokenBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("--admin-token-file ", path, " must hold ",
                                                   kAdminTokenBytesMin, " to ", kAdminTokenBytesMax,
                                                   " bytes, it holds ", token.size()));
  }
  return token;
}

}  // namespace

struct AdminServer::State {
  State(const api::Address& at, std::optional<KeyDigest> wanted, api::AuditLog* audit_log,
        UsageBook& book, const Clock& a_clock, Metrics& metrics)
      : address(at),
        token(wanted),
        audit(audit_log),
        door{book, a_clock},
        random(std::nullopt),
        pool(kThreads),
        server(pool, MakeOptions(), metrics) {}

  api::HttpOptions MakeOptions() {
    api::HttpOptions http;
    http.connections_max = kAdminConnectionsMax;
    http.idle_deadline = kIdleDeadline;
    http.read_deadline = kReadDeadline;
    http.write_deadline = kWriteDeadline;
    http.identify = [this](std::string_view, std::string_view authorization) {
      return Identify(authorization);
    };
    http.bodies = std::make_shared<api::BodyBudget>(kBodyBytesMax);
    http.router = [this](api::HttpCall& call) { RouteAdminCall(door, call); };
    http.make_request_id = [this] { return random.NextId("admin-"); };
    http.continue_trace = [this](std::string_view traceparent) {
      return api::ContinueTrace(traceparent, random);
    };
    http.audit = [this](const api::AuditLine& line) {
      if (audit != nullptr) audit->Write(line, door.clock.Now());
    };
    http.now = [this] { return door.clock.Now(); };
    http.draining = [] { return false; };
    return http;
  }
  // Digests are compared, so that the time it takes says nothing about the token.
  absl::StatusOr<Caller> Identify(std::string_view authorization) const {
    if (!token.has_value()) return Caller();
    if (authorization.substr(0, kBearer.size()) == kBearer &&
        DigestOf(authorization.substr(kBearer.size())) == *token) {
      return Caller();
    }
    return absl::UnauthenticatedError(
        "the admin API asks for the token of --admin-token-file, as `Authorization: Bearer ...`");
  }

  const api::Address address;
  const std::optional<KeyDigest> token;
  api::AuditLog* const audit;  // may be null
  const AdminDoor door;
  api::RandomSource random;
  api::IoPool pool;
  api::HttpServer server;
  bool started = false;
};

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Open(const AdminOptions& options,
                                                               UsageBook& book, const Clock& clock,
                                                               Metrics& metrics) {
  TESSERA_ASSIGN_OR_RETURN(const api::Address address, api::ParseAddress(options.address));
  std::optional<KeyDigest> token;
  if (!options.token_file.empty()) {
    TESSERA_ASSIGN_OR_RETURN(const std::string text, ReadToken(options.token_file));
    token = DigestOf(text);
  } else if (!address.IsLoopback()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the admin API shows what every tenant uses, and ", options.address,
        " can be reached from outside: give --admin-token-file FILE, or listen on 127.0.0.1"));
  }
  return std::unique_ptr<AdminServer>(new AdminServer(
      std::make_unique<State>(address, token, options.audit, book, clock, metrics)));
}

AdminServer::AdminServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

AdminServer::~AdminServer() { Stop(); }

absl::StatusOr<std::string> AdminServer::Start() {
  TESSERA_ASSIGN_OR_RETURN(const api::Address bound, state_->server.Start(state_->address));
  state_->pool.Start();
  state_->started = true;
  return bound.ToString();
}

void AdminServer::Stop() {
  if (!std::exchange(state_->started, false)) return;
  state_->server.Stop();
  state_->pool.Drain(kStopLimit);
  state_->server.CutOff();
  state_->pool.Stop();
}

}  // namespace tessera
