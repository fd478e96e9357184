// What the sampling kernels are told: entries (a row of logits, perhaps through a mask) by parts of
// kPartLogits columns. Each kernel writes one result per entry and part; sampling.cc puts the parts
// together on the host, in order.

#ifndef TESSERA_KERNELS_CUDA_SAMPLING_KERNELS_H_
#define TESSERA_KERNELS_CUDA_SAMPLING_KERNELS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace tessera::cuda {

inline constexpr int kPartLogits = 8192;
inline constexpr int kDigitValues = 256;

struct EntryArguments {
  int entries = 0;
  int parts = 0;  // of a row
  const float* logits = nullptr;
  int64_t stride = 0;
  int64_t columns = 0;
  int64_t vocab_begin = 0;
  const int32_t* row = nullptr;   // [entries]
  const int32_t* mask = nullptr;  // [entries] row of masks or -1; null: none
  const uint32_t* masks = nullptr;
  int64_t mask_stride = 0;  // words
};

struct DeviceCandidate {
  float score;
  int32_t token;  // -1: none
};

// best [entries][parts][n]: the largest of each part in order; equal ones in order of id.
void LaunchTop(const EntryArguments& entries, int n, DeviceCandidate* best, cudaStream_t stream);

struct HistogramArguments {
  const uint32_t* prefix = nullptr;  // [entries], as the next two
  const float* max = nullptr;
  const float* inv_temperature = nullptr;
  int digit = 3;
  uint32_t* count = nullptr;  // [entries][kDigitValues], zero before
  unsigned long long* mass = nullptr;
};
void LaunchHistogram(const EntryArguments& entries, const HistogramArguments& arguments,
                     cudaStream_t stream);

struct DeviceDraw {
  float inv_temperature;
  float threshold;
  int64_t ties_kept;
  uint64_t seed;
  uint32_t position;
  uint32_t choice;
};
// ties [entries][parts] is scratch; best [entries][parts].
void LaunchDraw(const EntryArguments& entries, const DeviceDraw* draws, int32_t* ties,
                DeviceCandidate* best, cudaStream_t stream);

// values[i] = logits[row[i], column[i]], and back.
void LaunchGatherLogits(float* values, const float* logits, int64_t stride, const int2* at, int n,
                        cudaStream_t stream);
void LaunchScatterLogits(float* logits, int64_t stride, const float* values, const int2* at, int n,
                         cudaStream_t stream);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_SAMPLING_KERNELS_H_
