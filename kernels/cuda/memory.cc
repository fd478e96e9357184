// Opening a GPU, its memory, and copies to and from it.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/noise_kernels.h"

namespace tessera::cuda {
namespace {

// For cuBLASLt's split products, and the partial results of attention.
constexpr size_t kWorkspaceLeast = size_t{32} << 20;
constexpr size_t kWorkspaceMost = size_t{256} << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<CudaOps>> CudaOps::Create(int device) {
  TESSERA_ASSIGN_OR_RETURN(GpuFacts gpu, OpenGpu(device));
  std::unique_ptr<CudaOps> ops(new CudaOps(std::move(gpu)));
  TESSERA_ASSIGN_OR_RETURN(ops->cublas_, CublasLt::Open());
  TESSERA_ASSIGN_OR_RETURN(ops->staging_, Staging::Create());
  TESSERA_ASSIGN_OR_RETURN(ops->scratch_, ops->Allocate(kScratchBytes));
  return ops;
}

void CudaOps::Enter() { Keep(cudaSetDevice(gpu_.device), "use the GPU"); }

void CudaOps::Keep(cudaError_t error, absl::string_view what) {
  if (error != cudaSuccess) Keep(StatusOf(error, what));
}

void CudaOps::Keep(absl::Status status) {
  if (error_.ok() && !status.ok()) {
    error_ = absl::Status(status.code(), absl::StrCat("GPU ", gpu_.device, " (", gpu_.name, ", ",
                                                      gpu_.bus_id, "): ", status.message()));
  }
}

absl::StatusOr<Buffer> CudaOps::Allocate(size_t bytes) {
  Enter();
  if (!error_.ok()) return error_;
  // 0 bytes give a valid pointer.
  const size_t size = std::max<size_t>(bytes, 64);
  void* data = nullptr;
  const std::string what = absl::StrCat("allocate ", bytes, " bytes on GPU ", gpu_.device);
  // A size that cannot be is no error of the device.
  const cudaError_t allocated =
      size >= SIZE_MAX - 512 ? cudaErrorMemoryAllocation : cudaMalloc(&data, size);
  if (allocated != cudaSuccess) {
    cudaGetLastError();
    return StatusOf(allocated, what);
  }
  Buffer buffer(data, bytes, [device = gpu_.device](void* p) {
    cudaSetDevice(device);
    cudaFree(p);
  });
  TESSERA_RETURN_IF_ERROR(StatusOf(cudaMemsetAsync(data, 0, size, cudaStreamPerThread), what));
  TESSERA_RETURN_IF_ERROR(StatusOf(cudaStreamSynchronize(cudaStreamPerThread), what));
  return buffer;
}

void CudaOps::CopyToDevice(const ExecContext& context, void* device, const void* host,
                           size_t bytes) {
  Enter();
  if (!error_.ok()) return;
  Keep(staging_->Upload(device, host, bytes, StreamOf(context)), "copy to the GPU");
}

void CudaOps::CopyToHost(const ExecContext& context, void* host, const void* device, size_t bytes) {
  Enter();
  if (!error_.ok()) return;
  Keep(staging_->Download(host, device, bytes, StreamOf(context)), "copy from the GPU");
}

absl::Status CudaOps::Synchronize(const ExecContext& context) {
  Enter();
  if (error_.ok()) Keep(cudaStreamSynchronize(StreamOf(context)), "finish what was queued");
  return error_;
}

size_t CudaOps::WorkspaceBytes(int64_t tokens_max, int64_t rows_max, int64_t widest) {
  // A partial result per row, head and chunk, a little wider than the heads together; shorter
  // workspaces take more passes. Rows with one query are at most that many.
  const int64_t rows = std::min(tokens_max, rows_max);
  const int64_t wanted = rows * widest * kChunksMax * static_cast<int64_t>(sizeof(float));
  // And the activations of a float8 product.
  const size_t quantized = static_cast<size_t>(tokens_max) * (widest + sizeof(float)) + 512;
  return std::clamp(static_cast<size_t>(wanted), kWorkspaceLeast, kWorkspaceMost) + quantized;
}

absl::StatusOr<std::unique_ptr<Weight>> CudaOps::NewWeight(const WeightShape& shape) {
  TESSERA_ASSIGN_OR_RETURN(WeightLayout layout, WeightLayout::Of(shape));
  TESSERA_ASSIGN_OR_RETURN(Buffer storage, Allocate(CudaWeight::BytesOf(shape, layout)));
  return std::make_unique<CudaWeight>(shape, std::move(layout), std::move(storage));
}

void CudaOps::PackRows(Weight& weight, int64_t row_begin, TensorView source) {
  const CudaWeight& w = static_cast<const CudaWeight&>(weight);
  TESSERA_CHECK(source.rank == 2 && source.dims[1] == w.columns() && row_begin >= 0 &&
                row_begin + source.dims[0] <= w.rows())
      << "rows " << row_begin << "+" << source.dims[0] << " of " << w.rows() << ", "
      << source.dims[1] << " columns of " << w.columns();
  Enter();
  const int64_t step = std::max<int64_t>(1, Staging::kHalfBytes / 4 / w.row_bytes());
  TESSERA_CHECK(w.row_bytes() <= Staging::kHalfBytes) << w.columns() << " columns";
  for (int64_t row = 0; row < source.dims[0] && error_.ok(); row += step) {
    const TensorView piece = source.Rows(row, std::min(step, source.dims[0] - row));
    char* to = static_cast<char*>(w.data()) + (row_begin + row) * w.row_bytes();
    if (w.form() == WeightForm::kFloat8) {
      UploadFloat8(w, row_begin + row, piece);
      continue;
    }
    Keep(staging_->Upload(to, piece.dims[0] * w.row_bytes(), StreamOf({}),
                          [&](void* place) { w.PackTo(place, piece); }),
         "load weights");
  }
}

void CudaOps::UploadFloat8(const CudaWeight& weight, int64_t row, TensorView piece) {
  const int64_t rows = piece.dims[0];
  std::vector<float> scales(static_cast<size_t>(weight.scale_segments() * rows));
  char* data = static_cast<char*>(weight.data());
  Keep(staging_->Upload(data + row * weight.row_bytes(), rows * weight.row_bytes(), StreamOf({}),
                        [&](void* place) {
                          weight.QuantizeTo(static_cast<uint8_t*>(place), scales.data(), piece);
                        }),
       "load weights");
  for (int64_t s = 0; s < weight.scale_segments(); ++s) {
    char* to = data + weight.scale_offset() +
               (s * weight.layout().packed_rows + row) * static_cast<int64_t>(sizeof(float));
    CopyToDevice({}, to, scales.data() + s * rows, rows * sizeof(float));
  }
}

void CudaOps::FillRows(Weight& weight, int64_t row_begin, int64_t rows, const NoiseSpec& noise) {
  const CudaWeight& w = static_cast<const CudaWeight&>(weight);
  TESSERA_CHECK(row_begin >= 0 && row_begin + rows <= w.rows())
      << "rows " << row_begin << "+" << rows << " of " << w.rows();
  Enter();
  NoiseArguments arguments;
  arguments.out = static_cast<char*>(w.data()) + row_begin * w.row_bytes();
  arguments.bfloat16 = w.dtype() == DType::kBFloat16;
  arguments.rows = rows;
  arguments.columns = w.columns();
  arguments.stride = w.layout().packed_columns;
  arguments.slices = static_cast<int>(w.layout().slices.size());
  for (int s = 0; s < arguments.slices; ++s) arguments.slice[s] = w.layout().slices[s];
  arguments.noise = noise;
  if (w.form() == WeightForm::kFloat8) {
    arguments.scales =
        reinterpret_cast<float*>(static_cast<char*>(w.data()) + w.scale_offset()) + row_begin;
    arguments.scale_stride = w.layout().packed_rows;
    arguments.slice_scales = w.row_parallel();
    LaunchFloat8Noise(arguments, StreamOf({}));
  } else {
    LaunchNoise(arguments, StreamOf({}));
  }
  Launched("make up weights");
}

void CudaOps::Fill(const ExecContext& context, TensorView out, const NoiseSpec& noise) {
  TESSERA_CHECK(out.rank <= 2 && (out.dtype == DType::kFloat32 || out.dtype == DType::kBFloat16))
      << out.rank << " dimensions of " << DTypeName(out.dtype);
  Enter();
  NoiseArguments arguments;
  arguments.out = out.data;
  arguments.bfloat16 = out.dtype == DType::kBFloat16;
  arguments.rows = out.dims[0];
  arguments.columns = out.dims[1];
  arguments.stride = out.stride;
  arguments.noise = noise;
  LaunchNoise(arguments, StreamOf(context));
  Launched("make up numbers");
}

}  // namespace tessera::cuda

namespace tessera {

absl::StatusOr<std::unique_ptr<Ops>> NewCudaOps(int device) {
  return cuda::CudaOps::Create(device);
}

}  // namespace tessera
