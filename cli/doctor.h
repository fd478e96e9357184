// `tessera doctor`: what this machine has, and what would go wrong. Runs the worker's probe and
// looks at what a cluster on this machine would need.

#ifndef TESSERA_CLI_DOCTOR_H_
#define TESSERA_CLI_DOCTOR_H_

#include <CLI/CLI.hpp>
#include <string>

namespace tessera {

struct DoctorOptions {
  std::string model;  // also: would it fit?
  int tp = 1;
};

CLI::App* AddDoctorCommand(CLI::App& app, DoctorOptions& options);
// 0: a CPU cluster would run here; 1: something stands in the way.
int RunDoctor(const DoctorOptions& options);

}  // namespace tessera

#endif  // TESSERA_CLI_DOCTOR_H_
