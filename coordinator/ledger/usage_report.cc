// See the header. Every format is made of the same cells, so that they cannot say different things.

#include "coordinator/ledger/usage_report.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>
#include <variant>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/status.h"
#include "coordinator/ledger/api_prices.h"

namespace tessera {
namespace {

using nlohmann::ordered_json;

using Value = std::variant<std::string, uint64_t, double>;

struct Cell {
  const char* name;
  Value value;
  const char* title = nullptr;  // of the column in a table; null: not shown there
  int decimals = 0;             // of a number in a table
};
using Row = std::vector<Cell>;

std::string TimeOf(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", time, absl::UTCTimeZone());
}

void AppendSums(const UsageSums& sums, Row* row) {
  const TokenRates rates = RatesOf(sums);
  const Work& work = sums.work;
  const Row cells = {
      {"requests", sums.requests, "requests"},
      {"unpriced_requests", sums.unpriced_requests},
      {"prompt_tokens", sums.prompt_tokens, "prompt"},
      {"cached_tokens", sums.cached_tokens, "cached"},
      {"output_tokens", sums.output_tokens, "output"},
      {"prefill_gpu_seconds", work[WorkKind::kPrefill], "prefill s", 2},
      {"decode_gpu_seconds", work[WorkKind::kDecode], "decode s", 2},
      {"recompute_gpu_seconds", work[WorkKind::kRecompute]},
      {"overrun_gpu_seconds", work[WorkKind::kOverrun]},
      {"energy_joules", sums.energy_joules},
      {"cost", sums.cost.total(), "cost", 6},
      {"input_cost", sums.cost.input},
      {"output_cost", sums.cost.output},
      {"energy_cost", sums.cost.energy},
      {"saved_cost", sums.cost.saved, "saved", 6},
      {"waste_cost", sums.cost.waste, "waste", 6},
      {"input_per_million", rates.input, "input/1M", 4},
      {"output_per_million", rates.output, "output/1M", 4},
      {"blended_per_million", rates.blended, "blended/1M", 4},
  };
  row->insert(row->end(), cells.begin(), cells.end());
}

Row RowOf(const UsageTotals& totals, const UsageTotals::Key& key, const UsageSums& sums) {
  Row row;
  for (size_t i = 0; i < totals.by().size(); ++i) {
    const char* name = UsageFieldName(totals.by()[i]);
    row.push_back({name, key[i], name});
  }
  AppendSums(sums, &row);
  row.push_back({"currency", key.back(), "currency"});
  return row;
}

Row RowOf(const UsageEntry& entry) {
  Row row = {{"entry", entry.id},
             {"id", entry.request_id, "id"},
             {"tenant", entry.tenant, "tenant"},
             {"model", entry.model, "model"},
             {"adapter", entry.adapter},
             {"device", entry.device},
             {"arrival", TimeOf(entry.arrival)},
             {"finished", TimeOf(entry.finished), "finished"},
             {"reason", std::string(FinishReasonName(entry.reason)), "end"}};
  UsageSums sums;
  sums.Add(entry);
  AppendSums(sums, &row);
  row.push_back({"currency", entry.cost.currency, "currency"});
  return row;
}

ordered_json ToJson(const Row& row) {
  ordered_json object = ordered_json::object();
  for (const Cell& cell : row) {
    std::visit([&](const auto& value) { object[cell.name] = value; }, cell.value);
  }
  return object;
}

// RFC 4180. A text that a spreadsheet would take for a formula gets a quote in front.
std::string CsvText(std::string text) {
  if (!text.empty() && std::string_view("=+-@\t\r").find(text.front()) != std::string_view::npos) {
    text.insert(0, "'");
  }
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

std::string CsvLine(const Row& row) {
  std::string line;
  for (const Cell& cell : row) {
    if (!line.empty() || &cell != row.data()) line += ",";
    if (const std::string* text = std::get_if<std::string>(&cell.value)) {
      line += CsvText(*text);
    } else {
      std::visit([&](const auto& value) { line += ordered_json(value).dump(); }, cell.value);
    }
  }
  return line + "\r\n";
}

std::string CsvHead(const Row& row) {
  std::string line;
  for (const Cell& cell : row) absl::StrAppend(&line, line.empty() ? "" : ",", cell.name);
  return line + "\r\n";
}

std::string TableText(const Cell& cell) {
  if (const std::string* text = std::get_if<std::string>(&cell.value)) {
    return text->empty() ? "-" : *text;
  }
  if (const uint64_t* count = std::get_if<uint64_t>(&cell.value)) return absl::StrCat(*count);
  return absl::StrFormat("%.*f", cell.decimals, std::get<double>(cell.value));
}

// Texts to the left, numbers to the right.
std::string Table(const std::vector<Row>& rows) {
  if (rows.empty()) return "no usage in this time\n";
  std::vector<std::vector<std::string>> lines(rows.size() + 1);
  std::vector<bool> is_text;
  for (const Cell& cell : rows.front()) {
    if (cell.title == nullptr) continue;
    lines[0].push_back(cell.title);
    is_text.push_back(std::holds_alternative<std::string>(cell.value));
  }
  std::vector<size_t> widths;
  for (const std::string& title : lines[0]) widths.push_back(title.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    for (const Cell& cell : rows[i]) {
      if (cell.title == nullptr) continue;
      lines[i + 1].push_back(TableText(cell));
      size_t& width = widths[lines[i + 1].size() - 1];
      width = std::max(width, lines[i + 1].back().size());
    }
  }
  std::string table;
  for (const std::vector<std::string>& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) {
      const std::string padding(widths[i] - line[i].size(), ' ');
      absl::StrAppend(&table, i == 0 ? "" : "  ", is_text[i] ? line[i] : padding + line[i],
                      is_text[i] && i + 1 < line.size() ? padding : "");
    }
    table += "\n";
  }
  return table;
}

// `head`: a row as any other, for its names.
std::string Render(const Row& head, const std::vector<Row>& rows, const char* list,
                   UsageFormat format, const UsageNotes& notes) {
  if (format == UsageFormat::kTable) return Table(rows);
  if (format == UsageFormat::kCsv) {
    std::string text = CsvHead(head);
    for (const Row& row : rows) text += CsvLine(row);
    return text;
  }
  ordered_json answer;
  answer[list] = ordered_json::array();
  for (const Row& row : rows) answer[list].push_back(ToJson(row));
  answer["damaged_lines"] = notes.damaged_lines;
  answer["waiting_entries"] = notes.waiting;
  if (notes.complete_since != absl::InfinitePast()) {
    answer["complete_since"] = TimeOf(notes.complete_since);
  }
  if (!notes.next.empty()) answer["next"] = notes.next;
  return answer.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

absl::StatusOr<UsageAnswer> ReportRequests(const std::string& dir, const UsageQuery& query,
                                           uint64_t waiting, absl::Time deadline) {
  UsageAnswer answer;
  std::vector<Row> rows;
  UsagePosition last;
  const auto take = [&](UsageEntry entry, const UsagePosition& behind) {
    if (rows.size() == query.limit) {
      answer.notes.next = last.ToString();
      return false;
    }
    rows.push_back(RowOf(entry));
    last = behind;
    return true;
  };
  TESSERA_ASSIGN_OR_RETURN(const UsageReadResult read,
                           ReadUsageFiles(dir, query.range, deadline, take));
  answer.notes.waiting = waiting;
  answer.notes.damaged_lines = read.damaged_lines;
  answer.notes.first_damage = read.first_damage;
  answer.text = Render(RowOf(UsageEntry()), rows, "requests", query.format, answer.notes);
  return answer;
}

absl::Status ReadQueryFormat(const std::string& text, UsageFormat* format) {
  constexpr std::array<std::pair<const char*, UsageFormat>, 3> kFormats = {
      {{"json", UsageFormat::kJson}, {"csv", UsageFormat::kCsv}, {"table", UsageFormat::kTable}}};
  for (const auto& [name, value] : kFormats) {
    if (text != name) continue;
    *format = value;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("must be json, csv or table");
}

absl::Status ReadQueryParam(const std::string& name, const std::string& value, absl::Time now,
                            UsageQuery* query) {
  if (name == "by") {
    query->by.clear();
    if (value == "request") return absl::OkStatus();
    TESSERA_ASSIGN_OR_RETURN(query->by, ParseUsageFields(value));
  } else if (name == "since") {
    TESSERA_ASSIGN_OR_RETURN(query->range.since, ParseUsageTime(value, now));
  } else if (name == "until") {
    TESSERA_ASSIGN_OR_RETURN(query->range.until, ParseUsageTime(value, now));
  } else if (name == "format") {
    return ReadQueryFormat(value, &query->format);
  } else if (name == "limit") {
    if (!absl::SimpleAtoi(value, &query->limit) || query->limit < 1 ||
        query->limit > kUsageRequestsMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("must be a whole number from 1 to ", kUsageRequestsMax));
    }
  } else if (name == "from") {
    TESSERA_ASSIGN_OR_RETURN(query->range.from, ParseUsagePosition(value));
  } else {
    return absl::InvalidArgumentError(
        "is not known; there is by, since, until, format, limit and from");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<absl::Time> ParseUsageTime(std::string_view text, absl::Time now) {
  const absl::string_view whole(text.data(), text.size());
  absl::Time time;
  std::string reason;
  if (absl::ParseTime(absl::RFC3339_full, whole, &time, &reason)) return time;
  absl::CivilDay day;
  if (absl::ParseCivilTime(whole, &day)) return absl::FromCivil(day, absl::UTCTimeZone());
  double days = 0;
  absl::Duration ago;
  if (!whole.empty() && whole.back() == 'd' &&
      absl::SimpleAtod(whole.substr(0, whole.size() - 1), &days)) {
    ago = days * absl::Hours(24);
  } else if (!absl::ParseDuration(whole, &ago)) {
    return absl::InvalidArgumentError(
        "must be a time like 2026-11-22T10:00:00Z, a day like 2026-11-22, or how long ago, like "
        "24h or 7d");
  }
  if (!(ago >= absl::ZeroDuration()) || ago > absl::Hours(24 * 36500)) {
    return absl::InvalidArgumentError("must be at most 36500 days ago, and not in the future");
  }
  return now - ago;
}

absl::StatusOr<UsageQuery> ParseUsageQuery(const std::map<std::string, std::string>& params,
                                           absl::Time now) {
  UsageQuery query;
  query.by = {UsageField::kTenant};
  for (const auto& [name, value] : params) {
    const absl::Status status = ReadQueryParam(name, value, now, &query);
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("`", name.substr(0, 64), "` ", status.message()));
    }
  }
  if (query.range.until <= query.range.since) {
    return absl::InvalidArgumentError("`until` must be after `since`");
  }
  return query;
}

absl::StatusOr<UsageTotals> SumUsage(const std::string& dir, std::vector<UsageField> by,
                                     const UsageRange& range, absl::Time deadline,
                                     UsageNotes* notes) {
  UsageTotals totals(std::move(by));
  const auto take = [&totals](UsageEntry entry, const UsagePosition&) {
    totals.Add(entry);
    return true;
  };
  TESSERA_ASSIGN_OR_RETURN(const UsageReadResult read, ReadUsageFiles(dir, range, deadline, take));
  notes->damaged_lines = read.damaged_lines;
  notes->first_damage = read.first_damage;
  return totals;
}

std::string RenderTotals(const UsageTotals& totals, UsageFormat format, const UsageNotes& notes) {
  std::vector<Row> rows;
  for (const auto& [key, sums] : totals.rows()) rows.push_back(RowOf(totals, key, sums));
  if (format == UsageFormat::kTable && rows.size() > 1) {
    UsageTotals all((std::vector<UsageField>()));
    all.Add(totals);
    for (const auto& [key, sums] : all.rows()) {
      UsageTotals::Key label(totals.by().size(), "");
      label.front() = "all";
      label.push_back(key.back());
      rows.push_back(RowOf(totals, label, sums));
    }
  }
  const UsageTotals::Key no_key(totals.by().size() + 1, "");
  return Render(RowOf(totals, no_key, UsageSums()), rows, "rows", format, notes);
}

absl::StatusOr<UsageAnswer> ReportUsage(const std::string& dir, const UsageQuery& query,
                                        uint64_t waiting, absl::Time deadline) {
  if (query.by.empty()) return ReportRequests(dir, query, waiting, deadline);
  UsageAnswer answer;
  answer.notes.waiting = waiting;
  TESSERA_ASSIGN_OR_RETURN(const UsageTotals totals,
                           SumUsage(dir, query.by, query.range, deadline, &answer.notes));
  answer.text = RenderTotals(totals, query.format, answer.notes);
  return answer;
}

}  // namespace tessera
