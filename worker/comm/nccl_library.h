// NCCL's functions, found in the library when a group is built. Shared by a setup and the
// communicator that it makes.

#ifndef TESSERA_WORKER_COMM_NCCL_LIBRARY_H_
#define TESSERA_WORKER_COMM_NCCL_LIBRARY_H_

#include <nccl.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/shared_library.h"

namespace tessera {

struct NcclLibrary {
  // NOT_FOUND or FAILED_PRECONDITION.
  static absl::StatusOr<std::shared_ptr<const NcclLibrary>> Open();

  // OK for success and in-progress; UNAVAILABLE for what a lost peer looks like.
  absl::Status Check(ncclResult_t result, absl::string_view what) const;

  SharedLibrary library;
  int version = 0;  // 23007 is 2.30.7
  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) init_rank = nullptr;
  decltype(&ncclCommGetAsyncError) async_error = nullptr;
  decltype(&ncclCommAbort) abort = nullptr;
  decltype(&ncclGetErrorString) error_text = nullptr;
  decltype(&ncclGetLastError) last_error = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclBroadcast) broadcast = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) receive = nullptr;
  decltype(&ncclGroupStart) group_start = nullptr;
  decltype(&ncclGroupEnd) group_end = nullptr;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_NCCL_LIBRARY_H_
