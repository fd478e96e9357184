// See the header.

#include "worker/decode_graphs.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tessera {

int64_t DecodeRowsBucket(int64_t rows, int64_t max) {
  int64_t bucket = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
  if (rows > 8) {
    const int64_t step = std::max<int64_t>(8, bucket / 8);
    bucket = (rows + step - 1) / step * step;
  }
  return std::max(rows, std::min(bucket, max));
}

bool IsDecode(const StepInput& input) {
  return input.num_rows() > 0 && input.num_tokens() == input.num_rows() &&
         static_cast<int64_t>(input.output_token.size()) == input.num_rows() &&
         input.runs.size() == 1;
}

void PadDecode(const StepInput& input, int64_t rows, const std::vector<uint32_t>& spare_block,
               int64_t width_max, StepInput& padded) {
  TESSERA_CHECK(IsDecode(input) && rows >= input.num_rows()) << rows;
  padded.tokens = input.tokens;
  padded.positions = input.positions;
  padded.kv_length = input.kv_length;
  padded.tokens.resize(rows, 0);
  padded.positions.resize(rows, 0);
  padded.kv_length.resize(rows, 1);
  padded.query_begin.resize(rows + 1);
  std::iota(padded.query_begin.begin(), padded.query_begin.end(), 0);
  padded.output_token.resize(rows);
  std::iota(padded.output_token.begin(), padded.output_token.end(), 0);
  padded.runs = input.runs;
  padded.runs[0].num_rows = rows;
  padded.run_query_begin = padded.query_begin;
  padded.block_tables.resize(input.block_tables.size());
  for (size_t group = 0; group < input.block_tables.size(); ++group) {
    const StepInput::BlockTable& from = input.block_tables[group];
    StepInput::BlockTable& to = padded.block_tables[group];
    const int64_t wanted = std::max<int64_t>(from.width, 1);
    to.width = std::max(
        wanted,
        std::min(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(wanted))), width_max));
    to.entries.assign(rows * to.width, 0);
    for (int64_t row = 0; row < rows; ++row) {
      int32_t* entries = to.entries.data() + row * to.width;
      if (row < input.num_rows()) {
        std::copy_n(from.entries.data() + row * from.width, from.width, entries);
      } else {
        entries[0] = static_cast<int32_t>(spare_block[group]);
      }
    }
  }
}

absl::StatusOr<bool> DecodeGraphs::Record(
    const ExecContext& ctx, int64_t rows, Entry& entry,
    const std::function<absl::StatusOr<TensorView>()>& forward) {
  const absl::Time begin = clock_.Now();
  absl::Status failed = ops_.BeginRecording(ctx);
  if (failed.ok()) {
    const absl::StatusOr<TensorView> logits = forward();
    // The device leaves its recording whatever became of the step.
    absl::StatusOr<Ops::Recording> recording = ops_.EndRecording(ctx);
    if (!logits.ok()) return logits.status();
    failed = recording.status();
    if (failed.ok()) entry = {*std::move(recording), *logits};
  }
  const absl::Duration took = clock_.Now() - begin;
  spent_ += took;
  if (!failed.ok()) {
    stopped_ = true;
    news_ = absl::StrCat("decode steps are not recorded from now on: ", failed.message());
    return false;
  }
  ++recordings_;
  stopped_ = recordings_ == kRecordingsMax || took > kRecordingTimeMax;
  news_ = absl::StrCat("recorded decode of ", rows, " rows in ", absl::ToInt64Milliseconds(took),
                       " ms (", recordings_, " recordings, ", absl::ToInt64Milliseconds(spent_),
                       " ms in all", stopped_ ? "; no more" : "", ")");
  return true;
}

absl::StatusOr<TensorView> DecodeGraphs::Run(
    const ExecContext& ctx, const StepInput& padded,
    const std::function<absl::StatusOr<TensorView>()>& forward) {
  std::vector<int64_t> widths;
  for (const StepInput::BlockTable& table : padded.block_tables) widths.push_back(table.width);
  // The recording names one of the two rotary tables.
  widths.push_back(!padded.runs.empty() && padded.runs[0].long_rope ? 1 : 0);
  const auto key = std::pair(padded.num_rows(), std::move(widths));
  const auto found = entries_.find(key);
  if (found == entries_.end()) {
    // What is called for the first time may have to be loaded, which cannot be recorded.
    if (!stopped_) entries_.emplace(key, Entry());
    return forward();
  }
  Entry& entry = found->second;
  if (entry.recording == nullptr) {
    if (stopped_) return forward();
    TESSERA_ASSIGN_OR_RETURN(const bool recorded, Record(ctx, key.first, entry, forward));
    if (!recorded) return forward();
  }
  TESSERA_RETURN_IF_ERROR(ops_.Replay(ctx, entry.recording));
  return entry.logits;
}

}  // namespace tessera
