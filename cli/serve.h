// `tessera serve`: a whole cluster on this machine. Starts the coordinator and the ranks, shows the
// memory plan and the loading, prints the routes, and takes everything down again on Ctrl-C.

#ifndef TESSERA_CLI_SERVE_H_
#define TESSERA_CLI_SERVE_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace tessera {

struct ServeOptions {
  std::vector<std::string> models;          // [name=]directory or [name=]org/name[@revision]
  std::vector<std::string> chat_templates;  // [name=]file
  int tp = 1;
  std::string device = "auto";
  std::string comm = "auto";
  int threads = 0;  // of one rank; 0: the cores divided by the ranks
  bool verbose = false;
  std::string ready_file;
  // Flags handed to the coordinator as they are, "--flag" and its value.
  std::vector<std::pair<std::string, std::string>> coordinator_flags;
  bool reflection = false;
  std::string console_flag;  // "--console", "--no-console"; empty: as the coordinator thinks best
  bool no_prefix_cache = false;
  bool deterministic = false;
  bool eager = false;
};

CLI::App* AddServeCommand(CLI::App& app, ServeOptions& options);
int RunServe(const ServeOptions& options);

}  // namespace tessera

#endif  // TESSERA_CLI_SERVE_H_
