// `tessera keygen`: draws an API key for a tenant. The key is shown once; what the coordinator
// reads
// (--api-keys) is its digest, printed or added to the file.

#ifndef TESSERA_CLI_KEYGEN_H_
#define TESSERA_CLI_KEYGEN_H_

#include <CLI/CLI.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tessera {

struct KeygenOptions {
  std::string tenant;
  std::string file;  // empty: print the entry
  std::string comment;
  double expires_days = 0;  // 0: never
};

struct NewKey {
  std::string key;    // "tsk-" and 256 random bits
  std::string entry;  // one JSON object for "keys"
};

CLI::App* AddKeygenCommand(CLI::App& app, KeygenOptions& options);
int RunKeygen(const KeygenOptions& options);

// The steps of RunKeygen, for tests.
absl::StatusOr<NewKey> DrawKey(const KeygenOptions& options, absl::Time now);
// Adds the entry to the file's keys, and the tenant to its tenants where it is not there yet; makes
// the file, readable by its owner alone, where there is none. All or nothing. True: the tenant is
// new.
absl::StatusOr<bool> AddToKeyFile(const std::string& path, const std::string& tenant,
                                  const std::string& entry);

}  // namespace tessera

#endif  // TESSERA_CLI_KEYGEN_H_
