// The GPU's roofs, and the CUDA ops against them. Device time by events: a row is timed as the
// median of replays of a graph that holds it many times over rotating buffers, so that neither the
// launch gaps nor the caches flatter it. Rows print their time, bytes or operations per second, and
// the fraction of the roof measured in the same run. Without a GPU no row is registered, and one
// line says why.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/dtype.h"
#include "kernels/bench/gpu_benches.h"
#include "kernels/ops.h"

namespace tessera {
namespace {

constexpr int kReplays = 9;
constexpr double kDatasheetBytes = 4.8e12;  // per second, H200

// A GPU with memory that rows cut up; everything is freed at the end of a row.
class GpuBench {
 public:
  explicit GpuBench(std::unique_ptr<Ops> ops) : ops_(std::move(ops)) {
    TESSERA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) == cudaSuccess);
    context_.stream = stream_;
    const size_t bytes = size_t{256} << 20;
    workspace_ = *ops_->Allocate(bytes);
    context_.workspace = workspace_.View(DType::kUInt8, {static_cast<int64_t>(bytes)});
  }
  ~GpuBench() { cudaStreamDestroy(stream_); }
  GpuBench(const GpuBench&) = delete;
  GpuBench& operator=(const GpuBench&) = delete;

  Ops& ops() { return *ops_; }
  ExecContext& context() { return context_; }
  cudaStream_t stream() const { return stream_; }
  void Free() { buffers_.clear(); }

  // Random numbers: zeros are faster to multiply.
  TensorView Random(DType dtype, std::initializer_list<int64_t> dims) {
    TensorView view(nullptr, dtype, dims);
    buffers_.push_back(*ops_->Allocate(view.bytes()));
    view.data = buffers_.back().data();
    const std::vector<char>& pattern = dtype == DType::kFloat32 ? floats_ : narrow_;
    for (size_t at = 0; at < view.bytes(); at += pattern.size()) {
      ops_->CopyToDevice(context_, view.as<char>() + at, pattern.data(),
                         std::min(pattern.size(), view.bytes() - at));
    }
    return view;
  }
  TensorView Ints(std::vector<int32_t> values) {
    TensorView view(nullptr, DType::kInt32, {static_cast<int64_t>(values.size())});
    buffers_.push_back(*ops_->Allocate(view.bytes()));
    view.data = buffers_.back().data();
    ops_->CopyToDevice(context_, view.data, values.data(), view.bytes());
    return view;
  }
  std::unique_ptr<Weight> RandomWeight(const WeightShape& shape) {
    auto weight = *ops_->NewWeight(shape);
    const int64_t rows =
        std::max<int64_t>(1, static_cast<int64_t>(narrow_.size()) / 2 / shape.columns);
    for (int64_t row = 0; row < shape.rows; row += rows) {
      const int64_t n = std::min(rows, shape.rows - row);
      ops_->PackRows(*weight, row,
                     TensorView(narrow_.data(), DType::kBFloat16, {n, shape.columns}));
    }
    return weight;
  }

  // Seconds of one call of `body(i)`, i counting up; median over replays of a graph of `calls`.
  double Time(int calls, const std::function<void(int)>& body) {
    // Weights are packed on this thread's own stream.
    TESSERA_CHECK(ops_->Synchronize({}).ok() && ops_->Synchronize(context_).ok());
    for (int i = 0; i < calls; ++i) body(i);
    TESSERA_CHECK(ops_->Synchronize(context_).ok()) << ops_->Synchronize(context_);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    TESSERA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    for (int i = 0; i < calls; ++i) body(i);
    TESSERA_CHECK(cudaStreamEndCapture(stream_, &graph) == cudaSuccess)
        << cudaGetErrorString(cudaGetLastError());
    TESSERA_CHECK(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    std::vector<float> times;
    for (int r = 0; r < kReplays + 2; ++r) {
      cudaEventRecord(begin, stream_);
      cudaGraphLaunch(executable, stream_);
      cudaEventRecord(end, stream_);
      TESSERA_CHECK(cudaEventSynchronize(end) == cudaSuccess);
      float milliseconds = 0;
      cudaEventElapsedTime(&milliseconds, begin, end);
      if (r >= 2) times.push_back(milliseconds);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    std::nth_element(times.begin(), times.begin() + kReplays / 2, times.end());
    return times[kReplays / 2] * 1e-3 / calls;
  }

 private:
  static std::vector<char> Pattern(bool wide) {
    std::vector<char> bytes(size_t{4} << 20);
    std::mt19937 random(7);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    const size_t element = wide ? 4 : 2;
    for (size_t at = 0; at < bytes.size(); at += element) {
      const float value = normal(random);
      const BFloat16 narrow = ToBFloat16(value);
      std::memcpy(&bytes[at], wide ? static_cast<const void*>(&value) : &narrow, element);
    }
    return bytes;
  }

  std::unique_ptr<Ops> ops_;
  cudaStream_t stream_ = nullptr;
  ExecContext context_;
  Buffer workspace_;
  std::vector<Buffer> buffers_;
  std::vector<char> floats_ = Pattern(true);
  std::vector<char> narrow_ = Pattern(false);
};

struct Roofs {
  double bytes = 0;  // per second, reading
  double flops = 0;  // per second, bfloat16 product
};

void PrintBytes(const char* name, double seconds, double bytes, const Roofs& roofs) {
  std::printf("%-52s %9.2f us %8.3f TB/s %5.1f%% of read roof %5.1f%% of 4.8\n", name,
              seconds * 1e6, bytes / seconds * 1e-12, 100 * bytes / seconds / roofs.bytes,
              100 * bytes / seconds / kDatasheetBytes);
}

void PrintFlops(const char* name, double seconds, double flops, const Roofs& roofs) {
  std::printf("%-52s %9.2f us %8.1f TFLOP/s %5.1f%% of product roof\n", name, seconds * 1e6,
              flops / seconds * 1e-12, 100 * flops / seconds / roofs.flops);
}

Roofs MeasureRoofs(GpuBench& bench) {
  Roofs roofs;
  // The head of a large vocabulary reads 4 GiB of weights for one token: as near to reading only as
  // an op comes. A copy, half writes, is printed beside it.
  {
    const auto weight = bench.RandomWeight({.rows = 262144, .columns = 8192});
    const TensorView x = bench.Random(DType::kBFloat16, {1, 8192});
    const TensorView out = bench.Random(DType::kFloat32, {1, 262144});
    const double seconds = bench.Time(
        4, [&](int) { bench.ops().MatMul(bench.context(), out, x, *weight, TensorView()); });
    roofs.bytes = static_cast<double>(weight->bytes()) / seconds;
    bench.Free();
  }
  const size_t copied = size_t{2} << 30;
  const TensorView from = bench.Random(DType::kBFloat16, {1 << 30});
  const TensorView to = bench.Random(DType::kBFloat16, {1 << 30});
  const double copy = bench.Time(4, [&](int) {
    cudaMemcpyAsync(to.data, from.data, copied, cudaMemcpyDeviceToDevice, bench.stream());
  });
  bench.Free();
  {
    const int64_t n = 8192;
    const auto weight = bench.RandomWeight({.rows = n, .columns = n});
    const TensorView x = bench.Random(DType::kBFloat16, {n, n});
    const TensorView out = bench.Random(DType::kBFloat16, {n, n});
    bench.context().deterministic = false;
    const double seconds = bench.Time(
        4, [&](int) { bench.ops().MatMul(bench.context(), out, x, *weight, TensorView()); });
    roofs.flops = 2.0 * n * n * n / seconds;
    bench.Free();
  }
  // A launch that does next to nothing, in a graph.
  const TensorView one = bench.Random(DType::kFloat32, {1, 8});
  const double gap =
      bench.Time(1000, [&](int) { bench.ops().SoftCap(bench.context(), one, 30.0f); });
  bench.Free();
  std::printf(
      "roofs: reading %.3f TB/s, copying %.3f TB/s (read + written), product %.1f TFLOP/s, "
      "launch in a graph %.2f us\n",
      roofs.bytes * 1e-12, 2.0 * copied / copy * 1e-12, roofs.flops * 1e-12, gap * 1e6);
  return roofs;
}

// Products as a decoder layer has them: few tokens against the weights of several models.
void BenchProducts(GpuBench& bench, const Roofs& roofs) {
  struct Shape {
    const char* name;
    int64_t rows, columns;
    bool partial;
  };
  const Shape shapes[] = {
      {"1B qkv", 3072, 2048, false},      {"1B down", 2048, 8192, true},
      {"8B qkv", 6144, 4096, false},      {"8B out", 4096, 4096, true},
      {"8B gate_up", 28672, 4096, false}, {"8B down", 4096, 14336, true},
      {"405B/8 qkv", 2304, 16384, false}, {"405B/8 gate_up", 13312, 16384, false},
      {"405B/8 down", 16384, 6656, true}};
  for (const Shape& shape : shapes) {
    // Enough copies that none stays in the cache.
    const double bytes = 2.0 * static_cast<double>(shape.rows * shape.columns);
    const int copies = std::max(2, static_cast<int>(400e6 / bytes) + 1);
    std::vector<std::unique_ptr<Weight>> weights;
    for (int c = 0; c < copies; ++c) {
      weights.push_back(bench.RandomWeight({.rows = shape.rows,
                                            .columns = shape.columns,
                                            .column_total = shape.partial ? shape.columns : 0}));
    }
    for (const int64_t tokens : {1, 4, 8, 16, 64, 256, 2048}) {
      const TensorView x = bench.Random(DType::kBFloat16, {tokens, shape.columns});
      const TensorView out =
          bench.Random(shape.partial ? DType::kFloat32 : DType::kBFloat16, {tokens, shape.rows});
      for (const bool deterministic : {true, false}) {
        if (tokens <= 16 && !deterministic) continue;  // one kernel serves both
        bench.context().deterministic = deterministic;
        const double seconds = bench.Time(2 * copies, [&](int i) {
          const Weight& weight = *weights[i % copies];
          if (shape.partial) {
            bench.ops().MatMulPartial(bench.context(), out, x, weight);
          } else {
            bench.ops().MatMul(bench.context(), out, x, weight, TensorView());
          }
        });
        const std::string name = std::string(shape.name) + " T" + std::to_string(tokens) +
                                 (deterministic ? "" : " free order");
        if (tokens <= 64) {
          PrintBytes(name.c_str(), seconds, bytes, roofs);
        } else {
          PrintFlops(name.c_str(), seconds, bytes * static_cast<double>(tokens), roofs);
        }
      }
    }
    bench.Free();
  }
}

struct Sequences {
  std::string name;
  std::vector<int64_t> lengths;
  int64_t queries = 1;  // of each
};

void BenchAttention(GpuBench& bench, const Roofs& roofs, int64_t block_size,
                    const Sequences& sequences, bool deterministic) {
  constexpr int64_t kHeads = 32, kKvHeads = 8, kSize = 128;
  std::vector<int32_t> begin = {0}, lengths, positions;
  int64_t longest = 0;
  int64_t blocks = 0;
  double pairs = 0;
  double tokens = 0;
  for (const int64_t length : sequences.lengths) {
    for (int64_t q = 0; q < sequences.queries; ++q) {
      positions.push_back(static_cast<int32_t>(length - sequences.queries + q));
      pairs += static_cast<double>(length - sequences.queries + q + 1);
    }
    begin.push_back(static_cast<int32_t>(positions.size()));
    lengths.push_back(static_cast<int32_t>(length));
    longest = std::max(longest, (length + block_size - 1) / block_size);
    blocks += (length + block_size - 1) / block_size;
    tokens += static_cast<double>(length);
  }
  std::vector<int32_t> ids(static_cast<size_t>(blocks));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  std::shuffle(ids.begin(), ids.end(), std::mt19937(3));
  const int64_t rows = static_cast<int64_t>(lengths.size());
  std::vector<int32_t> table(static_cast<size_t>(rows * longest), 0);
  size_t next = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t b = 0; b * block_size < lengths[r]; ++b) table[r * longest + b] = ids[next++];
  }
  KvLayer kv{.storage = {},
             .num_blocks = blocks,
             .block_size = block_size,
             .num_heads = kKvHeads,
             .head_size = kSize};
  const int64_t elements = static_cast<int64_t>(bench.ops().KvLayerBytes(kv)) / 2;
  const double bytes = tokens * kKvHeads * kSize * 2 * 2;
  const int copies = static_cast<int>(200e6 / bytes) + 1;
  std::vector<TensorView> caches;
  for (int c = 0; c < copies; ++c) caches.push_back(bench.Random(DType::kBFloat16, {elements}));
  StepView step;
  step.num_rows = rows;
  step.num_tokens = static_cast<int64_t>(positions.size());
  step.positions = bench.Ints(positions);
  step.query_begin = bench.Ints(begin);
  step.kv_length = bench.Ints(lengths);
  step.block_table = bench.Ints(table);
  step.block_table.dims = {rows, longest, 1, 1};
  step.block_table.rank = 2;
  step.block_table.stride = longest;
  const TensorView q = bench.Random(DType::kBFloat16, {step.num_tokens, kHeads * kSize});
  const TensorView out = bench.Random(DType::kBFloat16, {step.num_tokens, kHeads * kSize});
  const AttentionSpec spec{
      .num_heads = kHeads, .num_kv_heads = kKvHeads, .head_size = kSize, .scale = 0.088f};
  bench.context().deterministic = deterministic;
  const double seconds = bench.Time(2 * copies, [&](int i) {
    KvLayer layer = kv;
    layer.storage = caches[i % copies];
    bench.ops().PagedAttention(bench.context(), out, q, layer, step, spec);
  });
  const std::string name =
      sequences.name + " block" + std::to_string(block_size) + (deterministic ? "" : " free order");
  if (sequences.queries == 1) {
    PrintBytes(name.c_str(), seconds, bytes, roofs);
  } else {
    PrintFlops(name.c_str(), seconds, pairs * kHeads * kSize * 4, roofs);
  }
  bench.Free();
}

void BenchAttentions(GpuBench& bench, const Roofs& roofs) {
  const auto even = [](const char* name, int n, int64_t length) {
    return Sequences{name, std::vector<int64_t>(static_cast<size_t>(n), length)};
  };
  Sequences skewed = even("decode 1 x 128k + 31 x 4k", 32, 4096);
  skewed.lengths[5] = 131072;
  const Sequences decodes[] = {even("decode 1 x 2k", 1, 2048),
                               even("decode 1 x 64k", 1, 65536),
                               even("decode 8 x 4k", 8, 4096),
                               even("decode 32 x 4k", 32, 4096),
                               even("decode 256 x 2k", 256, 2048),
                               skewed,
                               even("decode 32 x 8064 (the same tokens)", 32, 8064)};
  for (const bool deterministic : {true, false}) {
    for (const Sequences& sequences : decodes) {
      for (const int64_t block : {16, 64}) {
        BenchAttention(bench, roofs, block, sequences, deterministic);
      }
    }
    for (const int64_t length : {4096, 32768}) {
      // The deterministic kernel reads the cache once per sixteen pairs.
      if (deterministic && length > 4096) continue;
      const std::string name = "prefill 1 x " + std::to_string(length);
      BenchAttention(bench, roofs, 16, {name, {length}, length}, deterministic);
    }
  }
}

void BenchRows(GpuBench& bench, const Roofs& roofs) {
  for (const int64_t tokens : {1, 64, 2048}) {
    const int64_t columns = 4096;
    const TensorView residual = bench.Random(DType::kBFloat16, {tokens, columns});
    const TensorView sum = bench.Random(DType::kFloat32, {tokens, columns});
    const TensorView out = bench.Random(DType::kBFloat16, {tokens, columns});
    const TensorView weight = bench.Random(DType::kBFloat16, {columns});
    const double n = static_cast<double>(tokens * columns);
    double seconds = bench.Time(50, [&](int) {
      bench.ops().AddResidualNorm(bench.context(), out, residual, sum, TensorView(),
                                  {.weight = weight, .eps = 1e-5f});
    });
    const std::string suffix = " T" + std::to_string(tokens);
    PrintBytes(("add residual + norm 4096" + suffix).c_str(), seconds, n * 10, roofs);
    const TensorView gate_up = bench.Random(DType::kBFloat16, {tokens, 2 * 14336});
    const TensorView activated = bench.Random(DType::kBFloat16, {tokens, 14336});
    seconds = bench.Time(50, [&](int) {
      bench.ops().GatedActivation(bench.context(), activated, gate_up, Activation::kSilu);
    });
    PrintBytes(("gated SiLU 14336" + suffix).c_str(), seconds,
               static_cast<double>(tokens) * 14336 * 6, roofs);
    bench.Free();
  }
}

}  // namespace

int RunGpuBench() {
  absl::StatusOr<std::unique_ptr<Ops>> ops = NewCudaOps(0);
  if (!ops.ok()) {
    std::printf("no GPU rows: %s\n", std::string(ops.status().message()).c_str());
    return 0;
  }
  GpuBench bench(*std::move(ops));
  const Roofs roofs = MeasureRoofs(bench);
  BenchProducts(bench, roofs);
  BenchAttentions(bench, roofs);
  BenchRows(bench, roofs);
  return 0;
}

}  // namespace tessera
