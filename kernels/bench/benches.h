// The groups of benchmarks in this program and the context that they share. Registered by main, so
// that nothing happens before it.

#ifndef TESSERA_KERNELS_BENCH_BENCHES_H_
#define TESSERA_KERNELS_BENCH_BENCHES_H_

#include <random>
#include <vector>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace tessera {

void RegisterMatMul();
void RegisterAttention();
void RegisterRows();
void RegisterSampling();

// A backend with memory to work on, for one benchmark.
class Bench {
 public:
  Bench(cpu::Isa isa, int threads) : ops_(isa), threads_(threads) {
    context_.threads = &threads_;
    context_.workspace = New(DType::kUInt8, {int64_t{16} << 20});
  }
  Ops& ops() { return ops_; }
  const ExecContext& context() const { return context_; }

  TensorView New(DType dtype, std::initializer_list<int64_t> dims) {
    buffers_.push_back(*ops_.Allocate(TensorView(nullptr, dtype, dims).bytes()));
    return buffers_.back().View(dtype, dims);
  }
  // Uniform numbers in [-1, 1).
  TensorView NewRandom(DType dtype, std::initializer_list<int64_t> dims) {
    const TensorView view = New(dtype, dims);
    for (int64_t i = 0; i < view.size(); ++i) {
      const float x = std::uniform_real_distribution<float>(-1.0f, 1.0f)(engine_);
      if (dtype == DType::kFloat32) view.as<float>()[i] = x;
      if (dtype == DType::kBFloat16) view.as<BFloat16>()[i] = ToBFloat16(x);
    }
    return view;
  }

 private:
  cpu::CpuOps ops_;
  ThreadPool threads_;
  ExecContext context_;
  std::vector<Buffer> buffers_;
  std::mt19937 engine_{1};
};

}  // namespace tessera

#endif  // TESSERA_KERNELS_BENCH_BENCHES_H_
