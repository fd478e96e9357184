// The route table: method, path, handler; and what is said to requests that no row fits.

#ifndef TESSERA_COORDINATOR_API_HTTP_ROUTES_H_
#define TESSERA_COORDINATOR_API_HTTP_ROUTES_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "coordinator/api/front_door.h"
#include "coordinator/api/http/http_call.h"

namespace tessera::api {

struct Route {
  const char* method;
  const char* path;  // "{id}" at the end takes the rest of the path
  void (*handler)(FrontDoor& door, HttpCall& call);
  bool open = false;     // for everybody, whatever key they have
  bool console = false;  // there only with FrontDoor::console
};

absl::Span<const Route> RouteTable();
// Who calls, before anything of the request but its header is read.
absl::StatusOr<Caller> IdentifyCall(const FrontDoor& door, std::string_view path,
                                    std::string_view authorization);
// Finds the row and runs its handler; 404 or 405 (with Allow) otherwise.
void RouteCall(FrontDoor& door, HttpCall& call);

// One file each, handle_*.cc.
void HandleChatCompletions(FrontDoor& door, HttpCall& call);
void HandleCompletions(FrontDoor& door, HttpCall& call);
void HandleModels(FrontDoor& door, HttpCall& call);
void HandleModel(FrontDoor& door, HttpCall& call);
void HandleTokenize(FrontDoor& door, HttpCall& call);
void HandleDetokenize(FrontDoor& door, HttpCall& call);
void HandleLive(FrontDoor& door, HttpCall& call);
void HandleReady(FrontDoor& door, HttpCall& call);
void HandleVersion(FrontDoor& door, HttpCall& call);
void HandleMetrics(FrontDoor& door, HttpCall& call);
void HandleConsole(FrontDoor& door, HttpCall& call);
void HandleConsoleState(FrontDoor& door, HttpCall& call);
void HandleConsoleFile(FrontDoor& door, HttpCall& call);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_HTTP_ROUTES_H_
