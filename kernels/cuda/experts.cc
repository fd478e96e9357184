// The experts' networks. The (token, expert) pairs of a pass of tokens are put in order of expert
// on the device; then two grouped products with the activation between them, and the sum over pairs
// and slices. The host never learns who goes where: grids are as large as they could have to be,
// and blocks without work end at once, so few tokens read the weights of their own experts only.

#include <algorithm>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/experts_kernels.h"

namespace tessera::cuda {
namespace {

// Scratch is cut to this unless one token needs more; longer steps take several passes.
constexpr int64_t kScratchMost = int64_t{512} << 20;
constexpr int64_t kPassTokensMax = 8192;
// Behind the scratch, for the shared expert's product.
constexpr int64_t kSharedScratch = int64_t{48} << 20;
constexpr int64_t kTilesMax = 65535;  // of a grid
constexpr int64_t kAlignment = 256;   // bytes
// With this many rows an expert on average, wide tiles pay.
constexpr int64_t kWideRows = 24;

// The scratch of one pass, laid out one after the other.
struct ExpertLayout {
  ExpertLayout(int64_t tokens, const ExpertSizes& sizes, int64_t own, int64_t element) {
    pairs = tokens * std::min(sizes.experts_per_token, own);
    tiles = std::min(own, pairs) + pairs / kSkinnyTileRows;
    counts = Take(kAlignment);
    pair_token = Take(pairs * 4);
    slots = Take(tokens * sizes.experts_per_token * static_cast<int64_t>(sizeof(ExpertSlot)));
    tile_list = Take(tiles * static_cast<int64_t>(sizeof(ProductTile)));
    activated = Take(pairs * sizes.intermediate * element);
    shared = Take(sizes.shared > 0 ? kReduceSlices * tokens * sizes.hidden * 4 : 0);
    // What the last product writes takes the place of what the first one wrote.
    gate_up = bytes;
    returned = bytes;
    bytes += Rounded(pairs * std::max(2 * sizes.intermediate * element, sizes.hidden * 4));
  }
  static int64_t Rounded(int64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }
  int64_t Take(int64_t n) {
    const int64_t begin = bytes;
    bytes += Rounded(n);
    return begin;
  }

  int64_t pairs = 0, tiles = 0;
  int64_t counts = 0, pair_token = 0, slots = 0, tile_list = 0, activated = 0, shared = 0;
  int64_t gate_up = 0, returned = 0;
  int64_t bytes = 0;
};

// As many tokens as `bytes` of scratch hold; 0 when not even one fits.
int64_t PassTokens(int64_t tokens, int64_t bytes, const ExpertSizes& sizes, int64_t own,
                   int64_t element) {
  int64_t least = 0;
  int64_t most = std::min(tokens, kPassTokensMax);
  while (least < most) {
    const int64_t middle = (least + most + 1) / 2;
    const ExpertLayout layout(middle, sizes, own, element);
    if (layout.bytes <= bytes && layout.tiles <= kTilesMax) {
      least = middle;
    } else {
      most = middle - 1;
    }
  }
  return least;
}

const CudaWeight& Cast(const Weight* weight) { return static_cast<const CudaWeight&>(*weight); }

void CheckExperts(const TensorView& out, const TensorView& x, const Routing& routing,
                  const ExpertShare& share, const SharedExpert& shared, int64_t inner) {
  const int64_t tokens = x.dims[0];
  const int64_t hidden = x.dims[1];
  TESSERA_CHECK(out.rank == 2 && x.rank == 2 && out.dims == x.dims &&
                out.dtype == DType::kFloat32 && routing.ids.dims[0] == tokens &&
                routing.ids.dtype == DType::kInt32 && routing.weights.dims == routing.ids.dims &&
                routing.weights.dtype == DType::kFloat32)
      << "x [" << tokens << ", " << hidden << "], routing of " << routing.ids.dims[0];
  const int last_slice = share.first_slice + share.num_slices;
  const int64_t own = static_cast<int64_t>(share.experts.size());
  TESSERA_CHECK(share.first_slice >= 0 && last_slice <= kReduceSlices && share.num_slices >= 1 &&
                own <= kProductGroupsMax &&
                own == SliceBegin(share.num_experts, last_slice) -
                           SliceBegin(share.num_experts, share.first_slice))
      << own << " experts of " << share.num_experts << " in slices from " << share.first_slice;
  for (const Expert& expert : share.experts) {
    TESSERA_CHECK(expert.gate_up->rows() == 2 * inner && expert.gate_up->columns() == hidden &&
                  expert.down->rows() == hidden && expert.down->columns() == inner &&
                  expert.gate_up->dtype() == share.experts[0].gate_up->dtype() &&
                  expert.down->dtype() == share.experts[0].gate_up->dtype())
        << "expert [" << expert.gate_up->rows() << ", " << expert.gate_up->columns() << "]";
  }
  if (shared.down == nullptr) return;
  const CudaWeight& down = Cast(shared.down);
  TESSERA_CHECK(down.rows() == hidden && down.row_parallel() &&
                static_cast<int>(down.layout().slices.size()) == share.num_slices &&
                shared.activated.dims[0] == tokens && shared.activated.dims[1] == down.columns() &&
                shared.activated.dtype == x.dtype &&
                (shared.gate.empty() ||
                 (shared.gate.dims[0] == tokens && shared.gate.dtype == DType::kFloat32)))
      << "shared expert [" << down.rows() << ", " << down.columns() << "]";
}

// What a product with weights like `weight` is told; rows of x are `x_stride` elements apart.
ProductArguments GroupedProduct(const CudaWeight& weight, void* out, bool out_bfloat16,
                                const void* x, int64_t x_stride) {
  ProductArguments arguments;
  arguments.outputs = weight.rows();
  arguments.out = out;
  arguments.out_stride = weight.rows();
  arguments.out_bfloat16 = out_bfloat16;
  arguments.x = x;
  arguments.x_stride = x_stride;
  weight.Describe(arguments);
  return arguments;
}

Rows RowsAt(const TensorView& view) { return {view.data, view.stride}; }

}  // namespace

size_t CudaOps::ExpertsWorkspaceBytes(int64_t tokens_max, const ExpertSizes& sizes) {
  const int64_t own = std::max<int64_t>(sizes.num_experts, 1);
  const int64_t tokens = std::max<int64_t>(
      1, PassTokens(std::max<int64_t>(tokens_max, 1), kScratchMost, sizes, own, sizeof(float)));
  return static_cast<size_t>(ExpertLayout(tokens, sizes, own, sizeof(float)).bytes +
                             (sizes.shared > 0 ? kSharedScratch : 0));
}

void CudaOps::MultiplyGroups(const ProductArguments& arguments, const ProductGroups& groups,
                             const PlainTypes& types, bool wide, cudaStream_t stream) {
  if (!types.x_bfloat16 || types.w == WeightForm::kFloat32) {
    LaunchPlainGroups(arguments, groups, types, stream);
  } else if (wide) {
    LaunchTileGroups(arguments, groups, stream);
  } else {
    LaunchSkinnyGroups(arguments, types.w, groups, stream);
  }
  Launched("multiply experts");
}

void CudaOps::MultiplyShared(const ExecContext& context, float* out, const SharedExpert& shared) {
  const CudaWeight& weight = Cast(shared.down);
  const int64_t tokens = shared.activated.dims[0];
  const size_t element = DTypeSize(shared.activated.dtype);
  // Slice by slice: the sum over experts comes in between.
  for (size_t s = 0; s < weight.layout().slices.size(); ++s) {
    const ProductSlice& slice = weight.layout().slices[s];
    ProductArguments arguments = GroupedProduct(
        weight, out + s * tokens * weight.rows(), false,
        shared.activated.as<const char>() + slice.x_begin * element, shared.activated.stride);
    arguments.tokens = tokens;
    const int64_t skipped = slice.packed_begin * static_cast<int64_t>(DTypeSize(weight.dtype()));
    arguments.w = static_cast<const char*>(weight.data()) + skipped;
    if (arguments.scale_offset != 0) {
      arguments.scale_offset += static_cast<int64_t>(s) * arguments.scale_stride * 4 - skipped;
      arguments.slice_scales = false;
    }
    arguments.slices = 1;
    arguments.slice[0] = {.packed_begin = 0, .x_begin = 0, .count = slice.count};
    Multiply(context, arguments, shared.activated, weight);
  }
}

void CudaOps::ExpertsPass(const ExecContext& context, TensorView out, TensorView x,
                          const Routing& routing, const ExpertShare& share,
                          const SharedExpert& shared, const ExpertSizes& sizes, TensorView load) {
  const cudaStream_t stream = StreamOf(context);
  const int64_t tokens = x.dims[0];
  const int64_t own = static_cast<int64_t>(share.experts.size());
  const bool bfloat16 = x.dtype == DType::kBFloat16;
  const ExpertLayout layout(tokens, sizes, own, static_cast<int64_t>(DTypeSize(x.dtype)));
  char* scratch = context.workspace.as<char>();
  GroupArguments grouping;
  grouping.tokens = tokens;
  grouping.per_token = static_cast<int>(sizes.experts_per_token);
  grouping.ids = RowsAt(routing.ids);
  grouping.weights = RowsAt(routing.weights);
  grouping.num_experts = static_cast<int>(share.num_experts);
  grouping.first_expert = static_cast<int>(SliceBegin(share.num_experts, share.first_slice));
  grouping.own = static_cast<int>(own);
  grouping.first_slice = share.first_slice;
  grouping.num_slices = share.num_slices;
  grouping.pair_token = reinterpret_cast<int32_t*>(scratch + layout.pair_token);
  grouping.slots = reinterpret_cast<ExpertSlot*>(scratch + layout.slots);
  grouping.tiles = reinterpret_cast<ProductTile*>(scratch + layout.tile_list);
  grouping.counts = reinterpret_cast<int32_t*>(scratch + layout.counts);
  grouping.load = load.as<long long>();
  if (own > 0) {
    const CudaWeight& up = Cast(share.experts[0].gate_up);
    const CudaWeight& down = Cast(share.experts[0].down);
    const ProductArguments first =
        GroupedProduct(up, scratch + layout.gate_up, bfloat16, x.data, x.stride);
    const ProductArguments second = GroupedProduct(down, scratch + layout.returned, false,
                                                   scratch + layout.activated, down.columns());
    const PlainTypes types{bfloat16, up.form()};
    const bool wide = bfloat16 && types.w == WeightForm::kBFloat16 && TileGemmTakes(first) &&
                      TileGemmTakes(second) &&
                      tokens * sizes.experts_per_token >= kWideRows * share.num_experts;
    grouping.tile_rows = wide ? kWideTileRows : kSkinnyTileRows;
    LaunchGroupPairs(grouping, stream);
    ProductGroups groups;
    groups.tiles = grouping.tiles;
    groups.tile_count = grouping.counts + 1;
    groups.tiles_max = std::min(own, layout.pairs) + layout.pairs / grouping.tile_rows;
    groups.x_row = grouping.pair_token;
    for (int64_t e = 0; e < own; ++e) groups.w[e] = Cast(share.experts[e].gate_up).data();
    MultiplyGroups(first, groups, types, wide, stream);
    LaunchGated({.bfloat16 = bfloat16,
                 .rows = layout.pairs,
                 .columns = sizes.intermediate,
                 .out = {scratch + layout.activated, sizes.intermediate},
                 .gate_up = {scratch + layout.gate_up, 2 * sizes.intermediate},
                 .form = FormOf(share.activation),
                 .row_count = grouping.counts},
                stream);
    groups.x_row = nullptr;
    for (int64_t e = 0; e < own; ++e) groups.w[e] = Cast(share.experts[e].down).data();
    MultiplyGroups(second, groups, types, wide, stream);
  } else {
    LaunchGroupPairs(grouping, stream);
  }
  CombineArguments combine;
  combine.tokens = tokens;
  combine.columns = sizes.hidden;
  combine.per_token = grouping.per_token;
  combine.num_slices = share.num_slices;
  combine.slots = grouping.slots;
  combine.pairs = reinterpret_cast<const float*>(scratch + layout.returned);
  if (shared.down != nullptr) {
    float* products = reinterpret_cast<float*>(scratch + layout.shared);
    ExecContext behind = context;
    behind.workspace = context.workspace.Rows(layout.bytes, kSharedScratch);
    MultiplyShared(behind, products, shared);
    combine.shared = products;
    combine.gate = RowsAt(shared.gate);
  }
  combine.out = RowsAt(out);
  LaunchCombine(combine, stream);
  Launched("sum experts");
}

void CudaOps::ExpertsPartial(const ExecContext& context, TensorView out, TensorView x,
                             const Routing& routing, const ExpertShare& share,
                             const SharedExpert& shared, TensorView load) {
  const int64_t inner = share.experts.empty() ? 0 : share.experts[0].down->columns();
  CheckExperts(out, x, routing, share, shared, inner);
  TESSERA_CHECK(load.dtype == DType::kInt64) << DTypeName(load.dtype) << " load";
  const ExpertSizes sizes = {.hidden = x.dims[1],
                             .num_experts = share.num_experts,
                             .experts_per_token = routing.ids.dims[1],
                             .intermediate = inner,
                             .shared = shared.down == nullptr ? 0 : shared.down->columns()};
  Enter();
  const int64_t kept = sizes.shared > 0 ? kSharedScratch : 0;
  const int64_t step = PassTokens(x.dims[0], context.workspace.dims[0] - kept, sizes,
                                  static_cast<int64_t>(share.experts.size()),
                                  static_cast<int64_t>(DTypeSize(x.dtype)));
  TESSERA_CHECK(step > 0 || x.dims[0] == 0)
      << "workspace of " << context.workspace.dims[0] << " bytes for the experts of one token";
  for (int64_t begin = 0; begin < x.dims[0]; begin += step) {
    const int64_t tokens = std::min(step, x.dims[0] - begin);
    const auto rows = [&](const TensorView& view) {
      return view.empty() ? view : view.Rows(begin, tokens);
    };
    ExpertsPass(
        context, rows(out), rows(x), {.ids = rows(routing.ids), .weights = rows(routing.weights)},
        share,
        {.activated = rows(shared.activated), .down = shared.down, .gate = rows(shared.gate)},
        sizes, load);
  }
}

}  // namespace tessera::cuda
