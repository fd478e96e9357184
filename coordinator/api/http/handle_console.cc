// GET /, /console/files/{id}: the console's page and the files it is made of, which are in the
// binary. They are the same for everybody and hold no data; that is in handle_console_state.cc. The
// headers let the page load, ask and run nothing but what comes from here.

#include <string_view>

#include "absl/strings/str_cat.h"
#include "coordinator/api/http/routes.h"
#include "coordinator/api/status_map.h"
#include "coordinator/console/console_assets.h"

namespace tessera::api {
namespace {

constexpr char kPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

void ReplyAsset(HttpCall& call, std::string_view name) {
  for (const ConsoleAsset& asset : ConsoleAssets()) {
    if (asset.name != name) continue;
    return call.Reply({.status = 200,
                       .body = std::string(asset.content),
                       .content_type = std::string(asset.content_type),
                       .headers = {{"content-security-policy", kPolicy},
                                   {"x-content-type-options", "nosniff"},
                                   {"referrer-policy", "no-referrer"},
                                   {"cache-control", "no-cache"}}});
  }
  call.ReplyError(
      WithCode(absl::NotFoundError(absl::StrCat("the console has no file ", call.path_parameter())),
               "unknown_route"));
}

}  // namespace

void HandleConsole(FrontDoor&, HttpCall& call) { ReplyAsset(call, "index.html"); }

void HandleConsoleFile(FrontDoor&, HttpCall& call) { ReplyAsset(call, call.path_parameter()); }

}  // namespace tessera::api
