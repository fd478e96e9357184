// What a rank remembers of a sequence between steps: its block tables, how far it is computed, how
// to sample. Made by a plan's reset, extended by later rows, forgotten when a plan says so. Owned
// by the engine, touched on its thread only. A plan's border between prompt and output and its
// token history are checked but not kept: no sampling parameter of this protocol version reads
// them.

#ifndef TESSERA_WORKER_SEQUENCE_STATE_H_
#define TESSERA_WORKER_SEQUENCE_STATE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "worker/sampler.h"

namespace tessera {

// Sequences that one rank keeps at a time; a plan that would exceed it is refused.
inline constexpr size_t kSequencesMax = 65536;

struct SequenceState {
  std::vector<std::vector<int32_t>> block_tables;  // [KvGroup][block of the sequence] block ids
  int64_t num_computed = 0;                        // tokens whose keys and values are in the cache
  SampleRow sampling;                              // `position` is filled in per step
};

// Keyed by the plan's `sequence`. Looked up only, never iterated: its order means nothing.
using SequenceMap = absl::flat_hash_map<uint64_t, SequenceState>;

}  // namespace tessera

#endif  // TESSERA_WORKER_SEQUENCE_STATE_H_
