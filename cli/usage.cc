// See the header. What is asked and how it is answered is coordinator/ledger/usage_report.h's, for
// the files as for the admin API; the answer goes to stdout, everything else to stderr.

#include "cli/usage.h"

#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/status.h"
#include "cli/http_get.h"
#include "coordinator/ledger/usage_report.h"

namespace tessera {
namespace {

constexpr absl::Duration kAdminLimit = absl::Seconds(90);  // longer than the server's own

std::map<std::string, std::string> ParamsOf(const UsageOptions& options) {
  std::map<std::string, std::string> params = {{"by", options.by}, {"format", options.format}};
  if (!options.since.empty()) params["since"] = options.since;
  if (!options.until.empty()) params["until"] = options.until;
  if (!options.limit.empty()) params["limit"] = options.limit;
  if (!options.from.empty()) params["from"] = options.from;
  return params;
}

std::string UrlEscape(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_';
    escaped += plain ? std::string(1, c) : absl::StrFormat("%%%02X", static_cast<unsigned char>(c));
  }
  return escaped;
}

absl::StatusOr<std::string> ReadTokenFile(const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream in(path);
  std::string token;
  if (!std::getline(in, token) || token.empty()) {
    return absl::NotFoundError(absl::StrCat("no token can be read from ", path));
  }
  if (token.back() == '\r') token.pop_back();
  return token;
}

std::string ErrorOf(const HttpAnswer& answer) {
  const nlohmann::json body = nlohmann::json::parse(answer.body, nullptr, false);
  if (body.is_object() && body.contains("error") && body["error"].is_object()) {
    const auto message = body["error"].find("message");
    if (message != body["error"].end() && message->is_string()) return message->get<std::string>();
  }
  return absl::StrCat("HTTP status ", answer.status);
}

absl::StatusOr<UsageAnswer> AskAdmin(const UsageOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(const std::string token, ReadTokenFile(options.token_file));
  std::string target = "/usage";
  for (const auto& [name, value] : ParamsOf(options)) {
    absl::StrAppend(&target, target == "/usage" ? "?" : "&", name, "=", UrlEscape(value));
  }
  TESSERA_ASSIGN_OR_RETURN(HttpAnswer answer, HttpGet(options.admin, target, token, kAdminLimit));
  if (answer.status != 200) {
    const std::string hint =
        answer.status == 401 ? "; give its token with --token-file" : std::string();
    return absl::UnknownError(absl::StrCat(options.admin, " says: ", ErrorOf(answer), hint));
  }
  UsageAnswer result;
  result.text = std::move(answer.body);
  const auto count = [&answer](const char* name) -> uint64_t {
    uint64_t value = 0;
    return absl::SimpleAtoi(answer.headers[name], &value) ? value : 0;
  };
  result.notes.damaged_lines = count("x-tessera-damaged-lines");
  result.notes.waiting = count("x-tessera-waiting-entries");
  result.notes.next = answer.headers["x-tessera-next"];
  return result;
}

absl::StatusOr<UsageAnswer> ReadDirectory(const UsageOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(const UsageQuery query,
                           ParseUsageQuery(ParamsOf(options), RealClock().Now()));
  return ReportUsage(options.dir, query, 0, absl::InfiniteFuture());
}

// What must not be overlooked and has no place in a table.
void PrintNotes(const UsageNotes& notes) {
  if (notes.damaged_lines > 0) {
    std::cerr << "warning: " << notes.damaged_lines << " damaged lines are not in this"
              << (notes.first_damage.empty() ? "" : ", the first: ") << notes.first_damage << "\n";
  }
  if (notes.waiting > 0) {
    std::cerr << "warning: " << notes.waiting
              << " entries wait for the server's disk and are not in this\n";
  }
  if (!notes.next.empty()) std::cerr << "there is more: --from " << notes.next << "\n";
}

}  // namespace

CLI::App* AddUsageCommand(CLI::App& app, UsageOptions& options) {
  CLI::App* command = app.add_subcommand(
      "usage", "Who used what and what it cost, from the usage log of `serve --usage-dir`");
  command
      ->add_option("--by", options.by,
                   "Rows: tenant, model, adapter, device or day, or several with commas; or "
                   "request")
      ->capture_default_str();
  command->add_option("--since", options.since,
                      "What finished since then: 24h, 7d, 2026-11-22 or 2026-11-22T10:00:00Z "
                      "[the beginning]");
  command->add_option("--until", options.until, "And before then [now]");
  command->add_option("--format", options.format, "table, csv or json")
      ->check(CLI::IsMember({"table", "csv", "json"}))
      ->capture_default_str();
  command->add_option("--limit", options.limit, "Most rows of --by request [1000]");
  command->add_option("--from", options.from, "Where --by request goes on, as told before");
  CLI::Option* dir = command->add_option("--dir", options.dir, "Usage directory to read");
  CLI::Option* admin = command->add_option("--admin", options.admin,
                                           "Admin API to ask instead, as http://127.0.0.1:PORT");
  command->add_option("--token-file", options.token_file, "Token of the admin API")->needs(admin);
  dir->excludes(admin);
  command->final_callback([dir, admin] {
    if (dir->empty() && admin->empty()) {
      throw CLI::RequiredError("one of --dir and --admin");
    }
  });
  return command;
}

int RunUsage(const UsageOptions& options) {
  const absl::StatusOr<UsageAnswer> answer =
      options.admin.empty() ? ReadDirectory(options) : AskAdmin(options);
  if (!answer.ok()) {
    std::cerr << "tessera usage: " << answer.status().message() << "\n";
    return 1;
  }
  std::cout << answer->text << std::flush;
  PrintNotes(answer->notes);
  return 0;
}

}  // namespace tessera
