// See the header.

#include "base/json_log.h"

#include <spdlog/details/log_msg.h>

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace tessera {
namespace {

constexpr std::string_view kRequest = "request ";

// JSON wants UTF-8; a byte that is not ASCII is written as if it were Latin-1.
void AppendQuoted(std::string_view text, std::string* out) {
  out->push_back('"');
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out->push_back('\\');
      out->push_back(c);
    } else if (byte < 0x20 || byte >= 0x7f) {
      absl::StrAppend(out, "\\u", absl::Hex(byte, absl::kZeroPad4));
    } else {
      out->push_back(c);
    }
  }
  out->push_back('"');
}

void AppendField(std::string_view name, std::string_view value, std::string* out) {
  out->push_back(out->empty() ? '{' : ',');
  AppendQuoted(name, out);
  out->push_back(':');
  AppendQuoted(value, out);
}

std::string_view View(spdlog::string_view_t text) { return {text.data(), text.size()}; }

}  // namespace

void JsonLogFormatter::format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& line) {
  std::string json;
  const std::string_view text = View(message.payload);
  AppendField(
      "time",
      absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::FromChrono(message.time), absl::UTCTimeZone()),
      &json);
  AppendField("level", View(spdlog::level::to_string_view(message.level)), &json);
  AppendField("logger", View(message.logger_name), &json);
  if (text.substr(0, kRequest.size()) == kRequest) {
    const std::string_view rest = text.substr(kRequest.size());
    AppendField("request_id", rest.substr(0, rest.find_first_of(" :,")), &json);
  }
  AppendField("message", text, &json);
  json += "}\n";
  line.append(json.data(), json.data() + json.size());
}

}  // namespace tessera
