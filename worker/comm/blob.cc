// Layout of a blob, little-endian: u64 magic with version, u64 kind, u64 rank, u64 size, string
// payload, u64 checksum of all before.

#include "worker/comm/blob.h"

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr uint64_t kMagicAndVersion = 0x0001'4d4d'4f43'5354;  // "TSCOMM", version 1

// FNV-1a. Guards against damage, not against an adversary.
uint64_t Checksum(absl::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

absl::Status Damaged(size_t rank, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("the communicator blob of rank ", rank, " cannot be used: ", what));
}

absl::StatusOr<std::string> DecodeOne(const BlobIdentity& self, size_t rank,
                                      const std::string& blob) {
  if (blob.size() > kCommBlobBytesMax) {
    return Damaged(rank,
                   absl::StrCat(blob.size(), " bytes, at most ", kCommBlobBytesMax, " allowed"));
  }
  if (blob.size() < sizeof(uint64_t)) return Damaged(rank, "it is truncated");
  const absl::string_view body(blob.data(), blob.size() - sizeof(uint64_t));
  PayloadReader reader(body);
  const uint64_t magic = reader.Uint64();
  if (magic != kMagicAndVersion) {
    return Damaged(rank, "magic or version differ; are all workers of the same build?");
  }
  PayloadReader checksum(absl::string_view(blob).substr(body.size()));
  if (checksum.Uint64() != Checksum(body)) return Damaged(rank, "its checksum is wrong");
  const uint64_t kind = reader.Uint64();
  const uint64_t its_rank = reader.Uint64();
  const uint64_t its_size = reader.Uint64();
  std::string payload = reader.String();
  if (!reader.Complete()) return Damaged(rank, "its length is wrong");
  if (kind != static_cast<uint64_t>(self.kind) || its_rank != rank ||
      its_size != static_cast<uint64_t>(self.size)) {
    return Damaged(rank, absl::StrCat("it is of rank ", its_rank, " of ", its_size, ", transport ",
                                      kind, "; expected rank ", rank, " of ", self.size,
                                      ", transport ", static_cast<int>(self.kind)));
  }
  return payload;
}

}  // namespace

void AppendUint64(std::string& payload, uint64_t value) {
  char bytes[sizeof(value)];
  for (char& byte : bytes) {
    byte = static_cast<char>(value & 0xff);
    value >>= 8;
  }
  payload.append(bytes, sizeof(bytes));
}

void AppendString(std::string& payload, absl::string_view value) {
  AppendUint64(payload, value.size());
  payload.append(value.data(), value.size());
}

absl::string_view PayloadReader::Take(size_t bytes) {
  if (!ok_ || bytes > rest_.size()) {
    ok_ = false;
    rest_ = {};
    return {};
  }
  const absl::string_view taken = rest_.substr(0, bytes);
  rest_.remove_prefix(bytes);
  return taken;
}

uint64_t PayloadReader::Uint64() {
  uint64_t value = 0;
  int shift = 0;
  for (const char c : Take(sizeof(value))) {
    value |= static_cast<uint64_t>(static_cast<uint8_t>(c)) << shift;
    shift += 8;
  }
  return value;
}

std::string PayloadReader::String() {
  const uint64_t bytes = Uint64();
  return std::string(Take(bytes));
}

std::string EncodeBlob(const BlobIdentity& who, absl::string_view payload) {
  std::string blob;
  AppendUint64(blob, kMagicAndVersion);
  AppendUint64(blob, static_cast<uint64_t>(who.kind));
  AppendUint64(blob, static_cast<uint64_t>(who.rank));
  AppendUint64(blob, static_cast<uint64_t>(who.size));
  AppendString(blob, payload);
  AppendUint64(blob, Checksum(blob));
  return blob;
}

absl::StatusOr<std::vector<std::string>> DecodeBlobs(const BlobIdentity& self,
                                                     const std::vector<std::string>& blobs) {
  if (blobs.size() != static_cast<size_t>(self.size)) {
    return absl::InvalidArgumentError(absl::StrCat("got communicator blobs of ", blobs.size(),
                                                   " ranks, the group has ", self.size));
  }
  std::vector<std::string> payloads;
  for (size_t rank = 0; rank < blobs.size(); ++rank) {
    absl::StatusOr<std::string> payload = DecodeOne(self, rank, blobs[rank]);
    if (!payload.ok()) return payload.status();
    payloads.push_back(*std::move(payload));
  }
  return payloads;
}

}  // namespace tessera
