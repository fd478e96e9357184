// See tenant_setup.h.

#include "coordinator/tenant_setup.h"

#include <spdlog/spdlog.h>

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "base/status.h"

namespace tessera {
namespace {

bool IsLoopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host == "[::1]" || absl::StartsWith(host, "127.");
}

}  // namespace

absl::StatusOr<std::unique_ptr<TenantSetup>> TenantSetup::Open(const CoordinatorOptions& options,
                                                               Metrics& metrics) {
  absl::StatusOr<ServerSecret> secret = options.cache_secret_file.empty()
                                            ? ServerSecret::Draw()
                                            : ServerSecret::FromFile(options.cache_secret_file);
  TESSERA_RETURN_IF_ERROR(secret.status());
  std::unique_ptr<TenantSetup> setup(new TenantSetup(*secret, metrics));
  if (options.api_keys.empty()) {
    if (!IsLoopback(options.host)) {
      spdlog::warn(
          "NO API KEYS: everybody who can reach {} may use this server without limits. Give "
          "--api-keys FILE (`tessera keygen` makes one) or listen on 127.0.0.1.",
          options.host);
    }
    return setup;
  }
  setup->watcher_.emplace(options.api_keys);
  TESSERA_ASSIGN_OR_RETURN(KeyFile file, *setup->watcher_->Poll());
  spdlog::info("{} tenants and {} API keys in {}", file.tenants.size(), file.keys.size(),
               options.api_keys);
  setup->tenants_.Use(std::move(file));
  return setup;
}

void TenantSetup::Reload(Engine& engine, bool forced) {
  if (!watcher_.has_value()) return;
  if (forced) watcher_->Forget();
  std::optional<absl::StatusOr<KeyFile>> file = watcher_->Poll();
  if (!file.has_value()) return;
  if (!file->ok()) {
    spdlog::error("{}; the tenants and keys from before stay in use",
                  std::string(file->status().message()));
    return;
  }
  spdlog::info("the API key file has changed: {} tenants and {} keys now", (*file)->tenants.size(),
               (*file)->keys.size());
  tenants_.Use(**std::move(file));
  Announce(engine);
}

}  // namespace tessera
