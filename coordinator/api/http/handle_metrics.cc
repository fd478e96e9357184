// GET /metrics: the Prometheus text format. The reference is coordinator/telemetry/README.md.

#include "coordinator/api/http/routes.h"

namespace tessera::api {

void HandleMetrics(FrontDoor& door, HttpCall& call) {
  call.Reply({.status = 200,
              .body = door.metrics.Expose(),
              .content_type = "text/plain; version=0.0.4; charset=utf-8"});
}

}  // namespace tessera::api
