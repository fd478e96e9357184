// Recording what a stream is given, as a graph that is launched in one piece. Only this thread's
// calls are watched while it goes on: other ranks of the process may allocate meanwhile.

#include "base/status.h"
#include "kernels/cuda/cuda_ops.h"

namespace tessera::cuda {

absl::Status CudaOps::BeginRecording(const ExecContext& context) {
  Enter();
  TESSERA_RETURN_IF_ERROR(error_);
  TESSERA_RETURN_IF_ERROR(
      StatusOf(cudaStreamBeginCapture(StreamOf(context), cudaStreamCaptureModeThreadLocal),
               "begin to record"));
  kept_error_ = error_;
  return absl::OkStatus();
}

absl::StatusOr<Ops::Recording> CudaOps::EndRecording(const ExecContext& context) {
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(StreamOf(context), &graph);
  // What failed while recording was not computed either; the device is as it was.
  const absl::Status failed = std::exchange(error_, kept_error_);
  cudaGetLastError();
  if (ended != cudaSuccess || !failed.ok()) {
    if (graph != nullptr) cudaGraphDestroy(graph);
    return failed.ok() ? StatusOf(ended, "record a step") : failed;
  }
  cudaGraphExec_t exec = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  TESSERA_RETURN_IF_ERROR(StatusOf(made, "instantiate a recorded step"));
  return Recording(exec, [device = gpu_.device](void* p) {
    cudaSetDevice(device);
    cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(p));
  });
}

absl::Status CudaOps::Replay(const ExecContext& context, const Recording& recording) {
  Enter();
  Keep(cudaGraphLaunch(static_cast<cudaGraphExec_t>(recording.get()), StreamOf(context)),
       "replay a step");
  return error_;
}

}  // namespace tessera::cuda
