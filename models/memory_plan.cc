// The arithmetic of memory_plan.h. It follows what a worker allocates: fused matrices in panels of
// kPanelRows rows, a plain embedding table beside the packed head, one KV pool per layer, and the
// buffers of one step. The fullest rank is planned; others need the same or a little less.

#include "models/memory_plan.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "models/describe.h"
#include "models/kv_pool_plan.h"
#include "models/weight_spec.h"

namespace tessera {
namespace {

constexpr int64_t kPanelRows = 16;         // rows of a packed matrix come in panels of this many
constexpr int64_t kColumnPair = 2;         // and its columns in pairs
constexpr int64_t kExpertTokensMax = 512;  // tokens whose experts use scratch at once
constexpr int64_t kPassRowsMax = 256;      // rows of a product that use scratch at once
constexpr int64_t kGatherBytes = 1 << 20;  // of each rank's part of an all-reduce, held at once
constexpr int64_t kBlockSizeMax = 1024;    // tokens
constexpr int64_t kStepMax = 1 << 20;      // tokens or rows of one step

int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// The matrix that a packed tensor is a part of: query, key and value are one, gate and up are one.
WeightSlot FusedSlot(WeightSlot slot) {
  switch (slot) {
    case WeightSlot::kKey:
    case WeightSlot::kValue:
      return WeightSlot::kQuery;
    case WeightSlot::kUp:
      return WeightSlot::kGate;
    case WeightSlot::kExpertUp:
      return WeightSlot::kExpertGate;
    case WeightSlot::kSharedUp:
      return WeightSlot::kSharedGate;
    default:
      return slot;
  }
}

// Experts of a layer on the rank that has the most.
int64_t MostExperts(const ModelSpec& spec, int tp) {
  int64_t most = 0;
  for (int rank = 0; rank < tp; ++rank) most = std::max(most, ExpertsOf(spec, rank, tp).count);
  return most;
}

// Columns of this rank as they are packed. The columns of a row-parallel matrix lie in the fixed
// slices that all tp sizes share, each padded to pairs; ranks differ by a pair or two, the widest
// counts.
int64_t PackedColumns(const WeightSpec& weight, const Shard& shard, int tp) {
  if (weight.rule != ShardRule::kColumns) return RoundUp(shard.column_count, kColumnPair);
  const int64_t total = shard.column_count * tp;
  int64_t widest = 0;
  for (int rank = 0; rank < tp; ++rank) {
    int64_t columns = 0;
    for (int s = rank * kSumSlices / tp; s < (rank + 1) * kSumSlices / tp; ++s) {
      columns += RoundUp(total * (s + 1) / kSumSlices - total * s / kSumSlices, kColumnPair);
    }
    widest = std::max(widest, columns);
  }
  return widest;
}

void AddWeights(const ModelSpec& spec, const MemoryRequest& request, MemoryPlan* plan) {
  const uint64_t element = DTypeSize(request.dtype);
  const int64_t experts = MostExperts(spec, request.tp);
  struct Packed {
    int64_t rows = 0;
    int64_t columns = 0;
    int64_t float8_scales = 0;  // of a row; 0: not float8
  };
  std::map<std::tuple<int, int, WeightSlot>, Packed> packed;
  for (const WeightSpec& weight : WeightTableOfOneExpert(spec)) {
    // An expert lies on one rank, whole; here the first stands for all of the fullest rank's.
    const Shard shard = weight.expert < 0 ? ShardOf(weight, spec, /*rank=*/0, request.tp)
                                          : Shard{.row_count = weight.shape[0],
                                                  .rows_padded = weight.shape[0],
                                                  .column_count = weight.shape.back()};
    const uint64_t plain_bytes =
        shard.rows_padded * shard.column_count * DTypeSize(weight.ResidentDType(request.dtype));
    if (weight.rule == ShardRule::kReplicate) {
      plan->weight_bytes_replicated += plain_bytes;
    } else if (weight.shape.size() == 1 || weight.slot == WeightSlot::kEmbedding) {
      plan->weight_bytes_sharded += plain_bytes;
    } else {
      Packed& matrix = packed[{weight.layer, weight.expert, FusedSlot(weight.slot)}];
      matrix.rows += shard.rows_padded;
      matrix.columns = PackedColumns(weight, shard, request.tp);
      if (request.float8_weights && MayBeFloat8(weight, spec)) {
        matrix.float8_scales = weight.rule == ShardRule::kColumns ? kSumSlices / request.tp : 1;
      }
    }
    // A tied head is the embedding's rows once more, packed for the product.
    if (weight.slot == WeightSlot::kEmbedding && spec.tied_head) {
      packed[{-1, -1, WeightSlot::kHead}] = {.rows = shard.rows_padded,
                                             .columns = PackedColumns(weight, shard, request.tp)};
    }
  }
  for (const auto& [place, matrix] : packed) {
    const uint64_t row_bytes =
        matrix.float8_scales > 0
            ? matrix.columns * DTypeSize(DType::kFloat8E4M3) + matrix.float8_scales * 4
            : matrix.columns * element;
    const int64_t count = std::get<1>(place) < 0 ? 1 : experts;
    plan->weight_bytes_sharded += RoundUp(matrix.rows, kPanelRows) * row_bytes * count;
  }
}

// Elements of one token that the attention holds, in the model's dtype.
int64_t AttentionElements(const ModelSpec& spec, const HeadShard& heads) {
  const LatentSpec& latent = spec.latent;
  const int64_t query = heads.num_heads * spec.head_size;
  if (latent.kv_rank == 0) return 2 * query + 2 * heads.num_kv_heads * spec.head_size;
  const int64_t plain = heads.num_heads * (latent.nope_size + latent.rope_size);
  return latent.query_rank + latent.entry_size() + plain + query +
         heads.num_heads * (latent.kv_rank + latent.value_size);
}

// Columns of this rank's dense MLP, or of its shared expert if that is wider.
int64_t InnerSize(const ModelSpec& spec, int tp) {
  const int64_t dense = HasDenseLayers(spec) ? spec.intermediate_size / tp : 0;
  return std::max(dense, spec.moe.shared_intermediate / tp);
}

// What the experts of a step of `tokens` tokens need beside: choices, and the scratch of a pass.
int64_t ExpertBytes(const ModelSpec& spec, const MemoryRequest& request) {
  const MoeSpec& moe = spec.moe;
  if (moe.num_experts == 0) return 0;
  const int64_t hidden = spec.hidden_size;
  const int64_t chosen = request.tokens_max * (moe.num_experts + 2 * moe.experts_per_token + 1);
  const int64_t pass = std::min(request.tokens_max, kExpertTokensMax);
  const int64_t token = moe.experts_per_token * (moe.expert_intermediate + 2) +
                        moe.shared_intermediate / request.tp +
                        std::max(hidden + 2 * moe.expert_intermediate, 3 * hidden);
  return (chosen + pass * token) * 4;
}

// The decoder's buffers of one step, the scratch of its widest product, the step's own arrays, and
// what the communicator gathers in.
uint64_t ActivationBytes(const ModelSpec& spec, const MemoryRequest& request, int64_t context_max) {
  const HeadShard heads = HeadsOf(spec, /*rank=*/0, request.tp);
  const int64_t element = static_cast<int64_t>(DTypeSize(request.dtype));
  const int64_t hidden = spec.hidden_size;
  const int64_t attention = AttentionElements(spec, heads);
  const int64_t inner = InnerSize(spec, request.tp);
  const int64_t vocabulary = (spec.vocab_size + request.tp - 1) / request.tp;

  // [T, ...]: residual, normed, the attention's, gate and up, activated; the partial sum in
  // float32.
  const int64_t token_bytes = (2 * hidden + attention + 3 * inner) * element + hidden * 4;
  // [R, ...]: rows of the head, their logits in float32, block tables and lengths in int32.
  const int64_t blocks = RoundUp(context_max, request.block_size) / request.block_size;
  const int64_t groups = static_cast<int64_t>(spec.kv_groups.size());
  const int64_t row_bytes = hidden * element + vocabulary * 4 + (blocks * groups + 3) * 4;
  const int64_t widest = std::max({hidden, attention, 2 * inner, vocabulary});
  const int64_t workspace =
      std::max(std::min(request.tokens_max, kPassRowsMax) * widest * 4, ExpertBytes(spec, request));
  const int64_t gathered = request.tp > 1 ? kGatherBytes * request.tp : 0;
  return static_cast<uint64_t>(request.tokens_max * (token_bytes + 2 * 4) +
                               request.rows_max * row_bytes + workspace + gathered);
}

// The smallest budget that holds everything and one sequence of context_max.
uint64_t BudgetFor(const ModelSpec& spec, const MemoryRequest& request, const MemoryPlan& plan) {
  const double bytes = static_cast<double>(plan.weight_bytes() + plan.activation_bytes +
                                           KvBytesAtMost(spec, request, plan.context_max));
  return static_cast<uint64_t>(bytes / (1.0 - request.reserve_fraction)) + 1;
}

absl::Status CheckRequest(const ModelSpec& spec, const MemoryRequest& request) {
  TESSERA_RETURN_IF_ERROR(CheckTensorParallel(spec, request.tp));
  const auto refuse = [](const char* name, auto value, const std::string& allowed) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, "; it must be ", allowed));
  };
  if (request.block_size < 1 || request.block_size > kBlockSizeMax) {
    return refuse("block_size", request.block_size, absl::StrCat("1 to ", kBlockSizeMax));
  }
  if (request.chunk_max < 1 || request.chunk_max > kStepMax) {
    return refuse("chunk_max", request.chunk_max, absl::StrCat("1 to ", kStepMax));
  }
  if (request.tokens_max < 1 || request.tokens_max > kStepMax) {
    return refuse("tokens_max", request.tokens_max, absl::StrCat("1 to ", kStepMax));
  }
  if (request.rows_max < 1 || request.rows_max > kStepMax) {
    return refuse("rows_max", request.rows_max, absl::StrCat("1 to ", kStepMax));
  }
  if (request.context_max < 0 || request.context_max > spec.context_max) {
    return refuse("context_max", request.context_max,
                  absl::StrCat("0 to the model's own, ", spec.context_max));
  }
  if (!(request.reserve_fraction >= 0.0 && request.reserve_fraction <= 0.9)) {
    return refuse("reserve_fraction", request.reserve_fraction, "0 to 0.9");
  }
  return absl::OkStatus();
}

// Everything but the KV pool.
MemoryPlan FixedPart(const ModelSpec& spec, const MemoryRequest& request) {
  MemoryPlan plan;
  AddWeights(spec, request, &plan);
  plan.context_max = request.context_max > 0 ? request.context_max : spec.context_max;
  plan.activation_bytes = ActivationBytes(spec, request, plan.context_max);
  plan.reserve_bytes =
      static_cast<uint64_t>(static_cast<double>(request.budget_bytes) * request.reserve_fraction);
  for (const KvGroup& group : spec.kv_groups) {
    plan.kv_bytes_per_token += KvBytesPerToken(group, request);
  }
  plan.kv_bytes_per_sequence = KvBytesAtRest(spec, request, plan.context_max);
  return plan;
}

// Gives what is left to the KV pool.
void AddKvPool(const ModelSpec& spec, const MemoryRequest& request, MemoryPlan* plan) {
  const uint64_t fixed = plan->weight_bytes() + plan->activation_bytes + plan->reserve_bytes;
  uint64_t pool = request.budget_bytes > fixed ? request.budget_bytes - fixed : 0;
  if (request.kv_bytes_max > 0) pool = std::min(pool, request.kv_bytes_max);
  KvPoolPlan split = SplitKvPool(spec, request, plan->context_max, pool);
  plan->num_blocks = std::move(split.num_blocks);
  plan->kv_bytes = split.bytes;
  plan->kv_tokens = split.tokens;
  plan->sequences_at_context_max =
      static_cast<double>(plan->kv_tokens) / static_cast<double>(plan->context_max);
}

bool Fits(const ModelSpec& spec, const MemoryRequest& request) {
  MemoryPlan plan = FixedPart(spec, request);
  AddKvPool(spec, request, &plan);
  return plan.kv_tokens >= plan.context_max;
}

// The longest context that fits, in whole blocks; 0 if none does. A shorter one also needs less of
// a step's block tables, so it is searched for.
int64_t ContextThatFits(const ModelSpec& spec, MemoryRequest request, int64_t context_max) {
  int64_t fits = 0;
  for (int64_t fails = context_max / request.block_size + 1; fails - fits > 1;) {
    const int64_t middle = fits + (fails - fits) / 2;
    request.context_max = std::min(middle * request.block_size, spec.context_max);
    (Fits(spec, request) ? fits : fails) = middle;
  }
  return fits * request.block_size;
}

// What would fit, one choice after the other.
std::string Advice(const ModelSpec& spec, const MemoryRequest& request, const MemoryPlan& plan) {
  std::vector<std::string> choices;
  for (const int tp : kTensorParallelSizes) {
    MemoryRequest other = request;
    other.tp = tp;
    if (tp <= request.tp || !CheckTensorParallel(spec, tp).ok() || !Fits(spec, other)) continue;
    choices.push_back(absl::StrCat("tp = ", tp));
    break;
  }
  if (const int64_t context = ContextThatFits(spec, request, plan.context_max); context > 0) {
    choices.push_back(absl::StrCat("a context of at most ", context, " tokens"));
  }
  for (int64_t tokens = request.tokens_max / 2; tokens >= 64; tokens /= 2) {
    MemoryRequest other = request;
    other.tokens_max = tokens;
    other.rows_max = std::min(request.rows_max, tokens);
    if (!Fits(spec, other)) continue;
    choices.push_back(absl::StrCat("steps of at most ", tokens, " tokens"));
    break;
  }
  const uint64_t pool = KvBytesAtMost(spec, request, plan.context_max);
  if (request.kv_bytes_max > 0 && request.kv_bytes_max < pool) {
    choices.push_back(absl::StrCat("a KV cap of at least ", FormatBytes(pool)));
  }
  if (const uint64_t budget = BudgetFor(spec, request, plan); budget > request.budget_bytes) {
    choices.push_back(absl::StrCat(FormatBytes(budget), " per rank"));
  }
  return absl::StrJoin(choices, ", or ");
}

}  // namespace

absl::StatusOr<MemoryPlan> PlanMemory(const ModelSpec& spec, const MemoryRequest& request) {
  TESSERA_RETURN_IF_ERROR(CheckRequest(spec, request));
  MemoryPlan plan = FixedPart(spec, request);
  AddKvPool(spec, request, &plan);
  if (plan.kv_tokens >= plan.context_max) return plan;

  const uint64_t fixed = plan.weight_bytes() + plan.activation_bytes + plan.reserve_bytes;
  const std::string needs =
      absl::StrCat("weights ", FormatBytes(plan.weight_bytes()), ", activations ",
                   FormatBytes(plan.activation_bytes), ", reserve ",
                   FormatBytes(plan.reserve_bytes), " of ", FormatBytes(request.budget_bytes));
  if (fixed > request.budget_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the model does not fit one rank of tp = ", request.tp, ": ", needs, ", ",
                     FormatBytes(fixed - request.budget_bytes),
                     " too much; what would fit: ", Advice(spec, request, plan)));
  }
  return absl::ResourceExhaustedError(absl::StrCat(
      "the KV cache does not hold one sequence of ", plan.context_max, " tokens (",
      FormatBytes(KvBytesAtMost(spec, request, plan.context_max)), ") but ", plan.kv_tokens,
      " tokens at tp = ", request.tp, ": ", needs,
      request.kv_bytes_max > 0 ? absl::StrCat(", KV cap ", FormatBytes(request.kv_bytes_max)) : "",
      "; what would fit: ", Advice(spec, request, plan)));
}

}  // namespace tessera
