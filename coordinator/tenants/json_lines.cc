// The parser's callback says what comes, an iterator that counts says on which line; see
// json_lines.h.

#include "coordinator/tenants/json_lines.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

using nlohmann::json;

// Reads a text and tells outside how far it is.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, int* line) : at_(at), line_(line) {}
  const char& operator*() const { return *at_; }
  CountingIterator& operator++() {
    if (*at_++ == '\n') ++*line_;
    return *this;
  }
  CountingIterator operator++(int) {
    const CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  int* line_;
};

// Follows the parser through objects and arrays and notes the line of everything.
class LineNotes {
 public:
  explicit LineNotes(const int* line) : line_(line) {}

  bool Note(json::parse_event_t event, const json& parsed) {
    switch (event) {
      case json::parse_event_t::key:
        open_.back().child = Child(parsed.get_ref<const std::string&>());
        if (!lines_.emplace(open_.back().child, *line_).second && duplicate_.empty()) {
          duplicate_ = absl::StrCat("line ", *line_, ": ", open_.back().child, " is given twice");
        }
        break;
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        open_.push_back({NextPath(), "", event == json::parse_event_t::array_start, 0});
        break;
      case json::parse_event_t::object_end:
      case json::parse_event_t::array_end:
        open_.pop_back();
        break;
      case json::parse_event_t::value:
        NextPath();
        break;
    }
    return true;
  }
  const std::string& duplicate() const { return duplicate_; }
  std::map<std::string, int> TakeLines() { return std::move(lines_); }

 private:
  struct Open {
    std::string path;
    std::string child;  // of an object: the field being read
    bool is_array;
    int next_index;
  };

  std::string Child(const std::string& key) const {
    return open_.back().path.empty() ? key : absl::StrCat(open_.back().path, ".", key);
  }
  // Where the value that begins now belongs.
  std::string NextPath() {
    if (open_.empty()) return "";
    Open& open = open_.back();
    if (!open.is_array) return open.child;
    std::string path = absl::StrCat(open.path, "[", open.next_index++, "]");
    lines_.emplace(path, *line_);
    return path;
  }

  const int* const line_;
  std::vector<Open> open_;
  std::map<std::string, int> lines_;
  std::string duplicate_;
};

}  // namespace

absl::Status JsonLines::Error(const std::string& path, const std::string& message) const {
  const auto found = lines.find(path);
  return absl::InvalidArgumentError(absl::StrCat("line ", found == lines.end() ? 1 : found->second,
                                                 ": ", path.empty() ? "the file" : path, " ",
                                                 message));
}

absl::StatusOr<JsonLines> ParseJsonLines(std::string_view text) {
  int line = 1;
  LineNotes notes(&line);
  JsonLines result;
  try {
    result.root = json::parse(
        CountingIterator(text.data(), &line), CountingIterator(text.data() + text.size(), &line),
        [&](int, json::parse_event_t event, json& parsed) { return notes.Note(event, parsed); });
  } catch (const json::exception&) {
    return absl::InvalidArgumentError(absl::StrCat(
        "line ", line, ": not valid JSON here or just before (a comma, quote or bracket?)"));
  }
  if (!notes.duplicate().empty()) return absl::InvalidArgumentError(notes.duplicate());
  result.lines = notes.TakeLines();
  return result;
}

}  // namespace tessera
