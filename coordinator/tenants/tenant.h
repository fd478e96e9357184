// A tenant as the key file describes it: who shares the capacity with whom, and how far. Read by
// key_file.h, immutable from then on; a reload makes new ones.

#ifndef TESSERA_COORDINATOR_TENANTS_TENANT_H_
#define TESSERA_COORDINATOR_TENANTS_TENANT_H_

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

// The one tenant there is when no key file is given.
inline constexpr char kDefaultTenant[] = "default";

struct TenantLimitValues {
  int64_t requests_in_flight = 0;  // taken, not ended; 0: no limit
  int64_t tokens_per_minute = 0;   // prompt + max_tokens x choices; 0: no limit
};

struct Tenant {
  std::string name;
  double weight = 1;     // TenantPolicy::weight
  double kv_share = 1;   // TenantPolicy::kv_share
  int priority = 0;      // of a request that asks for none
  int priority_max = 0;  // the highest a request may ask for, >= priority
  TenantLimitValues limits;
  std::vector<std::string> models;  // names it may use; empty: all
  // Whether its system prompts are cached together with those of the other tenants that agree.
  bool share_system_prompt = false;
  std::string cache_domain;  // tenants that name the same one share their cache; empty: its own
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TENANTS_TENANT_H_
