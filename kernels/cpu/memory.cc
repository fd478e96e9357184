// See memory.h. Also the copies of CpuOps, which on this device are memcpy.

#include "kernels/cpu/memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_ops.h"

namespace tessera::cpu {
namespace {

constexpr size_t kAlignment = 64;              // one cache line
constexpr size_t kMapFrom = size_t{64} << 10;  // smaller pieces come from the heap
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kHugeFrom = size_t{16} << 20;  // from here at most 1/8 is lost to rounding up

absl::Status Exhausted(size_t bytes) {
  return absl::ResourceExhaustedError(
      absl::StrCat("no ", bytes,
                   " bytes of host memory; use a smaller model, a larger tp, or a "
                   "smaller KV cache"));
}

absl::StatusOr<Buffer> Map(size_t bytes) {
  // Room to start on a huge page: the kernel then needs one table entry for 512 pages.
  const size_t spare = bytes >= kHugeFrom ? kHugePage : 0;
  if (bytes > SIZE_MAX - spare) return Exhausted(bytes);
  const size_t mapped = bytes + spare;
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return Exhausted(bytes);
  char* data = static_cast<char*>(base);
  if (spare != 0) {
    data += (kHugePage - reinterpret_cast<uintptr_t>(data) % kHugePage) % kHugePage;
    madvise(data, bytes, MADV_HUGEPAGE);  // advice: a kernel without huge pages may refuse it
  }
  return Buffer(data, bytes, [base, mapped](void*) { munmap(base, mapped); });
}

}  // namespace

absl::StatusOr<Buffer> AllocateZeroed(size_t bytes) {
  if (bytes >= kMapFrom) return Map(bytes);
  const size_t rounded = (bytes + kAlignment) / kAlignment * kAlignment;
  void* data = std::aligned_alloc(kAlignment, rounded);
  if (data == nullptr) return Exhausted(bytes);
  std::memset(data, 0, rounded);
  return Buffer(data, bytes, [](void* p) { std::free(p); });
}

absl::StatusOr<Buffer> CpuOps::Allocate(size_t bytes) { return AllocateZeroed(bytes); }

void CpuOps::CopyToDevice(const ExecContext&, void* device, const void* host, size_t bytes) {
  if (bytes > 0) std::memcpy(device, host, bytes);
}

void CpuOps::CopyToHost(const ExecContext&, void* host, const void* device, size_t bytes) {
  if (bytes > 0) std::memcpy(host, device, bytes);
}

absl::Status CpuOps::Synchronize(const ExecContext&) { return absl::OkStatus(); }

absl::Status CpuOps::BeginRecording(const ExecContext&) {
  return absl::UnimplementedError("a CPU does not record steps");
}

absl::StatusOr<Ops::Recording> CpuOps::EndRecording(const ExecContext&) {
  return absl::UnimplementedError("a CPU does not record steps");
}

absl::Status CpuOps::Replay(const ExecContext&, const Recording&) {
  return absl::UnimplementedError("a CPU does not record steps");
}

}  // namespace tessera::cpu
