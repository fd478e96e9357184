// Meeting over NCCL. See the header.

#include "worker/comm/nccl.h"

#include <cuda_runtime_api.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "worker/comm/blob.h"
#include "worker/comm/nccl_communicator.h"
#include "worker/comm/nccl_library.h"

namespace tessera {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(1);

std::string IdText(const ncclUniqueId& id) { return std::string(id.internal, sizeof(id.internal)); }

}  // namespace

struct NcclSetup::State {
  State(const CommOptions& options_in, Ops& ops_in, std::shared_ptr<const NcclLibrary> nccl_in)
      : options(options_in), ops(ops_in), nccl(std::move(nccl_in)) {}
  const CommOptions options;
  Ops& ops;
  const std::shared_ptr<const NcclLibrary> nccl;
};

absl::StatusOr<std::shared_ptr<NcclSetup>> NcclSetup::Create(const CommOptions& options, Ops& ops) {
  TESSERA_ASSIGN_OR_RETURN(std::shared_ptr<const NcclLibrary> nccl, NcclLibrary::Open());
  std::string payload;
  AppendUint64(payload, static_cast<uint64_t>(nccl->version));
  ncclUniqueId id = {};
  if (options.rank == 0) {
    TESSERA_RETURN_IF_ERROR(nccl->Check(nccl->get_unique_id(&id), "make an id for the group"));
  }
  AppendString(payload, options.rank == 0 ? IdText(id) : "");
  auto state = std::make_shared<State>(options, ops, std::move(nccl));
  return std::shared_ptr<NcclSetup>(new NcclSetup(std::move(payload), std::move(state)));
}

absl::StatusOr<std::unique_ptr<Communicator>> NcclSetup::Connect(
    const std::vector<std::string>& payloads) {
  const CommOptions& options = state_->options;
  const NcclLibrary& nccl = *state_->nccl;
  ncclUniqueId id = {};
  int version_of_rank0 = 0;
  for (size_t rank = 0; rank < payloads.size(); ++rank) {
    PayloadReader reader(payloads[rank]);
    const int version = static_cast<int>(reader.Uint64());
    const std::string text = reader.String();
    if (!reader.Complete() || (rank == 0 && text.size() != sizeof(id.internal))) {
      return absl::InvalidArgumentError(
          absl::StrCat("the NCCL blob of rank ", rank, " is damaged"));
    }
    if (rank == 0) {
      version_of_rank0 = version;
      std::memcpy(id.internal, text.data(), sizeof(id.internal));
    }
    TESSERA_RETURN_IF_ERROR(CheckNcclVersion(static_cast<int>(rank), version, version_of_rank0));
  }
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t comm = nullptr;
  const absl::Time until = absl::Now() + options.connect_deadline;
  ncclResult_t result = nccl.init_rank(&comm, options.size, id, options.rank, &config);
  while (result == ncclInProgress && absl::Now() < until) {
    absl::SleepFor(kPoll);
    ncclResult_t state = ncclSuccess;
    result = nccl.async_error(comm, &state);
    if (result == ncclSuccess) result = state;
  }
  absl::Status status = nccl.Check(result, "connect the ranks");
  if (status.ok() && result == ncclInProgress) {
    status =
        absl::DeadlineExceededError(absl::StrCat("the ranks did not meet over NCCL within ",
                                                 absl::FormatDuration(options.connect_deadline)));
  }
  if (!status.ok()) {
    if (comm != nullptr) nccl.abort(comm);
    return status;
  }
  return NewNcclCommunicator(state_->nccl, comm, options, state_->ops);
}

}  // namespace tessera
