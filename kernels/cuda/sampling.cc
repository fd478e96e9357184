// The sampler's passes: entries are uploaded in batches that fit the scratch, each part of a row
// gives one result, and the parts are put together here in the order of ids.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cuda/cuda_ops.h"

namespace tessera::cuda {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
// Grid y of a launch.
constexpr size_t kEntriesMax = 32768;

void CheckRows(const LogitRows& rows) {
  TESSERA_CHECK(rows.logits.rank == 2 && rows.logits.dtype == DType::kFloat32)
      << "logits of rank " << rows.logits.rank << " " << DTypeName(rows.logits.dtype);
  for (const int32_t row : rows.row) {
    TESSERA_CHECK(row >= 0 && row < rows.logits.dims[0]) << row << " of " << rows.logits.dims[0];
  }
  if (rows.mask.empty()) return;
  TESSERA_CHECK(rows.mask.size() == rows.row.size() && rows.masks.dtype == DType::kInt32 &&
                rows.masks.dims[1] == (rows.logits.dims[1] + 31) / 32)
      << rows.mask.size() << " masks of " << rows.masks.dims[1] << " words";
  for (const int32_t mask : rows.mask) {
    TESSERA_CHECK(mask >= -1 && mask < rows.masks.dims[0]) << mask << " of " << rows.masks.dims[0];
  }
}

size_t PartsOf(const LogitRows& rows) {
  return static_cast<size_t>((rows.logits.dims[1] + kPartLogits - 1) / kPartLogits);
}

Candidate CandidateOf(const DeviceCandidate& candidate) {
  return {candidate.score, candidate.token};
}

}  // namespace

// Hands out the scratch piece by piece.
class CudaOps::Scratch {
 public:
  Scratch(CudaOps& ops, const ExecContext& context)
      : ops_(ops), stream_(StreamOf(context)), at_(static_cast<char*>(ops.scratch_.data())) {}

  template <typename T>
  T* Take(size_t n) {
    T* place = reinterpret_cast<T*>(at_);
    at_ += (n * sizeof(T) + 255) / 256 * 256;
    TESSERA_CHECK(at_ <= static_cast<char*>(ops_.scratch_.data()) + kScratchBytes) << n;
    return place;
  }
  // The same, holding values[0 .. n).
  template <typename T>
  T* Put(const T* values, size_t n) {
    T* place = Take<T>(n);
    ops_.Keep(ops_.staging_->Upload(place, values, n * sizeof(T), stream_), "copy to the GPU");
    return place;
  }
  template <typename T>
  T* Zeros(size_t n) {
    T* place = Take<T>(n);
    ops_.Keep(cudaMemsetAsync(place, 0, n * sizeof(T), stream_), "clear scratch");
    return place;
  }
  template <typename T>
  void Get(T* values, const T* place, size_t n) {
    ops_.Keep(ops_.staging_->Download(values, place, n * sizeof(T), stream_), "copy from the GPU");
  }
  cudaStream_t stream() const { return stream_; }

 private:
  CudaOps& ops_;
  const cudaStream_t stream_;
  char* at_;
};

size_t CudaOps::EntriesAtOnce(const LogitRows& rows, size_t bytes_per_part,
                              size_t bytes_per_entry) const {
  // Every piece may be rounded up by 256 bytes; row and mask are 8 bytes an entry.
  const size_t each = PartsOf(rows) * bytes_per_part + bytes_per_entry + 8;
  return std::clamp<size_t>((kScratchBytes - 4096) / each, 1, kEntriesMax);
}

EntryArguments CudaOps::UploadEntries(Scratch& scratch, const LogitRows& rows, size_t begin,
                                      size_t count) {
  EntryArguments entries;
  entries.entries = static_cast<int>(count);
  entries.parts = static_cast<int>(PartsOf(rows));
  entries.logits = rows.logits.as<const float>();
  entries.stride = rows.logits.stride;
  entries.columns = rows.logits.dims[1];
  entries.vocab_begin = rows.vocab_begin;
  entries.row = scratch.Put(rows.row.data() + begin, count);
  if (!rows.mask.empty()) {
    entries.mask = scratch.Put(rows.mask.data() + begin, count);
    entries.masks = rows.masks.as<const uint32_t>();
    entries.mask_stride = rows.masks.stride;
  }
  return entries;
}

void CudaOps::TopLogits(const ExecContext& context, std::vector<Candidate>& best,
                        const LogitRows& rows, int n) {
  TESSERA_CHECK(n >= 1 && n <= kTopLogitsMax) << n;
  CheckRows(rows);
  best.assign(rows.row.size() * n, Candidate{kLowest, -1});
  Enter();
  const size_t parts = PartsOf(rows);
  const size_t at_once = EntriesAtOnce(rows, n * sizeof(DeviceCandidate), 0);
  for (size_t begin = 0; begin < rows.row.size() && parts > 0 && error_.ok(); begin += at_once) {
    const size_t count = std::min(at_once, rows.row.size() - begin);
    Scratch scratch(*this, context);
    const EntryArguments entries = UploadEntries(scratch, rows, begin, count);
    DeviceCandidate* device = scratch.Take<DeviceCandidate>(count * parts * n);
    LaunchTop(entries, n, device, scratch.stream());
    Launched("find the largest logits");
    candidates_.resize(count * parts * n);
    scratch.Get(candidates_.data(), device, candidates_.size());
    if (!error_.ok()) break;
    for (size_t entry = 0; entry < count; ++entry) {
      // Parts are in order of id, so an equal logit of a later part goes behind.
      Candidate* to = &best[(begin + entry) * n];
      for (size_t i = 0; i < parts * n; ++i) {
        const Candidate candidate = CandidateOf(candidates_[entry * parts * n + i]);
        if (candidate.token < 0) continue;
        if (to[n - 1].token >= 0 && !(candidate.score > to[n - 1].score)) continue;
        int place = n - 1;
        for (; place > 0 && (to[place - 1].token < 0 || candidate.score > to[place - 1].score);
             --place) {
          to[place] = to[place - 1];
        }
        to[place] = candidate;
      }
    }
  }
}

void CudaOps::MassHistogram(const ExecContext& context, std::vector<uint32_t>& count,
                            std::vector<uint64_t>& mass, const LogitRows& rows,
                            const std::vector<uint32_t>& prefix, int digit,
                            const std::vector<float>& max,
                            const std::vector<float>& inv_temperature) {
  const size_t all = rows.row.size();
  TESSERA_CHECK(prefix.size() == all && max.size() == all && inv_temperature.size() == all &&
                digit >= 0 && digit <= 3)
      << all << " entries, digit " << digit;
  CheckRows(rows);
  count.resize(all * kDigitValues);
  mass.resize(all * kDigitValues);
  Enter();
  const size_t at_once =
      EntriesAtOnce(rows, 0, kDigitValues * (sizeof(uint32_t) + sizeof(uint64_t)) + 12);
  std::vector<uint32_t> counted;
  std::vector<unsigned long long> weighed;
  for (size_t begin = 0; begin < all && PartsOf(rows) > 0 && error_.ok(); begin += at_once) {
    const size_t n = std::min(at_once, all - begin);
    Scratch scratch(*this, context);
    const EntryArguments entries = UploadEntries(scratch, rows, begin, n);
    HistogramArguments arguments;
    arguments.prefix = scratch.Put(prefix.data() + begin, n);
    arguments.max = scratch.Put(max.data() + begin, n);
    arguments.inv_temperature = scratch.Put(inv_temperature.data() + begin, n);
    arguments.digit = digit;
    arguments.count = scratch.Zeros<uint32_t>(n * kDigitValues);
    arguments.mass = scratch.Zeros<unsigned long long>(n * kDigitValues);
    LaunchHistogram(entries, arguments, scratch.stream());
    Launched("count logits");
    counted.resize(n * kDigitValues);
    weighed.resize(n * kDigitValues);
    scratch.Get(counted.data(), arguments.count, counted.size());
    scratch.Get(weighed.data(), arguments.mass, weighed.size());
    if (!error_.ok()) break;
    for (size_t i = 0; i < counted.size(); ++i) {
      count[begin * kDigitValues + i] += counted[i];
      mass[begin * kDigitValues + i] += weighed[i];
    }
  }
}

void CudaOps::Draw(const ExecContext& context, std::vector<Candidate>& best, const LogitRows& rows,
                   const std::vector<DrawRow>& draws) {
  TESSERA_CHECK(draws.size() == rows.row.size())
      << draws.size() << " draws for " << rows.row.size() << " entries";
  CheckRows(rows);
  best.assign(draws.size(), Candidate{kLowest, -1});
  Enter();
  const size_t parts = PartsOf(rows);
  const size_t at_once =
      EntriesAtOnce(rows, sizeof(DeviceCandidate) + sizeof(int32_t), sizeof(DeviceDraw));
  std::vector<DeviceDraw> device_draws;
  for (size_t begin = 0; begin < draws.size() && parts > 0 && error_.ok(); begin += at_once) {
    const size_t count = std::min(at_once, draws.size() - begin);
    device_draws.clear();
    for (size_t i = begin; i < begin + count; ++i) {
      device_draws.push_back({draws[i].inv_temperature, draws[i].threshold, draws[i].ties_kept,
                              draws[i].seed, draws[i].position, draws[i].choice});
    }
    Scratch scratch(*this, context);
    const EntryArguments entries = UploadEntries(scratch, rows, begin, count);
    const DeviceDraw* draws_there = scratch.Put(device_draws.data(), count);
    int32_t* ties = scratch.Take<int32_t>(count * parts);
    DeviceCandidate* device = scratch.Take<DeviceCandidate>(count * parts);
    LaunchDraw(entries, draws_there, ties, device, scratch.stream());
    Launched("draw");
    candidates_.resize(count * parts);
    scratch.Get(candidates_.data(), device, candidates_.size());
    if (!error_.ok()) break;
    for (size_t i = 0; i < candidates_.size(); ++i) {
      const Candidate candidate = CandidateOf(candidates_[i]);
      Candidate& to = best[begin + i / parts];
      if (candidate.token >= 0 && (to.token < 0 || candidate.score > to.score)) to = candidate;
    }
  }
}

void CudaOps::GatherLogits(const ExecContext& context, std::vector<float>& values,
                           TensorView logits, const std::vector<LogitPlace>& at) {
  static_assert(sizeof(LogitPlace) == sizeof(int2));
  constexpr size_t kAtOnce = kScratchBytes / 16;
  values.assign(at.size(), 0.0f);
  Enter();
  for (const LogitPlace& place : at) {
    TESSERA_CHECK(place.row >= 0 && place.row < logits.dims[0] && place.column >= 0 &&
                  place.column < logits.dims[1])
        << "[" << place.row << ", " << place.column << "]";
  }
  for (size_t begin = 0; begin < at.size() && error_.ok(); begin += kAtOnce) {
    const size_t n = std::min(kAtOnce, at.size() - begin);
    Scratch scratch(*this, context);
    const LogitPlace* places = scratch.Put(at.data() + begin, n);
    float* device = scratch.Take<float>(n);
    LaunchGatherLogits(device, logits.as<const float>(), logits.stride,
                       reinterpret_cast<const int2*>(places), static_cast<int>(n),
                       scratch.stream());
    Launched("read logits");
    scratch.Get(values.data() + begin, device, n);
  }
}

void CudaOps::ScatterLogits(const ExecContext& context, TensorView logits,
                            const std::vector<LogitPlace>& at, const std::vector<float>& values) {
  constexpr size_t kAtOnce = kScratchBytes / 16;
  TESSERA_CHECK(values.size() == at.size())
      << values.size() << " logits, " << at.size() << " places";
  Enter();
  for (const LogitPlace& place : at) {
    TESSERA_CHECK(place.row >= 0 && place.row < logits.dims[0] && place.column >= 0 &&
                  place.column < logits.dims[1])
        << "[" << place.row << ", " << place.column << "]";
  }
  for (size_t begin = 0; begin < at.size() && error_.ok(); begin += kAtOnce) {
    const size_t n = std::min(kAtOnce, at.size() - begin);
    Scratch scratch(*this, context);
    const LogitPlace* places = scratch.Put(at.data() + begin, n);
    const float* device = scratch.Put(values.data() + begin, n);
    LaunchScatterLogits(logits.as<float>(), logits.stride, device,
                        reinterpret_cast<const int2*>(places), static_cast<int>(n),
                        scratch.stream());
    Launched("write logits");
  }
}

}  // namespace tessera::cuda
