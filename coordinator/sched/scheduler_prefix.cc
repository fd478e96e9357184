// Naming the blocks of a sequence, see coordinator/kv/prefix_hash.h. Blocks that lie wholly in the
// shared beginning of a prompt are named under the shared key, those behind it under the tenant's.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "coordinator/sched/scheduler_state.h"

namespace tessera {

BlockHash Scheduler::State::RootOf(const Request& request, bool long_rope) const {
  const bool begins_shared = request.cache.num_shared_tokens >= options.block_size;
  const std::string& salt = options.models[request.model].cache_salt;
  return PrefixRoot(begins_shared ? request.cache.shared_key : request.cache.key,
                    long_rope ? absl::StrCat(salt, " long rope") : salt);
}

PrefixChain Scheduler::State::ChainOf(Sequence& sequence, int64_t blocks) const {
  const Request& request = *sequence.request->request;
  const CacheDomain& domain = request.cache;
  const int64_t num_shared = domain.num_shared_tokens / options.block_size;
  const absl::Span<const int32_t> tokens = sequence.tokens();
  PrefixChain chain;
  chain.root =
      sequence.long_rope ? sequence.request->long_prefix_root : sequence.request->prefix_root;
  const size_t size = static_cast<size_t>(options.block_size);
  for (int64_t i = static_cast<int64_t>(sequence.hashes.size()); i < blocks; ++i) {
    const BlockHash& parent = i == 0 ? chain.root : sequence.hashes.back();
    sequence.hashes.push_back(ChainBlock(i < num_shared ? domain.shared_key : domain.key, parent,
                                         tokens.subspan(static_cast<size_t>(i) * size, size)));
  }
  chain.hashes = absl::MakeConstSpan(sequence.hashes).first(static_cast<size_t>(blocks));
  chain.tokens = tokens;
  return chain;
}

}  // namespace tessera
