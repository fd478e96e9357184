// See the header.

#include "coordinator/api/trace_context.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tessera::api {
namespace {

constexpr size_t kVersion00Bytes = 55;  // 2 + 1 + 32 + 1 + 16 + 1 + 2

bool IsHex(std::string_view digits) {
  return std::all_of(digits.begin(), digits.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(std::string_view digits) {
  return digits.find_first_not_of('0') == std::string_view::npos;
}

// Later versions may say more behind the flags; ff is none.
bool IsUsable(std::string_view header) {
  if (header.size() < kVersion00Bytes || header[2] != '-' || header[35] != '-' ||
      header[52] != '-') {
    return false;
  }
  const std::string_view version = header.substr(0, 2);
  if (!IsHex(version) || version == "ff") return false;
  if (version == "00" && header.size() != kVersion00Bytes) return false;
  if (header.size() > kVersion00Bytes && header[kVersion00Bytes] != '-') return false;
  const std::string_view trace = header.substr(3, 32);
  const std::string_view span = header.substr(36, 16);
  return IsHex(trace) && !IsZero(trace) && IsHex(span) && !IsZero(span) &&
         IsHex(header.substr(53, 2));
}

std::string Digits16(RandomSource& random) {
  return absl::StrCat(absl::Hex(std::max<uint64_t>(random.Next(), 1), absl::kZeroPad16));
}

}  // namespace

std::string TraceContext::ToTraceparent() const {
  return absl::StrCat("00-", trace_id, "-", span_id, "-", flags);
}

TraceContext ContinueTrace(std::string_view traceparent, RandomSource& random) {
  TraceContext context;
  context.span_id = Digits16(random);
  if (IsUsable(traceparent)) {
    context.trace_id = std::string(traceparent.substr(3, 32));
    context.flags = std::string(traceparent.substr(53, 2));
  } else {
    context.trace_id = absl::StrCat(Digits16(random), Digits16(random));
    context.flags = "00";
  }
  return context;
}

}  // namespace tessera::api
