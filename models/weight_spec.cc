// Shard arithmetic: which rank keeps what. The tensor tables themselves are the families'.

#include "models/weight_spec.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "models/family.h"

namespace tessera {
namespace {

const Family& FamilyOf(const ModelSpec& spec) {
  const Family* family = FindFamily(spec.architecture);
  TESSERA_CHECK(family != nullptr) << "spec of architecture '" << spec.architecture << "'";
  return *family;
}

// Why `tp` ranks cannot share the model, or "".
std::string TensorParallelProblem(const ModelSpec& spec, int tp) {
  if (std::find(std::begin(kTensorParallelSizes), std::end(kTensorParallelSizes), tp) ==
      std::end(kTensorParallelSizes)) {
    return absl::StrCat("must be one of ", absl::StrJoin(kTensorParallelSizes, ", "));
  }
  if (spec.num_heads % tp != 0) {
    return absl::StrCat("does not divide the model's ", spec.num_heads, " attention heads");
  }
  if (HasDenseLayers(spec) && spec.intermediate_size % tp != 0) {
    return absl::StrCat("does not divide the model's intermediate size, ", spec.intermediate_size);
  }
  if (spec.moe.shared_intermediate % tp != 0) {
    return absl::StrCat("does not divide the shared expert's intermediate size, ",
                        spec.moe.shared_intermediate);
  }
  if (spec.num_kv_heads % tp != 0 && tp % spec.num_kv_heads != 0) {
    return absl::StrCat("neither divides the model's ", spec.num_kv_heads,
                        " KV heads nor is a multiple of them");
  }
  return "";
}

}  // namespace

std::vector<int64_t> WeightSpec::StoredShape() const {
  std::vector<int64_t> stored = shape;
  if (stored_rows > 0) stored[0] = stored_rows;
  return stored;
}

int64_t WeightSpec::Elements() const {
  int64_t elements = 1;
  for (const int64_t n : shape) elements *= n;
  return elements;
}

int64_t WeightSpec::StoredRow(int64_t row) const {
  if (run_rows == 0) return stored_begin + row;
  return stored_begin + row / run_rows * run_stride + row % run_rows;
}

std::vector<WeightSpec> WeightTable(const ModelSpec& spec) { return FamilyOf(spec).weights(spec); }

std::vector<WeightSpec> WeightTableOfOneExpert(const ModelSpec& spec) {
  ModelSpec one = spec;
  one.moe.num_experts = std::min<int64_t>(one.moe.num_experts, 1);
  std::vector<WeightSpec> table = WeightTable(one);
  for (WeightSpec& weight : table) {
    const bool per_expert =
        weight.slot == WeightSlot::kRouter || weight.slot == WeightSlot::kRouterCorrection;
    if (per_expert) weight.shape[0] = spec.moe.num_experts;
  }
  return table;
}

bool IsIgnorableTensor(const ModelSpec& spec, const std::string& name) {
  return FamilyOf(spec).ignorable(spec, name);
}

absl::Status CheckTensorParallel(const ModelSpec& spec, int tp) {
  const std::string problem = TensorParallelProblem(spec, tp);
  if (problem.empty()) return absl::OkStatus();
  std::vector<int> fitting;
  for (const int other : kTensorParallelSizes) {
    if (TensorParallelProblem(spec, other).empty()) fitting.push_back(other);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("tp = ", tp, " ", problem,
                   "; this model can be divided by tp = ", absl::StrJoin(fitting, ", ")));
}

Shard ShardOf(const WeightSpec& weight, const ModelSpec& spec, int rank, int tp) {
  TESSERA_CHECK(tp >= 1 && rank >= 0 && rank < tp) << "rank " << rank << " of " << tp;
  const int64_t rows = weight.shape[0];
  const int64_t columns = weight.shape.size() > 1 ? weight.shape[1] : 1;
  Shard shard{0, rows, rows, 0, columns};
  switch (weight.rule) {
    case ShardRule::kReplicate:
      break;
    case ShardRule::kRows:
    case ShardRule::kQueryHeads:
      TESSERA_CHECK(rows % tp == 0) << weight.name << ": " << rows << " rows over " << tp;
      shard.row_count = shard.rows_padded = rows / tp;
      shard.row_begin = rank * shard.row_count;
      break;
    case ShardRule::kColumns:
      TESSERA_CHECK(columns % tp == 0) << weight.name << ": " << columns << " columns over " << tp;
      shard.column_count = columns / tp;
      shard.column_begin = rank * shard.column_count;
      break;
    case ShardRule::kKvHeads: {
      const HeadShard heads = HeadsOf(spec, rank, tp);
      const int64_t head_rows = rows / spec.num_kv_heads;
      shard.row_begin = heads.kv_begin * head_rows;
      shard.row_count = shard.rows_padded = heads.num_kv_heads * head_rows;
      break;
    }
    case ShardRule::kVocab:
      shard.rows_padded = (rows + tp - 1) / tp;
      shard.row_begin = std::min(rank * shard.rows_padded, rows);
      shard.row_count = std::min(shard.rows_padded, rows - shard.row_begin);
      break;
    case ShardRule::kExperts: {
      const ExpertRange own = ExpertsOf(spec, rank, tp);
      const bool mine = weight.expert >= own.begin && weight.expert < own.begin + own.count;
      if (!mine) shard.row_count = shard.rows_padded = 0;
      break;
    }
  }
  return shard;
}

ExpertRange ExpertsOf(const ModelSpec& spec, int rank, int tp) {
  TESSERA_CHECK(tp >= 1 && rank >= 0 && rank < tp) << "rank " << rank << " of " << tp;
  const auto begin = [&](int of) {
    return spec.moe.num_experts * (of * kSumSlices / tp) / kSumSlices;
  };
  return {.begin = begin(rank), .count = begin(rank + 1) - begin(rank)};
}

HeadShard HeadsOf(const ModelSpec& spec, int rank, int tp) {
  TESSERA_CHECK(tp >= 1 && rank >= 0 && rank < tp) << "rank " << rank << " of " << tp;
  TESSERA_CHECK(TensorParallelProblem(spec, tp).empty()) << "tp " << tp;
  HeadShard heads;
  heads.num_heads = spec.num_heads / tp;
  heads.num_kv_heads = std::max<int64_t>(1, spec.num_kv_heads / tp);
  // rank * K / tp is the first head of the rank, or the one that tp / K neighbours share.
  heads.kv_begin = rank * spec.num_kv_heads / tp;
  return heads;
}

bool MayBeFloat8(const WeightSpec& weight, const ModelSpec& spec) {
  switch (weight.slot) {
    case WeightSlot::kQuery:
    case WeightSlot::kKey:
    case WeightSlot::kValue:
      return spec.latent.kv_rank == 0;
    case WeightSlot::kOutput:
    case WeightSlot::kGate:
    case WeightSlot::kUp:
    case WeightSlot::kDown:
    case WeightSlot::kExpertGate:
    case WeightSlot::kExpertUp:
    case WeightSlot::kExpertDown:
    case WeightSlot::kSharedGate:
    case WeightSlot::kSharedUp:
    case WeightSlot::kSharedDown:
      return true;
    default:
      return false;
  }
}

}  // namespace tessera
