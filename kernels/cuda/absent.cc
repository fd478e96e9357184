// Stands in for the CUDA backend in a build without it.

#include "absl/status/status.h"
#include "kernels/device_readings.h"
#include "kernels/ops.h"
#include "kernels/peer_sum.h"

namespace tessera {
namespace {

absl::Status Absent() {
  return absl::UnimplementedError(
      "this build has no CUDA backend; run with --device cpu, or build with `cmake --preset cuda`");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> NewCudaOps(int /*device*/) { return Absent(); }

absl::StatusOr<CudaIdentity> DescribeCudaDevice(int /*device*/) { return Absent(); }

absl::Status SumPeers(const ExecContext&, float*, const std::vector<const float*>&, int64_t) {
  return Absent();
}

absl::Status SumPeersResidualNorm(const ExecContext&, TensorView, TensorView,
                                  const std::vector<const float*>&, TensorView, const NormSpec&) {
  return Absent();
}

struct DeviceSensors::Library {};
DeviceSensors::DeviceSensors(std::unique_ptr<Library> library) : library_(std::move(library)) {}
DeviceSensors::~DeviceSensors() = default;

absl::StatusOr<std::unique_ptr<DeviceSensors>> DeviceSensors::Open(const std::string& /*bus_id*/) {
  return Absent();
}

absl::StatusOr<DeviceReadings> DeviceSensors::Read() { return Absent(); }

}  // namespace tessera
