// The routes of the admin door and their answers. On its I/O threads.

#ifndef TESSERA_COORDINATOR_ADMIN_ADMIN_ROUTES_H_
#define TESSERA_COORDINATOR_ADMIN_ADMIN_ROUTES_H_

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/api/http/http_call.h"
#include "coordinator/ledger/usage_book.h"

namespace tessera {

inline constexpr size_t kAdminParamsMax = 32;  // of one query

struct AdminDoor {
  UsageBook& book;
  const Clock& clock;
};

// Finds the route and answers the call; 404 or 405 otherwise.
void RouteAdminCall(const AdminDoor& door, api::HttpCall& call);

// "by=tenant&since=24h", percent-decoded. INVALID_ARGUMENT for a name that is given twice.
absl::StatusOr<std::map<std::string, std::string>> ParseUrlQuery(std::string_view query);

// The answers, as JSON; /usage is in usage_report.h.
std::string PricesJson(const AdminDoor& door);
std::string GroupsJson(const AdminDoor& door);
std::string ComparisonJson(const AdminDoor& door);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_ADMIN_ADMIN_ROUTES_H_
