// See the header.

#include "coordinator/ledger/usage_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/status.h"

namespace tessera {
namespace {

constexpr char kPrefix[] = "usage-";
constexpr char kSuffix[] = ".jsonl";
constexpr size_t kReadBytes = 256 << 10;
// A file holds what was written on its day. What finished before may be in it too: just before
// midnight, or while the disk was full.
constexpr absl::Duration kLate = absl::Hours(24);

absl::Status ReadError(const std::string& path) {
  return absl::InternalError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
}

// The lines of one file, each at most kUsageLineBytesMax; a last one without its end is left out.
class LineReader {
 public:
  static absl::StatusOr<LineReader> Open(const std::string& path, uint64_t offset) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return ReadError(path);
    return LineReader(path, fd, offset);
  }
  LineReader(LineReader&& other) noexcept
      : path_(std::move(other.path_)),
        fd_(std::exchange(other.fd_, -1)),
        buffer_(std::move(other.buffer_)),
        begin_(other.begin_),
        offset_(other.offset_) {}
  LineReader& operator=(LineReader&&) = delete;
  ~LineReader() {
    if (fd_ >= 0) close(fd_);
  }

  // False at the end. A line that is too long comes as an empty one.
  absl::StatusOr<bool> Next(std::string_view* line) {
    bool too_long = false;
    while (true) {
      const size_t end = buffer_.find('\n', begin_);
      if (end != std::string::npos) {
        *line =
            too_long ? std::string_view() : std::string_view(buffer_).substr(begin_, end - begin_);
        if (line->size() > kUsageLineBytesMax) *line = std::string_view();
        offset_ += end + 1 - begin_;
        begin_ = end + 1;
        return true;
      }
      if (buffer_.size() - begin_ > kUsageLineBytesMax) {
        too_long = true;
        offset_ += buffer_.size() - begin_;
        begin_ = buffer_.size();
      }
      TESSERA_ASSIGN_OR_RETURN(const bool more, Fill());
      if (!more) return false;
    }
  }
  uint64_t offset() const { return offset_; }  // of the next line

 private:
  LineReader(std::string path, int fd, uint64_t offset)
      : path_(std::move(path)), fd_(fd), offset_(offset) {}

  absl::StatusOr<bool> Fill() {
    buffer_.erase(0, begin_);
    begin_ = 0;
    const size_t old_size = buffer_.size();
    buffer_.resize(old_size + kReadBytes);
    const ssize_t bytes =
        pread(fd_, buffer_.data() + old_size, kReadBytes, static_cast<off_t>(offset_ + old_size));
    if (bytes < 0) return ReadError(path_);
    buffer_.resize(old_size + static_cast<size_t>(bytes));
    return bytes > 0;
  }

  std::string path_;
  int fd_;
  std::string buffer_;
  size_t begin_ = 0;  // of the next line in it
  uint64_t offset_;   // of the same in the file
};

}  // namespace

std::string UsageFileName::ToString() const {
  return absl::StrFormat("%s%04d%02d%02d-%04d%s", kPrefix, day.year(), day.month(), day.day(),
                         number, kSuffix);
}

bool ParseUsageFileName(std::string_view text, UsageFileName* name) {
  const absl::string_view whole(text.data(), text.size());
  // "usage-" 8 digits "-" 4 or more digits ".jsonl"
  constexpr size_t kDayAt = sizeof(kPrefix) - 1;
  constexpr size_t kNumberAt = kDayAt + 9;
  if (whole.size() < kNumberAt + 4 + sizeof(kSuffix) - 1) return false;
  if (!absl::StartsWith(whole, kPrefix) || !absl::EndsWith(whole, kSuffix)) return false;
  int day = 0;
  UsageFileName parsed;
  if (!absl::SimpleAtoi(whole.substr(kDayAt, 8), &day) ||
      !absl::SimpleAtoi(whole.substr(kNumberAt, whole.size() - kNumberAt - (sizeof(kSuffix) - 1)),
                        &parsed.number)) {
    return false;
  }
  parsed.day = absl::CivilDay(day / 10'000, day / 100 % 100, day % 100);
  // Only what ToString would write: "+1" and the 31st of February are numbers too.
  if (parsed.number < 1 || parsed.number > kUsageFilesPerDayMax || parsed.ToString() != whole) {
    return false;
  }
  *name = parsed;
  return true;
}

absl::StatusOr<std::vector<UsageFileName>> ListUsageFiles(const std::string& dir) {
  DIR* stream = opendir(dir.c_str());
  if (stream == nullptr) {
    const std::string why = absl::StrCat("the usage directory ", dir, ": ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(why) : absl::InternalError(why);
  }
  std::vector<UsageFileName> files;
  while (const dirent* entry = readdir(stream)) {
    UsageFileName name;
    if (ParseUsageFileName(entry->d_name, &name)) files.push_back(name);
    if (files.size() > kUsageFilesMax) break;
  }
  closedir(stream);
  if (files.size() > kUsageFilesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(dir, " has more than ", kUsageFilesMax, " usage files"));
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string UsagePosition::ToString() const { return absl::StrCat(file.ToString(), ":", offset); }

absl::StatusOr<UsagePosition> ParseUsagePosition(std::string_view text) {
  const size_t colon = text.rfind(':');
  UsagePosition position;
  if (colon == std::string_view::npos ||
      !ParseUsageFileName(text.substr(0, colon), &position.file) ||
      !absl::SimpleAtoi(absl::string_view(text.data() + colon + 1, text.size() - colon - 1),
                        &position.offset)) {
    return absl::InvalidArgumentError("must be what an earlier answer gave as `next`");
  }
  return position;
}

absl::StatusOr<UsageReadResult> ReadUsageFiles(
    const std::string& dir, const UsageRange& range, absl::Time deadline,
    const std::function<bool(UsageEntry entry, const UsagePosition& behind)>& visit) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<UsageFileName> files, ListUsageFiles(dir));
  UsageReadResult result;
  for (const UsageFileName& file : files) {
    const absl::Time day = absl::FromCivil(file.day, absl::UTCTimeZone());
    if (file < range.from.file || day + absl::Hours(24) <= range.since ||
        day - kLate >= range.until) {
      continue;
    }
    const std::string path = absl::StrCat(dir, "/", file.ToString());
    const uint64_t offset = file == range.from.file ? range.from.offset : 0;
    TESSERA_ASSIGN_OR_RETURN(LineReader reader, LineReader::Open(path, offset));
    std::string_view line;
    while (true) {
      const uint64_t begin = reader.offset();
      TESSERA_ASSIGN_OR_RETURN(const bool more, reader.Next(&line));
      if (!more) break;
      absl::StatusOr<UsageEntry> entry = ParseUsageLine(line);
      if (!entry.ok()) {
        if (result.damaged_lines++ == 0) {
          result.first_damage =
              absl::StrCat(file.ToString(), ", byte ", begin, ": ", entry.status().message());
        }
        continue;
      }
      if (entry->finished < range.since || entry->finished >= range.until) continue;
      if (!visit(*std::move(entry), {file, reader.offset()})) {
        result.stopped = true;
        return result;
      }
    }
    if (absl::Now() > deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("the usage files of ", dir,
                       " are too large to be read in time; ask for a shorter range"));
    }
  }
  return result;
}

}  // namespace tessera
