// Who sends a request, as the front doors see it once the API key is known: a tenant and what it
// may do. Made by the tenants' registry (or by the front doors, when there are no keys), copied
// into every call, read on I/O threads.

#ifndef TESSERA_COORDINATOR_TENANTS_CALLER_H_
#define TESSERA_COORDINATOR_TENANTS_CALLER_H_

#include <algorithm>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/sched/request.h"

namespace tessera {

struct Caller {
  std::string tenant = "default";
  std::vector<std::string> models;  // names it may use; empty: every one that is served
  int priority = 0;                 // of requests that name none; within the bounds
  int priority_min = -kPriorityMax;
  int priority_max = kPriorityMax;
  CacheDomain cache;                 // of its requests; num_shared_tokens is each request's own
  bool share_system_prompt = false;  // chat system prompts are cached under cache.shared_key

  bool MayUse(std::string_view model) const {
    return models.empty() || std::find(models.begin(), models.end(), model) != models.end();
  }
};

// Who holds this key ("" when none was sent); UNAUTHENTICATED for nobody. Called by every front
// door before any other work, on any thread; must not block.
using Authenticate = std::function<absl::StatusOr<Caller>(std::string_view bearer_token)>;

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TENANTS_CALLER_H_
