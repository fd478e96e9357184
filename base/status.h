// Early return on a failed absl::Status. The Abseil release that is our floor has no such macros.

#ifndef TESSERA_BASE_STATUS_H_
#define TESSERA_BASE_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define TESSERA_CONCAT_INNER(a, b) a##b
#define TESSERA_CONCAT(a, b) TESSERA_CONCAT_INNER(a, b)

#define TESSERA_RETURN_IF_ERROR(expression)          \
  do {                                               \
    absl::Status tessera_status = (expression);      \
    if (!tessera_status.ok()) return tessera_status; \
  } while (false)

// TESSERA_ASSIGN_OR_RETURN(auto value, MakeValue());
#define TESSERA_ASSIGN_OR_RETURN(declaration, expression)                                 \
  TESSERA_ASSIGN_OR_RETURN_IMPL(TESSERA_CONCAT(tessera_statusor_, __LINE__), declaration, \
                                expression)

#define TESSERA_ASSIGN_OR_RETURN_IMPL(holder, declaration, expression) \
  auto holder = (expression);                                          \
  if (!holder.ok()) return holder.status();                            \
  declaration = std::move(holder).value()

#endif  // TESSERA_BASE_STATUS_H_
