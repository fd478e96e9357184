// The memory that the ranks of one host share: its layout, making it, finding it again by name, and
// never leaving its name behind. Rank 0 creates; the others attach; once all have, the name goes
// away and the memory lives as long as its mappings. Each rank maps it once, whether ranks are
// processes or threads.
//
// A creator that is killed before that point leaves a file in /dev/shm. It held a lock on it, so
// the next creator on the host recognises such files (no lock, older than kStaleAge) and removes
// them.

#ifndef TESSERA_WORKER_COMM_SHARED_SEGMENT_H_
#define TESSERA_WORKER_COMM_SHARED_SEGMENT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/comm/futex_flag.h"
#include "worker/comm/tree_sum.h"

namespace tessera {

// Bytes that a rank can lay out per round of a collective, and per message part of Send; two of
// each, so that writing the next overlaps reading the last.
inline constexpr size_t kRoundSlotBytes = 256 * 1024;
inline constexpr size_t kMailSlotBytes = 16 * 1024;

// Send from one rank to one other.
struct MailFlags {
  FutexFlag sent;   // parts laid out, raised by the sender
  FutexFlag taken;  // parts copied away, raised by the receiver
};

struct SegmentHeader {
  uint64_t magic;
  uint64_t token;  // random; also in the creator's blob
  // 0 while all is well, else the first failure of the group, see shared_memory.cc.
  alignas(64) std::atomic<uint32_t> failure;
  FutexFlag joined[kCommRanksMax];               // 1 once the rank has attached
  FutexFlag round[kCommRanksMax];                // rounds of collectives laid out by the rank
  MailFlags mail[kCommRanksMax][kCommRanksMax];  // [from][to]
};

class SharedSegment {
 public:
  // Makes a new segment under a fresh name. RESOURCE_EXHAUSTED when /dev/shm has no room.
  static absl::StatusOr<std::unique_ptr<SharedSegment>> Create(int size);
  // Maps the segment that another rank made. The name comes from outside and is checked.
  static absl::StatusOr<std::unique_ptr<SharedSegment>> Attach(const std::string& name,
                                                               uint64_t token, int size);
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  const std::string& name() const { return name_; }
  uint64_t token() const { return header()->token; }
  SegmentHeader* header() const { return static_cast<SegmentHeader*>(memory_); }
  char* RoundSlot(int rank, uint32_t round) const;
  char* MailSlot(int from, int to, uint32_t part) const;

  // Removes the name; attached ranks keep the memory. Any rank may, any number of times.
  void Unlink();

 private:
  SharedSegment(std::string name, int size) : name_(std::move(name)), size_(size) {}
  absl::Status Map(int fd);

  const std::string name_;
  const int size_;
  void* memory_ = nullptr;
  int lock_fd_ = -1;  // creator only, until Unlink: says that the name is in use
};

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_SHARED_SEGMENT_H_
