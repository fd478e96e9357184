// Where a request stands in its caller's distributed trace (W3C Trace Context, level 1, header
// `traceparent`): accepted from clients, made anew where there is none or a broken one, told back,
// and carried to the ranks. Plain values; any thread.

#ifndef TESSERA_COORDINATOR_API_TRACE_CONTEXT_H_
#define TESSERA_COORDINATOR_API_TRACE_CONTEXT_H_

#include <string>
#include <string_view>

#include "coordinator/api/random_source.h"

namespace tessera::api {

struct TraceContext {
  std::string trace_id;  // 32 lower-case hexadecimal digits, not all 0: of the whole trace
  std::string span_id;   // 16 of them: this server's part of it
  std::string flags;     // two: 01 if the caller records the trace

  // "00-<trace id>-<span id>-<flags>"
  std::string ToTraceparent() const;
};

// The caller's trace with a span of our own in it. `traceparent` is what the client sent, "" for
// nothing; what the specification calls invalid begins a new trace.
TraceContext ContinueTrace(std::string_view traceparent, RandomSource& random);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_TRACE_CONTEXT_H_
