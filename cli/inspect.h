// `tessera inspect MODEL`: what a model is and whether and how it fits, without loading it.

#ifndef TESSERA_CLI_INSPECT_H_
#define TESSERA_CLI_INSPECT_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

namespace tessera {

struct InspectOptions {
  std::string model;  // directory, or org/name[@revision]
  int tp = 0;         // 0: every tp that divides
  std::string gpu;
  uint64_t memory_bytes = 0;  // of one rank; 0: the GPU's
  std::string dtype = "auto";
  int64_t context_max = 0;
  int64_t tokens_max = 2048;
  int64_t rows_max = 256;
};

CLI::App* AddInspectCommand(CLI::App& app, InspectOptions& options);
int RunInspect(const InspectOptions& options);

}  // namespace tessera

#endif  // TESSERA_CLI_INSPECT_H_
