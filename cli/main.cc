// tessera: one program for people, a subcommand each. A client and a launcher; all the work is done
// by tessera-coordinator and tessera-worker.

#include <CLI/CLI.hpp>

#include "base/version.h"
#include "cli/chat.h"
#include "cli/doctor.h"
#include "cli/inspect.h"
#include "cli/keygen.h"
#include "cli/serve.h"
#include "cli/usage.h"

int main(int argc, char** argv) {
  CLI::App app("Tessera serves open-weight language models on machines you control.", "tessera");
  app.set_version_flag("--version", tessera::kVersion);
  app.require_subcommand(1);
  app.footer("`tessera COMMAND --help` tells more about each command.");

  tessera::ServeOptions serve;
  tessera::ChatOptions chat;
  tessera::InspectOptions inspect;
  tessera::DoctorOptions doctor;
  tessera::KeygenOptions keygen;
  tessera::UsageOptions usage;
  CLI::App* serve_command = tessera::AddServeCommand(app, serve);
  CLI::App* chat_command = tessera::AddChatCommand(app, chat);
  CLI::App* inspect_command = tessera::AddInspectCommand(app, inspect);
  CLI::App* doctor_command = tessera::AddDoctorCommand(app, doctor);
  CLI::App* keygen_command = tessera::AddKeygenCommand(app, keygen);
  CLI::App* usage_command = tessera::AddUsageCommand(app, usage);
  CLI11_PARSE(app, argc, argv);

  if (serve_command->parsed()) return tessera::RunServe(serve);
  if (chat_command->parsed()) return tessera::RunChat(chat);
  if (inspect_command->parsed()) return tessera::RunInspect(inspect);
  if (doctor_command->parsed()) return tessera::RunDoctor(doctor);
  if (keygen_command->parsed()) return tessera::RunKeygen(keygen);
  if (usage_command->parsed()) return tessera::RunUsage(usage);
  return 0;
}
