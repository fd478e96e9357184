// GET /livez: the process answers. Nothing more, so that nothing else can get it restarted.

#include "coordinator/api/http/routes.h"

namespace tessera::api {

void HandleLive(FrontDoor&, HttpCall& call) {
  call.Reply({.status = 200, .body = R"({"alive":true})"});
}

}  // namespace tessera::api
