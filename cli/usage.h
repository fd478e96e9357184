// `tessera usage`: who used what and what it cost, from the files of a usage directory or from the
// admin API of a running server.

#ifndef TESSERA_CLI_USAGE_H_
#define TESSERA_CLI_USAGE_H_

#include <CLI/CLI.hpp>
#include <string>

namespace tessera {

struct UsageOptions {
  std::string by = "tenant";
  std::string since;
  std::string until;
  std::string format = "table";
  std::string limit;
  std::string from;
  std::string dir;         // one of these two
  std::string admin;       // http://host:port
  std::string token_file;  // of the admin API
};

CLI::App* AddUsageCommand(CLI::App& app, UsageOptions& options);
int RunUsage(const UsageOptions& options);

}  // namespace tessera

#endif  // TESSERA_CLI_USAGE_H_
