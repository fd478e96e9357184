// The paged keys and values of one rank: one pool of blocks per layer, sized by its KvGroup. Which
// block belongs to which sequence is not known here; plans carry block ids (see sequence_state.h).
// Made once per assignment; used on the engine thread.

#ifndef TESSERA_WORKER_KV_CACHE_H_
#define TESSERA_WORKER_KV_CACHE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "models/model_spec.h"
#include "models/weight_spec.h"

namespace tessera {

struct KvCacheOptions {
  DType dtype = DType::kBFloat16;
  int64_t block_size = 16;           // tokens
  std::vector<uint32_t> num_blocks;  // per KvGroup
  // One block more, behind the others, for rows that stand for nothing.
  bool spare_block = false;
};

class KvCache {
 public:
  // INVALID_ARGUMENT when the options do not fit the model's KvGroups, RESOURCE_EXHAUSTED with the
  // bytes wanted when memory is short.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(Ops& ops, const ModelSpec& spec,
                                                         const HeadShard& heads,
                                                         const KvCacheOptions& options);

  const KvLayer& layer(int index) const { return layers_[index]; }
  int group_of(int layer) const { return group_of_[layer]; }
  uint64_t bytes() const { return bytes_; }

  // Copies blocks in every layer of a group, pairs in order.
  void Copy(const ExecContext& ctx, int group, const std::vector<int32_t>& from,
            const std::vector<int32_t>& to);

 private:
  explicit KvCache(Ops& ops) : ops_(ops) {}

  Ops& ops_;
  std::vector<KvLayer> layers_;
  std::vector<int> group_of_;  // KvGroup of each layer
  std::vector<Buffer> buffers_;
  uint64_t bytes_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_KV_CACHE_H_
