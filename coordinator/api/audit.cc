// See the header.

#include "coordinator/api/audit.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace tessera::api {
namespace {

constexpr size_t kAuditTextBytesMax = 256;  // of one value

std::string Bounded(const std::string& text) { return text.substr(0, kAuditTextBytesMax); }

}  // namespace

std::string ToJson(const AuditLine& line, absl::Time now) {
  nlohmann::ordered_json json;
  json["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", now, absl::UTCTimeZone());
  json["event"] = "request";
  json["request_id"] = Bounded(line.request_id);
  json["trace_id"] = line.trace_id;
  json["door"] = line.door;
  json["method"] = Bounded(line.method);
  json["status"] = line.status;
  json["milliseconds"] = std::round(line.seconds * 1e5) / 100;
  const AuditFacts& facts = line.facts;
  if (!facts.tenant.empty()) json["tenant"] = Bounded(facts.tenant);
  if (!facts.model.empty()) json["model"] = Bounded(facts.model);
  if (!facts.generation.empty()) json["id"] = facts.generation;
  if (facts.finished) {
    json["prompt_tokens"] = facts.prompt_tokens;
    json["cached_tokens"] = facts.cached_tokens;
    json["output_tokens"] = facts.output_tokens;
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(const std::string& target) {
  if (target == "off") return std::unique_ptr<AuditLog>(new AuditLog(nullptr, false));
  if (target == "log") return std::unique_ptr<AuditLog>(new AuditLog(nullptr, true));
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(target);
    auto file = std::make_shared<spdlog::logger>("audit", std::move(sink));
    file->set_pattern("%v");
    return std::unique_ptr<AuditLog>(new AuditLog(std::move(file), false));
  } catch (const spdlog::spdlog_ex& error) {
    return absl::FailedPreconditionError(
        absl::StrCat("--audit-log ", target, ": ", error.what(),
                     "; name a file in a directory that can be written, \"log\" or \"off\""));
  }
}

void AuditLog::Write(const AuditLine& line, absl::Time now) {
  if (file_ != nullptr) {
    file_->info(ToJson(line, now));
    file_->flush();
  } else if (to_log_) {
    spdlog::info("audit {}", ToJson(line, now));
  }
}

}  // namespace tessera::api
