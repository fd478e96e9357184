// Routing and GET /usage; see the header.

#include "coordinator/admin/admin_routes.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "coordinator/admin/admin_server.h"
#include "coordinator/api/http/percent.h"
#include "coordinator/api/status_map.h"
#include "coordinator/ledger/usage_report.h"

namespace tessera {
namespace {

// What has just ended is on the disk by then, unless that is full.
constexpr absl::Duration kFlushLimit = absl::Seconds(1);

const char* ContentType(UsageFormat format) {
  switch (format) {
    case UsageFormat::kJson:
      return "application/json";
    case UsageFormat::kCsv:
      return "text/csv; charset=utf-8";
    case UsageFormat::kTable:
      return "text/plain; charset=utf-8";
  }
  return "application/octet-stream";
}

// Without a log there are only sums since the start.
absl::StatusOr<UsageAnswer> ReportSinceStart(const UsageBook& book, const UsageQuery& query) {
  if (query.by.empty() || query.range.since != absl::InfinitePast() ||
      query.range.until != absl::InfiniteFuture()) {
    return absl::FailedPreconditionError(
        "without --usage-dir only sums since the start are kept: no single requests, and no "
        "`since` and `until`");
  }
  UsageTotals totals(query.by);
  totals.Add(book.Totals());
  UsageAnswer answer;
  answer.notes.complete_since = book.started();
  answer.text = RenderTotals(totals, query.format, answer.notes);
  return answer;
}

absl::StatusOr<api::HttpReply> AnswerUsage(const AdminDoor& door,
                                           const std::map<std::string, std::string>& params) {
  TESSERA_ASSIGN_OR_RETURN(const UsageQuery query, ParseUsageQuery(params, door.clock.Now()));
  absl::StatusOr<UsageAnswer> answer;
  if (UsageLog* log = door.book.log(); log != nullptr) {
    log->Flush(kFlushLimit);
    answer = ReportUsage(log->dir(), query, log->Stats().waiting, absl::Now() + kAdminReadMax);
  } else {
    answer = ReportSinceStart(door.book, query);
  }
  TESSERA_RETURN_IF_ERROR(answer.status());
  api::HttpReply reply;
  reply.body = std::move(answer->text);
  reply.content_type = ContentType(query.format);
  // What the other formats have no place for.
  reply.headers.emplace_back("x-tessera-damaged-lines", absl::StrCat(answer->notes.damaged_lines));
  reply.headers.emplace_back("x-tessera-waiting-entries", absl::StrCat(answer->notes.waiting));
  if (!answer->notes.next.empty()) {
    reply.headers.emplace_back("x-tessera-next", answer->notes.next);
  }
  return reply;
}

using Params = std::map<std::string, std::string>;
using Answer = absl::StatusOr<api::HttpReply> (*)(const AdminDoor& door, const Params& params);

template <std::string (*kMake)(const AdminDoor& door)>
absl::StatusOr<api::HttpReply> AnswerJson(const AdminDoor& door, const Params& params) {
  if (!params.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("`", params.begin()->first.substr(0, 64),
                                                   "` is not known; this route takes nothing"));
  }
  return api::HttpReply{.status = 200, .body = kMake(door)};
}

struct AdminRoute {
  const char* path;
  Answer answer;
};

constexpr AdminRoute kAdminRoutes[] = {
    {"/usage", AnswerUsage},
    {"/prices", AnswerJson<PricesJson>},
    {"/groups", AnswerJson<GroupsJson>},
    {"/comparison", AnswerJson<ComparisonJson>},
};

absl::StatusOr<api::HttpReply> AnswerCall(const AdminDoor& door, const AdminRoute& route,
                                          const api::HttpRequest& request) {
  TESSERA_ASSIGN_OR_RETURN(const Params params, ParseUrlQuery(request.query));
  return route.answer(door, params);
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> ParseUrlQuery(std::string_view query) {
  std::map<std::string, std::string> params;
  for (const absl::string_view part : absl::StrSplit(std::string(query), '&', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> raw = absl::StrSplit(part, absl::MaxSplits('=', 1));
    const auto decode = [](const std::string& text) {
      return api::PercentDecode(absl::StrReplaceAll(text, {{"+", " "}}));
    };
    const std::string name = decode(raw.first);
    if (!params.emplace(name, decode(raw.second)).second) {
      return absl::InvalidArgumentError(absl::StrCat("`", name.substr(0, 64), "` is given twice"));
    }
    if (params.size() > kAdminParamsMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("the query has more than ", kAdminParamsMax, " parameters"));
    }
  }
  return params;
}

void RouteAdminCall(const AdminDoor& door, api::HttpCall& call) {
  const api::HttpRequest& request = call.request();
  for (const AdminRoute& route : kAdminRoutes) {
    if (request.path != route.path) continue;
    call.SetRoute(absl::StrCat("admin", route.path), "");
    if (request.method != "GET" && request.method != "HEAD") {
      return call.ReplyError(api::WithHttp(
          api::WithCode(absl::InvalidArgumentError(absl::StrCat(route.path, " takes GET, not ",
                                                                request.method.substr(0, 16))),
                        "method_not_allowed"),
          405));
    }
    absl::StatusOr<api::HttpReply> reply = AnswerCall(door, route, request);
    if (!reply.ok()) return call.ReplyError(reply.status());
    return call.Reply(*std::move(reply));
  }
  call.ReplyError(
      api::WithCode(absl::NotFoundError("there is GET /usage, /prices, /comparison and /groups"),
                    "unknown_route"));
}

}  // namespace tessera
