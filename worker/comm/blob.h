// The bytes that ranks hand each other through the coordinator before they can talk
// (CommHello.blob): an envelope with magic, version, transport, rank, size and a checksum around a
// transport's own payload, and the bounds-checked reading and writing of that payload. Peers are
// other processes, so nothing in a blob is believed before it was checked. Pure functions.

#ifndef TESSERA_WORKER_COMM_BLOB_H_
#define TESSERA_WORKER_COMM_BLOB_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tessera/cluster/v1/cluster.pb.h"

namespace tessera {

// A gloo blob of 8 ranks is about 1.2 KiB.
inline constexpr size_t kCommBlobBytesMax = 4096;

// Who speaks, in which group.
struct BlobIdentity {
  cluster::v1::CommKind kind = cluster::v1::COMM_SOLO;
  int rank = 0;
  int size = 1;
};

std::string EncodeBlob(const BlobIdentity& who, absl::string_view payload);

// The payloads of all ranks, in rank order. INVALID_ARGUMENT naming the rank whose blob is damaged,
// of another version, or not the one of that place in the group; `self` is this rank, for size and
// kind.
absl::StatusOr<std::vector<std::string>> DecodeBlobs(const BlobIdentity& self,
                                                     const std::vector<std::string>& blobs);

void AppendUint64(std::string& payload, uint64_t value);
void AppendString(std::string& payload, absl::string_view value);

// Reads what the Append functions wrote; after the first short read everything is empty and ok()
// false.
class PayloadReader {
 public:
  explicit PayloadReader(absl::string_view payload) : rest_(payload) {}
  uint64_t Uint64();
  std::string String();
  // Nothing was missing and nothing is left.
  bool Complete() const { return ok_ && rest_.empty(); }

 private:
  absl::string_view Take(size_t bytes);
  absl::string_view rest_;
  bool ok_ = true;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_BLOB_H_
