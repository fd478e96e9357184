// See the header.

#include "worker/comm/nccl_library.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/comm/nccl.h"

namespace tessera {
namespace {

std::string VersionName(int version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

}  // namespace

absl::Status CheckNcclVersion(int rank, int version, int version_of_rank0) {
  if (version < kNcclVersionMin) {
    return absl::FailedPreconditionError(absl::StrCat(
        "rank ", rank, " has NCCL ", VersionName(version), "; ", VersionName(kNcclVersionMin),
        " or later is needed: install a newer "
        "libnccl.so.2, or name its folder in LD_LIBRARY_PATH"));
  }
  if (version != version_of_rank0) {
    return absl::FailedPreconditionError(
        absl::StrCat("rank ", rank, " has NCCL ", VersionName(version), ", rank 0 has ",
                     VersionName(version_of_rank0), "; give all ranks of a group the same"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const NcclLibrary>> NcclLibrary::Open() {
  TESSERA_ASSIGN_OR_RETURN(SharedLibrary file, SharedLibrary::Open({"libnccl.so.2", "libnccl.so"}));
  auto nccl = std::make_shared<NcclLibrary>(NcclLibrary{.library = std::move(file)});
  const SharedLibrary& from = nccl->library;
  TESSERA_RETURN_IF_ERROR(from.Find("ncclGetVersion", nccl->get_version));
  TESSERA_RETURN_IF_ERROR(from.Find("ncclGetErrorString", nccl->error_text));
  TESSERA_RETURN_IF_ERROR(nccl->Check(nccl->get_version(&nccl->version), "say its version"));
  TESSERA_RETURN_IF_ERROR(CheckNcclVersion(0, nccl->version, nccl->version));
  TESSERA_RETURN_IF_ERROR(from.Find("ncclGetUniqueId", nccl->get_unique_id));
  TESSERA_RETURN_IF_ERROR(from.Find("ncclCommInitRankConfig", nccl->init_rank));
  TESSERA_RETURN_IF_ERROR(from.Find("ncclCommGetAsyncError", nccl->async_error));
  TESSERA_RETURN_IF_ERROR(from.Find("ncclCommAbort", nccl->abort));
  TESSERA_RETURN_IF_ERROR(from.Find("ncclGetLastError", nccl->last_error));
  TESSERA_RETURN_IF_ERROR(from.Find("ncclAllGather", nccl->all_gather));
  TESSERA_RETURN_IF_ERROR(from.Find("ncclBroadcast", nccl->broadcast));
  TESSERA_RETURN_IF_ERROR(from.Find("ncclSend", nccl->send));
  TESSERA_RETURN_IF_ERROR(from.Find("ncclRecv", nccl->receive));
  TESSERA_RETURN_IF_ERROR(from.Find("ncclGroupStart", nccl->group_start));
  TESSERA_RETURN_IF_ERROR(from.Find("ncclGroupEnd", nccl->group_end));
  return nccl;
}

absl::Status NcclLibrary::Check(ncclResult_t result, absl::string_view what) const {
  if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
  const std::string message =
      absl::StrCat("NCCL cannot ", what, ": ", error_text(result),
                   last_error == nullptr ? "" : absl::StrCat(" (", last_error(nullptr), ")"));
  switch (result) {
    case ncclRemoteError:
    case ncclSystemError:
      return absl::UnavailableError(message);
    case ncclInvalidUsage:
    case ncclInvalidArgument:
      return absl::FailedPreconditionError(message);
    default:
      return absl::InternalError(message);
  }
}

}  // namespace tessera
