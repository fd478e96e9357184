// Recorded decode steps, where the device can record: from the embedding to the logits in one
// launch. A step is stood for by a bucket of rows and a width of block tables; the first step of a
// bucket is computed as it is, the second recorded, the others replayed. Recordings name addresses,
// so they belong to one engine (one epoch) and die with it. Owned by the engine, on its thread.

#ifndef TESSERA_WORKER_DECODE_GRAPHS_H_
#define TESSERA_WORKER_DECODE_GRAPHS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "kernels/ops.h"
#include "worker/plan_check.h"
#include "worker/step_input.h"

namespace tessera {

// Recordings one engine keeps; further buckets are computed as they are.
inline constexpr int kRecordingsMax = 128;
// A device that takes longer for one is not asked again.
inline constexpr absl::Duration kRecordingTimeMax = absl::Seconds(2);

// How many rows stand for `rows`: 1, 2, 4, 8, then eighths of the next power of two, at most `max`.
int64_t DecodeRowsBucket(int64_t rows, int64_t max);

// One token a row, each with its logits, all rows in one run.
bool IsDecode(const StepInput& input);

// The step `input` with rows up to `rows` that read and write one spare block of each KvGroup, and
// block tables of the next power of two, at most `width_max`. What samples is left out.
void PadDecode(const StepInput& input, int64_t rows, const std::vector<uint32_t>& spare_block,
               int64_t width_max, StepInput& padded);

class DecodeGraphs {
 public:
  // `ops` and `clock` must outlive the object.
  DecodeGraphs(Ops& ops, const Clock& clock) : ops_(ops), clock_(clock) {}

  // What `forward` gives for the padded step: computed, recorded or replayed. An error is
  // `forward`'s or the device's; one while recording only ends recording.
  absl::StatusOr<TensorView> Run(const ExecContext& ctx, const StepInput& padded,
                                 const std::function<absl::StatusOr<TensorView>()>& forward);

  // What happened since the last call, for the log; empty: nothing.
  std::string TakeNews() { return std::exchange(news_, ""); }
  int recordings() const { return recordings_; }

 private:
  struct Entry {
    Ops::Recording recording;
    TensorView logits;
  };
  // Records the step; false when it was not recorded.
  absl::StatusOr<bool> Record(const ExecContext& ctx, int64_t rows, Entry& entry,
                              const std::function<absl::StatusOr<TensorView>()>& forward);

  Ops& ops_;
  const Clock& clock_;
  // Rows, widths of the block tables and which rotary table -> what was recorded, nothing where it
  // was only seen.
  std::map<std::pair<int64_t, std::vector<int64_t>>, Entry> entries_;
  bool stopped_ = false;
  int recordings_ = 0;
  absl::Duration spent_;
  std::string news_;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_DECODE_GRAPHS_H_
