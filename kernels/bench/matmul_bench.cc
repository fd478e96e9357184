// Products x [M, K] . w [N, K]^T, ours per instruction set and oneDNN's with weights in its own
// layout. oneDNN uses OMP_NUM_THREADS threads; set it to the number compared with.

#include <string>

#include "benchmark/benchmark.h"
#include "dnnl.hpp"
#include "kernels/bench/benches.h"

namespace tessera {
namespace {

struct Shape {
  int64_t rows, outputs, inputs;  // M, N, K
};

// Rates in multiply-adds and in weight bytes.
void Report(benchmark::State& state, const Shape& shape, DType dtype) {
  const double steps = static_cast<double>(state.iterations());
  const double weights = static_cast<double>(shape.outputs * shape.inputs);
  using benchmark::Counter;
  state.counters["flop"] =
      Counter(2 * steps * weights * static_cast<double>(shape.rows), Counter::kIsRate);
  state.counters["weight_bytes"] =
      Counter(steps * weights * static_cast<double>(DTypeSize(dtype)), Counter::kIsRate);
}

void MatMul(benchmark::State& state, cpu::Isa isa, int threads, DType dtype, Shape shape) {
  Bench bench(isa, threads);
  auto weight =
      *bench.ops().NewWeight({.rows = shape.outputs, .columns = shape.inputs, .dtype = dtype});
  bench.ops().PackRows(*weight, 0, bench.NewRandom(dtype, {shape.outputs, shape.inputs}));
  const TensorView x = bench.NewRandom(dtype, {shape.rows, shape.inputs});
  const TensorView out = bench.New(dtype, {shape.rows, shape.outputs});
  for (auto _ : state) bench.ops().MatMul(bench.context(), out, x, *weight, TensorView());
  Report(state, shape, dtype);
}

void MatMulPartial(benchmark::State& state, int threads, DType dtype, Shape shape) {
  Bench bench(cpu::BestIsa(), threads);
  auto weight = *bench.ops().NewWeight({.rows = shape.outputs,
                                        .columns = shape.inputs,
                                        .dtype = dtype,
                                        .column_total = shape.inputs});
  bench.ops().PackRows(*weight, 0, bench.NewRandom(dtype, {shape.outputs, shape.inputs}));
  const TensorView x = bench.NewRandom(dtype, {shape.rows, shape.inputs});
  const TensorView out = bench.New(DType::kFloat32, {shape.rows, shape.outputs});
  for (auto _ : state) bench.ops().MatMulPartial(bench.context(), out, x, *weight);
  Report(state, shape, dtype);
}

void Pack(benchmark::State& state, DType dtype, Shape shape) {
  Bench bench(cpu::BestIsa(), 1);
  auto weight =
      *bench.ops().NewWeight({.rows = shape.outputs, .columns = shape.inputs, .dtype = dtype});
  const TensorView source = bench.NewRandom(dtype, {shape.outputs, shape.inputs});
  for (auto _ : state) bench.ops().PackRows(*weight, 0, source);
  Report(state, shape, dtype);
}

// The matmul primitive of oneDNN 2 (a desc object) or 3 (no such object).
template <typename Primitive>
typename Primitive::primitive_desc Describe(const dnnl::engine& engine, const dnnl::memory::desc& x,
                                            const dnnl::memory::desc& w,
                                            const dnnl::memory::desc& out) {
  if constexpr (requires { typename Primitive::desc; }) {
    return typename Primitive::primitive_desc(typename Primitive::desc(x, w, out), engine);
  } else {
    return typename Primitive::primitive_desc(engine, x, w, out);
  }
}

void OneDnn(benchmark::State& state, DType dtype, Shape shape) {
  using Tag = dnnl::memory::format_tag;
  const auto type =
      dtype == DType::kFloat32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const dnnl::memory::desc x_desc({shape.rows, shape.inputs}, type, Tag::ab);
  const dnnl::memory::desc w_desc({shape.inputs, shape.outputs}, type, Tag::any);
  const dnnl::memory::desc out_desc({shape.rows, shape.outputs}, type, Tag::ab);
  const auto described = Describe<dnnl::matmul>(engine, x_desc, w_desc, out_desc);
  Bench bench(cpu::BestIsa(), 1);
  const TensorView plain = bench.NewRandom(dtype, {shape.outputs, shape.inputs});
  dnnl::memory plain_memory({{shape.inputs, shape.outputs}, type, Tag::ba}, engine, plain.data);
  dnnl::memory weight(described.weights_desc(), engine);
  dnnl::reorder(plain_memory, weight).execute(stream, plain_memory, weight);
  dnnl::memory x(x_desc, engine, bench.NewRandom(dtype, {shape.rows, shape.inputs}).data);
  dnnl::memory out(out_desc, engine, bench.New(dtype, {shape.rows, shape.outputs}).data);
  const dnnl::matmul primitive(described);
  for (auto _ : state) {
    primitive.execute(stream, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, weight}, {DNNL_ARG_DST, out}});
    stream.wait();
  }
  Report(state, shape, dtype);
}

std::string Name(const char* what, DType dtype, const Shape& shape) {
  return std::string(what) + "/" + DTypeName(dtype) + "/M" + std::to_string(shape.rows) + "/N" +
         std::to_string(shape.outputs) + "/K" + std::to_string(shape.inputs);
}

}  // namespace

void RegisterMatMul() {
  const auto add = [](const std::string& name, auto function, auto... arguments) {
    benchmark::RegisterBenchmark(name.c_str(), function, arguments...)->UseRealTime();
  };
  for (int64_t rows : {1, 8, 16, 64, 512}) {
    for (const Shape& size : {Shape{0, 2048, 2048}, Shape{0, 8192, 2048}, Shape{0, 256, 704}}) {
      const Shape shape{rows, size.outputs, size.inputs};
      for (DType dtype : {DType::kBFloat16, DType::kFloat32}) {
        if (cpu::IsaSupported(cpu::Isa::kAvx512)) {
          add(Name("MatMul/avx512", dtype, shape), MatMul, cpu::Isa::kAvx512, 1, dtype, shape);
        }
        add(Name("MatMul/avx2", dtype, shape), MatMul, cpu::Isa::kAvx2, 1, dtype, shape);
        add(Name("MatMul/two_threads", dtype, shape), MatMul, cpu::BestIsa(), 2, dtype, shape);
        add(Name("MatMulPartial", dtype, shape), MatMulPartial, 1, dtype, shape);
        add(Name("OneDnn", dtype, shape), OneDnn, dtype, shape);
      }
    }
  }
  const Shape shape{0, 2048, 2048};
  add(Name("PackRows", DType::kBFloat16, shape), Pack, DType::kBFloat16, shape);
}

}  // namespace tessera
