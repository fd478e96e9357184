// The sampler's passes on the device. A block of 256 threads owns one part of one entry's row and
// keeps its 8192 logits in registers, 32 a thread in groups of four neighbours.

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/sampling_kernels.h"
#include "kernels/logit_key.h"
#include "kernels/philox.h"

namespace tessera::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kFours = kPartLogits / kThreads / 4;  // groups of a thread
constexpr int kLogits = 4 * kFours;                 // logits of a thread

// Column (in the part) of logit i of this thread.
__device__ int ColumnOf(int i) {
  return (i / 4 * kThreads + static_cast<int>(threadIdx.x)) * 4 + i % 4;
}

// This thread's logits of the block's part; NaN where there is none, -inf where the mask says so.
__device__ void LoadPart(const EntryArguments& e, float (&x)[kLogits]) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kPartLogits;
  const int entry = static_cast<int>(blockIdx.y);
  const float* row = e.logits + e.row[entry] * e.stride;
  const int32_t mask = e.mask == nullptr ? -1 : e.mask[entry];
#pragma unroll
  for (int i = 0; i < kLogits; ++i) {
    const int64_t column = begin + ColumnOf(i);
    x[i] = __int_as_float(0x7fc00000);
    if (column >= e.columns) continue;
    x[i] = row[column];
    if (mask < 0) continue;
    const uint32_t word = e.masks[mask * e.mask_stride + column / 32];
    if (!((word >> (column % 32)) & 1)) x[i] = -INFINITY;
  }
}

// The better of two: larger, then lower id; a token of -1 is none.
__device__ bool Beats(float score, int32_t token, float other, int32_t other_token) {
  if (token < 0 || other_token < 0) return other_token < 0 && token >= 0;
  return score > other || (score == other && token < other_token);
}

// The best candidate of the block, on every thread.
__device__ DeviceCandidate BlockBest(float score, int32_t token, DeviceCandidate* shared) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, score, offset);
    const int32_t other_token = __shfl_xor_sync(0xffffffffu, token, offset);
    if (Beats(other, other_token, score, token)) {
      score = other;
      token = other_token;
    }
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = {score, token};
  __syncthreads();
  DeviceCandidate best = shared[0];
  for (int w = 1; w < kThreads / 32; ++w) {
    if (Beats(shared[w].score, shared[w].token, best.score, best.token)) best = shared[w];
  }
  return best;
}

__global__ void __launch_bounds__(kThreads)
    TopKernel(EntryArguments e, int n, DeviceCandidate* best) {
  __shared__ DeviceCandidate shared[kThreads / 32];
  float x[kLogits];
  LoadPart(e, x);
  const int32_t first =
      static_cast<int32_t>(e.vocab_begin) + static_cast<int32_t>(blockIdx.x) * kPartLogits;
  uint32_t taken = 0;  // bit i: logit i is in the result
  DeviceCandidate* out = best + (static_cast<int64_t>(blockIdx.y) * e.parts + blockIdx.x) * n;
  for (int place = 0; place < n; ++place) {
    float score = -INFINITY;
    int32_t token = -1;
    int at = 0;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) {
      if (x[i] != x[i] || ((taken >> i) & 1)) continue;
      if (Beats(x[i], first + ColumnOf(i), score, token)) {
        score = x[i];
        token = first + ColumnOf(i);
        at = i;
      }
    }
    const DeviceCandidate found = BlockBest(score, token, shared);
    if (found.token == token && token >= 0) taken |= 1u << at;
    if (threadIdx.x == 0) out[place] = found;
  }
}

__global__ void __launch_bounds__(kThreads)
    HistogramKernel(EntryArguments e, HistogramArguments h) {
  __shared__ uint32_t count[kDigitValues];
  __shared__ unsigned long long mass[kDigitValues];
  for (int i = static_cast<int>(threadIdx.x); i < kDigitValues; i += kThreads) {
    count[i] = 0;
    mass[i] = 0;
  }
  __syncthreads();
  float x[kLogits];
  LoadPart(e, x);
  const int entry = static_cast<int>(blockIdx.y);
  const float max = h.max[entry];
  const float scale = h.inv_temperature[entry];
  const uint32_t prefix = h.prefix[entry];
#pragma unroll
  for (int i = 0; i < kLogits; ++i) {
    if (x[i] != x[i]) continue;
    const uint32_t key = LogitKey(x[i]);
    if (!LogitKeyMatches(key, prefix, h.digit)) continue;
    // As cpu::ExpScaledRow has it, then rounded to units of 2^-40.
    const float weight = x[i] < max ? ExactExp((x[i] - max) * scale) : 1.0f;
    const uint32_t byte = LogitKeyDigit(key, h.digit);
    atomicAdd(&count[byte], 1u);
    const unsigned long long units =
        static_cast<unsigned long long>(__double2ll_rn(0x1p40 * static_cast<double>(weight)));
    if (units != 0) atomicAdd(&mass[byte], units);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kDigitValues; i += kThreads) {
    if (count[i] == 0) continue;
    atomicAdd(&h.count[static_cast<int64_t>(entry) * kDigitValues + i], count[i]);
    atomicAdd(&h.mass[static_cast<int64_t>(entry) * kDigitValues + i], mass[i]);
  }
}

// Ties at the threshold in every part.
__global__ void __launch_bounds__(kThreads)
    TiesKernel(EntryArguments e, const DeviceDraw* draws, int32_t* ties) {
  __shared__ int total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  float x[kLogits];
  LoadPart(e, x);
  const float threshold = draws[blockIdx.y].threshold;
  int mine = 0;
#pragma unroll
  for (int i = 0; i < kLogits; ++i) mine += x[i] == threshold;
  if (mine != 0) atomicAdd(&total, mine);
  __syncthreads();
  if (threadIdx.x == 0) ties[static_cast<int64_t>(blockIdx.y) * e.parts + blockIdx.x] = total;
}

// Exclusive sum over the block's threads; `total` is the whole.
__device__ int BlockPrefix(int mine, int* shared, int& total) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int sum = mine;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += other;
  }
  __syncthreads();
  if (lane == 31) shared[threadIdx.x / 32] = sum;
  __syncthreads();
  total = 0;
  for (int w = 0; w < kThreads / 32; ++w) {
    if (w < static_cast<int>(threadIdx.x) / 32) sum += shared[w];
    total += shared[w];
  }
  return sum - mine;
}

// Turns the logits that may not be drawn into NaN: those below the threshold, and ties beyond the
// first `ties_kept` in order of id. Ties at -inf are all kept.
__device__ void KeepDrawable(const EntryArguments& e, const DeviceDraw& draw, const int32_t* ties,
                             float (&x)[kLogits], int* shared) {
  const float nothing = __int_as_float(0x7fc00000);
  const int32_t* row_ties = ties + static_cast<int64_t>(blockIdx.y) * e.parts;
  int64_t before = 0;
  for (int p = 0; p < static_cast<int>(blockIdx.x); ++p) before += row_ties[p];
  const bool all = draw.threshold == -INFINITY || before + row_ties[blockIdx.x] <= draw.ties_kept;
  const bool none = !all && before >= draw.ties_kept;
#pragma unroll
  for (int i = 0; i < kLogits; ++i) {
    if (x[i] < draw.threshold || (none && x[i] == draw.threshold)) x[i] = nothing;
  }
  if (all || none) return;
    // The border runs through this part. Ids go up by group of four, then by thread.
#pragma unroll
  for (int four = 0; four < kFours; ++four) {
    int mine = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) mine += x[4 * four + i] == draw.threshold;
    int total = 0;
    int64_t place = before + BlockPrefix(mine, shared, total);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (x[4 * four + i] != draw.threshold) continue;
      if (place++ >= draw.ties_kept) x[4 * four + i] = nothing;
    }
    before += total;
  }
}

// log(logit / T + noise) in float32 is within this of the exact score, relative to 1 + |score|.
constexpr float kSlack = 1e-4f;

__global__ void __launch_bounds__(kThreads) DrawKernel(EntryArguments e, const DeviceDraw* draws,
                                                       const int32_t* ties, DeviceCandidate* best) {
  __shared__ DeviceCandidate shared[kThreads / 32];
  __shared__ int sums[kThreads / 32];
  float x[kLogits];
  LoadPart(e, x);
  const DeviceDraw draw = draws[blockIdx.y];
  KeepDrawable(e, draw, ties, x, sums);
  const uint32_t first = static_cast<uint32_t>(e.vocab_begin) + blockIdx.x * kPartLogits;
  // First in float32, then exactly what could still win.
  float rough[kLogits];
  float top = -INFINITY;
  uint32_t group = 0xffffffffu;
  PhiloxCounter words{};
  const auto word_of = [&](uint32_t token) {
    if (group != token >> 2) {
      group = token >> 2;
      words = GumbelWords(draw.seed, draw.position, draw.choice, group);
    }
    const uint32_t i = token & 3;
    return i == 0 ? words[0] : i == 1 ? words[1] : i == 2 ? words[2] : words[3];
  };
#pragma unroll
  for (int i = 0; i < kLogits; ++i) {
    rough[i] = -INFINITY;
    if (x[i] != x[i]) continue;
    const uint32_t word = word_of(first + ColumnOf(i));
    const double rest = OneMinusUniform(word);
    const float log_u =
        rest < 0.5 ? log1pf(-static_cast<float>(rest)) : logf(static_cast<float>(1.0 - rest));
    rough[i] = x[i] * draw.inv_temperature - logf(-log_u);
    top = fmaxf(top, rough[i]);
  }
  const float block_top = BlockBest(top, 0, shared).score;
  const float bar =
      isfinite(block_top) ? block_top - kSlack * (1.0f + fabsf(block_top)) : -INFINITY;
  float score = -INFINITY;
  int32_t token = -1;
#pragma unroll
  for (int i = 0; i < kLogits; ++i) {
    if (x[i] != x[i] || !(rough[i] >= bar)) continue;
    const uint32_t id = first + ColumnOf(i);
    const double noise = -log(-log(1.0 - OneMinusUniform(word_of(id))));
    const float exact =
        static_cast<float>(static_cast<double>(x[i]) * draw.inv_temperature + noise);
    if (Beats(exact, static_cast<int32_t>(id), score, token)) {
      score = exact;
      token = static_cast<int32_t>(id);
    }
  }
  const DeviceCandidate found = BlockBest(score, token, shared);
  if (threadIdx.x == 0) best[static_cast<int64_t>(blockIdx.y) * e.parts + blockIdx.x] = found;
}

__global__ void GatherLogitsKernel(float* values, const float* logits, int64_t stride,
                                   const int2* at, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) values[i] = logits[at[i].x * stride + at[i].y];
}

__global__ void ScatterLogitsKernel(float* logits, int64_t stride, const float* values,
                                    const int2* at, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) logits[at[i].x * stride + at[i].y] = values[i];
}

dim3 GridOf(const EntryArguments& e) {
  return dim3(static_cast<unsigned>(e.parts), static_cast<unsigned>(e.entries));
}

}  // namespace

void LaunchTop(const EntryArguments& e, int n, DeviceCandidate* best, cudaStream_t stream) {
  TopKernel<<<GridOf(e), kThreads, 0, stream>>>(e, n, best);
}

void LaunchHistogram(const EntryArguments& e, const HistogramArguments& h, cudaStream_t stream) {
  HistogramKernel<<<GridOf(e), kThreads, 0, stream>>>(e, h);
}

void LaunchDraw(const EntryArguments& e, const DeviceDraw* draws, int32_t* ties,
                DeviceCandidate* best, cudaStream_t stream) {
  TiesKernel<<<GridOf(e), kThreads, 0, stream>>>(e, draws, ties);
  DrawKernel<<<GridOf(e), kThreads, 0, stream>>>(e, draws, ties, best);
}

void LaunchGatherLogits(float* values, const float* logits, int64_t stride, const int2* at, int n,
                        cudaStream_t stream) {
  GatherLogitsKernel<<<(n + 255) / 256, 256, 0, stream>>>(values, logits, stride, at, n);
}

void LaunchScatterLogits(float* logits, int64_t stride, const float* values, const int2* at, int n,
                         cudaStream_t stream) {
  ScatterLogitsKernel<<<(n + 255) / 256, 256, 0, stream>>>(logits, stride, values, at, n);
}

}  // namespace tessera::cuda
