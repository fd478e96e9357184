// GET /version.

#include <nlohmann/json.hpp>

#include "coordinator/api/http/routes.h"

namespace tessera::api {

void HandleVersion(FrontDoor& door, HttpCall& call) {
  nlohmann::ordered_json json;
  json["version"] = door.version;
  call.Reply({.status = 200, .body = json.dump()});
}

}  // namespace tessera::api
