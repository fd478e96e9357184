// Allocation of the KV pools and copies inside them. One buffer per layer, so that a layer's pool
// is contiguous whatever the backend's layout is.

#include "worker/kv_cache.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tessera {
namespace {

absl::Status CheckOptions(const ModelSpec& spec, const KvCacheOptions& options) {
  if (options.num_blocks.size() != spec.kv_groups.size()) {
    return absl::InvalidArgumentError(absl::StrCat("num_blocks has ", options.num_blocks.size(),
                                                   " entries, the model has ",
                                                   spec.kv_groups.size(), " KvGroups"));
  }
  if (options.block_size < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("block_size is ", options.block_size, ", must be >= 1"));
  }
  for (size_t group = 0; group < spec.kv_groups.size(); ++group) {
    if (options.num_blocks[group] < 1) {
      return absl::InvalidArgumentError(absl::StrCat("num_blocks[", group, "] is 0"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(Ops& ops, const ModelSpec& spec,
                                                         const HeadShard& heads,
                                                         const KvCacheOptions& options) {
  TESSERA_RETURN_IF_ERROR(CheckOptions(spec, options));
  std::unique_ptr<KvCache> cache(new KvCache(ops));
  cache->layers_.resize(spec.num_layers);
  cache->group_of_.assign(spec.num_layers, -1);
  for (size_t group = 0; group < spec.kv_groups.size(); ++group) {
    KvLayer layer = {
        .storage = {},
        .dtype = options.dtype,
        .num_blocks = int64_t{options.num_blocks[group]} + (options.spare_block ? 1 : 0),
        .block_size = options.block_size,
        .num_heads = heads.num_kv_heads,
        .head_size = spec.kv_groups[group].head_size,
        .latent = spec.kv_groups[group].kind == KvGroup::Kind::kLatent};
    const size_t bytes = ops.KvLayerBytes(layer);
    for (int index : spec.kv_groups[group].layers) {
      TESSERA_ASSIGN_OR_RETURN(Buffer buffer, ops.Allocate(bytes));
      layer.storage = buffer.View(DType::kUInt8, {static_cast<int64_t>(bytes)});
      cache->layers_[index] = layer;
      cache->group_of_[index] = static_cast<int>(group);
      cache->buffers_.push_back(std::move(buffer));
      cache->bytes_ += bytes;
    }
  }
  for (int64_t index = 0; index < spec.num_layers; ++index) {
    TESSERA_CHECK(cache->group_of_[index] != -1) << "layer " << index << " is in no KvGroup";
  }
  return cache;
}

void KvCache::Copy(const ExecContext& ctx, int group, const std::vector<int32_t>& from,
                   const std::vector<int32_t>& to) {
  for (size_t index = 0; index < layers_.size(); ++index) {
    if (group_of_[index] == group) ops_.CopyBlocks(ctx, layers_[index], from, to);
  }
}

}  // namespace tessera
