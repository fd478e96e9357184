// When a refused client may come back, carried by the absl::Status of the refusal. Set where the
// refusal is computed (the engine's admission, the limits of a tenant), read by the front doors for
// the Retry-After header and its gRPC counterpart. Any thread.

#ifndef TESSERA_COORDINATOR_ENGINE_RETRY_AFTER_H_
#define TESSERA_COORDINATOR_ENGINE_RETRY_AFTER_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace tessera {

// `after` is rounded up to whole seconds, which is all that the header can say; at least 1.
absl::Status WithRetryAfter(absl::Status status, absl::Duration after);
// Seconds; nothing where the status carries none.
std::optional<int64_t> RetryAfterOf(const absl::Status& status);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_ENGINE_RETRY_AFTER_H_
