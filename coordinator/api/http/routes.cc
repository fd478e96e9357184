// The route table, see routes.h.

#include "coordinator/api/http/routes.h"

#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

constexpr Route kRoutes[] = {
    {"POST", "/v1/chat/completions", HandleChatCompletions},
    {"POST", "/v1/completions", HandleCompletions},
    {"GET", "/v1/models", HandleModels},
    {"GET", "/v1/models/{id}", HandleModel},
    {"POST", "/tokenize", HandleTokenize},
    {"POST", "/detokenize", HandleDetokenize},
    {"GET", "/livez", HandleLive, true},
    {"GET", "/readyz", HandleReady, true},
    {"GET", "/version", HandleVersion, true},
    {"GET", "/metrics", HandleMetrics, true},
    {"GET", "/", HandleConsole, true, true},
    {"GET", "/console/state", HandleConsoleState, false, true},
    {"GET", "/console/files/{id}", HandleConsoleFile, true, true},
};

constexpr std::string_view kParameter = "{id}";

// What stands for {id} when the path fits the row ("" for a row without one).
std::optional<std::string> Match(std::string_view row, std::string_view path) {
  if (row.size() < kParameter.size() || row.substr(row.size() - kParameter.size()) != kParameter) {
    if (row == path) return "";
    return std::nullopt;
  }
  row.remove_suffix(kParameter.size());
  if (path.size() <= row.size() || path.substr(0, row.size()) != row) return std::nullopt;
  return std::string(path.substr(row.size()));
}

bool Serves(const FrontDoor& door, const Route& route) { return !route.console || door.console; }

}  // namespace

absl::Span<const Route> RouteTable() { return kRoutes; }

absl::StatusOr<Caller> IdentifyCall(const FrontDoor& door, std::string_view path,
                                    std::string_view authorization) {
  for (const Route& route : kRoutes) {
    if (!Serves(door, route) || !Match(route.path, path).has_value()) continue;
    return route.open ? door.anyone : door.Identify(authorization);
  }
  return door.Identify(authorization);
}

void RouteCall(FrontDoor& door, HttpCall& call) {
  // HEAD is GET without the body; the connection leaves it out.
  const std::string& method = call.request().method;
  const std::string_view wanted = method == "HEAD" ? "GET" : std::string_view(method);
  std::vector<std::string> allowed;
  for (const Route& route : kRoutes) {
    if (!Serves(door, route)) continue;
    const std::optional<std::string> parameter = Match(route.path, call.request().path);
    if (!parameter.has_value()) continue;
    if (wanted == route.method) {
      call.SetRoute(route.path, *parameter);
      return route.handler(door, call);
    }
    call.SetRoute(route.path, *parameter);
    allowed.push_back(route.method);
  }
  const std::string path = call.request().path.substr(0, 128);
  if (allowed.empty()) {
    return call.ReplyError(
        WithCode(absl::NotFoundError(absl::StrCat("there is no route ", method, " ", path)),
                 "unknown_route"));
  }
  const std::string allow = absl::StrJoin(allowed, ", ");
  const absl::Status status = WithHttp(
      WithCode(absl::InvalidArgumentError(absl::StrCat(path, " takes ", allow, ", not ", method)),
               "method_not_allowed"),
      405);
  HttpReply reply;
  reply.status = 405;
  reply.body = ErrorJson(status, call.request().request_id);
  reply.headers.emplace_back("allow", allow);
  call.Reply(std::move(reply));
}

}  // namespace tessera::api
