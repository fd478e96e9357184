// The experts' networks. The (token, expert) pairs of a pass of tokens are put in order of expert,
// tokens in order inside; then each expert is three products over its own rows, several small
// experts in one parallel region. The last product runs over columns of the output: each thread has
// a range of them, and for it goes through the slices of the fixed tree and through the experts of
// a slice, so nothing is shared and every weight is read once a pass.

#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/gemm_run.h"

namespace tessera::cpu {
namespace {

// Tokens of a pass: bounds the scratch. With 256 experts of which a token takes 8 an expert still
// has 16 rows on average, enough to be worth its weight's bytes.
constexpr int64_t kPassTokensMax = 512;
// Multiply-adds worth handing to another thread.
constexpr int64_t kGrain = 128 << 10;
constexpr int64_t kAlignment = 64;  // bytes
// Buffers of partial sums that the tree of eight leaves needs beside its result.
constexpr int kTreeDepth = 3;

// The scratch of one pass, laid out one after the other.
struct Layout {
  Layout(int64_t tokens, const ExpertSizes& sizes, int64_t own_experts) {
    const int64_t pairs = tokens * std::min(sizes.experts_per_token, own_experts);
    const int64_t width = static_cast<int64_t>(sizeof(float));
    begins = Take((own_experts + 1) * width);
    busy = Take(own_experts * width);
    pair_tokens = Take(pairs * width);
    pair_weights = Take(pairs * width);
    activated = Take(pairs * sizes.intermediate * width);
    shared = Take(tokens * sizes.shared * width);
    gates = Take(tokens * width);
    // The tree's sums take the place of what the first two products needed.
    x = bytes;
    gate_up = x + Rounded(tokens * sizes.hidden * width);
    tree = x;
    const int64_t products = gate_up - x + Rounded(tokens * 2 * sizes.intermediate * width);
    bytes += std::max(products, kTreeDepth * Rounded(tokens * sizes.hidden * width));
  }
  static int64_t Rounded(int64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }
  int64_t Take(int64_t n) {
    const int64_t begin = bytes;
    bytes += Rounded(n);
    return begin;
  }

  int64_t begins = 0, busy = 0, pair_tokens = 0, pair_weights = 0;
  int64_t activated = 0, shared = 0, gates = 0, x = 0, gate_up = 0, tree = 0;
  int64_t bytes = 0;
};

// One pass: tokens [token_begin, token_begin + tokens) of the step.
template <typename T>
class Pass {
 public:
  Pass(const ExecContext& context, const KernelTable& kernels, const ExpertShare& share,
       const ExpertSizes& sizes, const Layout& layout, int64_t tokens)
      : context_(context),
        kernels_(kernels),
        share_(share),
        sizes_(sizes),
        tokens_(tokens),
        first_expert_(SliceBegin(share.num_experts, share.first_slice)),
        begins_(At<int32_t>(layout.begins)),
        busy_(At<int32_t>(layout.busy)),
        pair_tokens_(At<int32_t>(layout.pair_tokens)),
        pair_weights_(At<float>(layout.pair_weights)),
        activated_(At<float>(layout.activated)),
        shared_(At<float>(layout.shared)),
        gates_(At<float>(layout.gates)),
        x_(At<float>(layout.x)),
        gate_up_(At<T>(layout.gate_up)),
        tree_(At<float>(layout.tree)) {}

  // Puts the pairs of this rank's experts in order; returns how many there are.
  int64_t Group(const Routing& routing) {
    const int64_t own = static_cast<int64_t>(share_.experts.size());
    const int64_t per_token = routing.ids.dims[1];
    std::fill_n(begins_, own + 1, 0);
    ForPairs(routing, per_token, [&](int64_t expert, int64_t, float) { ++begins_[expert + 1]; });
    for (int64_t e = 0; e < own; ++e) {
      TESSERA_CHECK(begins_[e + 1] <= tokens_)
          << "a token has expert " << first_expert_ + e << " twice";
      begins_[e + 1] += begins_[e];
    }
    // begins_[e] runs to the expert's end, then all move back by one.
    ForPairs(routing, per_token, [&](int64_t expert, int64_t token, float weight) {
      const int32_t pair = begins_[expert]++;
      pair_tokens_[pair] = static_cast<int32_t>(token);
      pair_weights_[pair] = weight;
    });
    for (int64_t e = own; e > 0; --e) begins_[e] = begins_[e - 1];
    begins_[0] = 0;
    num_busy_ = 0;
    for (int64_t e = 0; e < own; ++e) {
      if (Rows(e) > 0) busy_[num_busy_++] = static_cast<int32_t>(e);
    }
    return begins_[own];
  }

  // activated_ = act(gate x) * up x of every pair, in tiles.
  void Activate(const TensorView& x) {
    for (int64_t begin = 0; begin < num_busy_;) {
      int64_t end = begin;
      int64_t rows = 0;
      // An expert has at most one row for each token, so one always fits.
      while (end < num_busy_ && rows + Rows(busy_[end]) <= tokens_) rows += Rows(busy_[end++]);
      ActivateBatch(x, begin, end, rows);
      begin = end;
    }
  }

  // The shared expert's input in tiles, and sigmoids of its gates.
  void TakeShared(const SharedExpert& shared) {
    shared_weight_ = static_cast<const PackedWeight*>(shared.down);
    if (shared_weight_ == nullptr) return;
    const RowTiles tiles = RowTiles::Of(tokens_, kernels_);
    ParallelFor(context_.threads, tiles.tiles, 1 + kGrain / (sizes_.shared * kernels_.rows_max),
                [&](int64_t begin, int64_t end) {
                  for (int64_t tile = begin; tile < end; ++tile) {
                    PackTile(tiles, sizes_.shared, shared_, tile,
                             [&](int64_t r) { return Row<const T>(shared.activated, r); });
                  }
                });
    gated_ = !shared.gate.empty();
    if (!gated_) return;
    for (int64_t t = 0; t < tokens_; ++t) gates_[t] = *Row<const float>(shared.gate, t);
    kernels_.sigmoid(gates_, gates_, tokens_);
  }

  // out [tokens, C] = the tree over the leaves of this rank's slices.
  void Sum(const TensorView& out) {
    const int64_t panels = (sizes_.hidden + kPanelColumns - 1) / kPanelColumns;
    const int64_t work = begins_[share_.experts.size()] * sizes_.intermediate +
                         (shared_weight_ == nullptr ? 0 : tokens_ * sizes_.shared);
    const int64_t grain = 1 + kGrain / (1 + work * kPanelColumns);
    ParallelFor(context_.threads, panels, grain, [&](int64_t begin, int64_t end) {
      // Few columns at once, so that their sums stay in the cache.
      for (int64_t panel = begin; panel < end; panel += kPanelsMax) {
        const int64_t last = std::min(end, panel + kPanelsMax);
        SumSlices(0, share_.num_slices, panel, last, out.as<float>(), out.stride, 0);
      }
    });
  }

 private:
  template <typename U>
  U* At(int64_t offset) const {
    return reinterpret_cast<U*>(context_.workspace.as<char>() + offset);
  }
  int64_t Rows(int64_t expert) const { return begins_[expert + 1] - begins_[expert]; }
  RowTiles Tiles(int64_t expert) const { return RowTiles::Of(Rows(expert), kernels_); }
  const PackedWeight& GateUp(int64_t expert) const {
    return static_cast<const PackedWeight&>(*share_.experts[expert].gate_up);
  }
  const PackedWeight& Down(int64_t expert) const {
    return static_cast<const PackedWeight&>(*share_.experts[expert].down);
  }

  // body(expert of this rank, token, weight) for every pair, in order of token.
  template <typename Body>
  void ForPairs(const Routing& routing, int64_t per_token, Body body) const {
    const int64_t own = static_cast<int64_t>(share_.experts.size());
    for (int64_t token = 0; token < tokens_; ++token) {
      const int32_t* ids = Row<const int32_t>(routing.ids, token);
      const float* weights = Row<const float>(routing.weights, token);
      for (int64_t j = 0; j < per_token; ++j) {
        TESSERA_CHECK(ids[j] >= 0 && ids[j] < share_.num_experts)
            << "token " << token << ": expert " << ids[j] << " of " << share_.num_experts;
        const int64_t expert = ids[j] - first_expert_;
        if (expert >= 0 && expert < own) body(expert, token, weights[j]);
      }
    }
  }

  // body(expert, tile, row of the batch that the expert begins with) for tiles [begin, end) of busy
  // experts [first, last), counted through.
  template <typename Body>
  void ForTiles(int64_t first, int64_t last, int64_t begin, int64_t end, Body body) const {
    int64_t row = 0;
    for (int64_t i = first, tile = 0; i < last && tile < end; ++i) {
      const int64_t tiles = Tiles(busy_[i]).tiles;
      for (int64_t t = std::max<int64_t>(0, begin - tile); t < std::min(tiles, end - tile); ++t) {
        body(busy_[i], t, row);
      }
      tile += tiles;
      row += Rows(busy_[i]);
    }
  }

  // Busy experts [first, last), of `rows` rows together.
  void ActivateBatch(const TensorView& x, int64_t first, int64_t last, int64_t rows) {
    const int64_t hidden = sizes_.hidden;
    const int64_t inner = sizes_.intermediate;
    int64_t tiles = 0;
    for (int64_t i = first; i < last; ++i) tiles += Tiles(busy_[i]).tiles;
    ParallelFor(context_.threads, tiles, 1 + kGrain / (hidden * kernels_.rows_max),
                [&](int64_t begin, int64_t end) {
                  ForTiles(first, last, begin, end, [&](int64_t e, int64_t tile, int64_t row) {
                    PackTile(Tiles(e), hidden, x_ + row * hidden, tile, [&](int64_t r) {
                      return Row<const T>(x, pair_tokens_[begins_[e] + r]);
                    });
                  });
                });
    const int64_t panels = (2 * inner + kPanelColumns - 1) / kPanelColumns;
    const int64_t mean_rows = std::max<int64_t>(1, rows / (last - first));
    ParallelFor(context_.threads, (last - first) * panels,
                1 + kGrain / (mean_rows * hidden * kPanelColumns), [&](int64_t begin, int64_t end) {
                  MultiplyGateUp(first, last, panels, begin, end);
                });
    ParallelFor(context_.threads, tiles, 1 + kGrain / (8 * inner * kernels_.rows_max),
                [&](int64_t begin, int64_t end) {
                  ForTiles(first, last, begin, end, [&](int64_t e, int64_t tile, int64_t row) {
                    const RowTiles own = Tiles(e);
                    for (int64_t r = own.Begin(tile); r < own.Begin(tile + 1); ++r) {
                      T* gate = gate_up_ + (row + r) * 2 * inner;
                      kernels_.rows<T>().gated(gate, gate, gate + inner, inner, share_.activation);
                    }
                    PackTile(own, inner, activated_ + begins_[e] * inner, tile,
                             [&](int64_t r) { return gate_up_ + (row + r) * 2 * inner; });
                  });
                });
  }

  // Panels [begin, end) of busy experts [first, last), counted through.
  void MultiplyGateUp(int64_t first, int64_t last, int64_t panels, int64_t begin, int64_t end) {
    const int64_t width = 2 * sizes_.intermediate;
    int64_t row = 0;
    for (int64_t i = first; i < last; ++i, begin -= panels, end -= panels) {
      const int64_t expert = busy_[i];
      const int64_t from = std::max<int64_t>(0, begin);
      const int64_t to = std::min(panels, end);
      if (from < to) {
        MultiplyPanels(kernels_, GateUp(expert), Tiles(expert), x_ + row * sizes_.hidden, from, to,
                       [&](int64_t r, int64_t column, int64_t n, const float* values) {
                         kernels_.rows<T>().add_bias(gate_up_ + (row + r) * width + column, values,
                                                     nullptr, n);
                       });
      }
      row += Rows(expert);
    }
  }

  // Columns of panels [begin, end) of `to` [tokens, stride] = the tree over slices
  // [slice, slice + count), counted from this rank's first.
  void SumSlices(int slice, int count, int64_t begin, int64_t end, float* to, int64_t stride,
                 int depth) {
    const int64_t column = begin * kPanelColumns;
    const int64_t n = std::min(end * kPanelColumns, sizes_.hidden) - column;
    if (count == 1) {
      for (int64_t t = 0; t < tokens_; ++t) std::fill_n(to + t * stride + column, n, 0.0f);
      AddExperts(slice, begin, end, to, stride);
      AddShared(slice, begin, end, to, stride);
      return;
    }
    float* right = tree_ + depth * Layout::Rounded(tokens_ * sizes_.hidden * 4) / 4;
    SumSlices(slice, count / 2, begin, end, to, stride, depth + 1);
    SumSlices(slice + count / 2, count / 2, begin, end, right, sizes_.hidden, depth + 1);
    for (int64_t t = 0; t < tokens_; ++t) {
      float* left = to + t * stride + column;
      const float* addend = right + t * sizes_.hidden + column;
      for (int64_t i = 0; i < n; ++i) left[i] += addend[i];
    }
  }

  void AddExperts(int slice, int64_t begin, int64_t end, float* to, int64_t stride) {
    const int whole = share_.first_slice + slice;
    const int64_t first = SliceBegin(share_.num_experts, whole) - first_expert_;
    const int64_t last = SliceBegin(share_.num_experts, whole + 1) - first_expert_;
    for (int64_t e = first; e < last; ++e) {
      if (Rows(e) == 0) continue;
      MultiplyPanels(kernels_, Down(e), Tiles(e), activated_ + begins_[e] * sizes_.intermediate,
                     begin, end, [&](int64_t r, int64_t column, int64_t n, const float* values) {
                       const int64_t pair = begins_[e] + r;
                       kernels_.add_scaled(to + pair_tokens_[pair] * stride + column, values, n,
                                           pair_weights_[pair]);
                     });
    }
  }

  void AddShared(int slice, int64_t begin, int64_t end, float* to, int64_t stride) {
    if (shared_weight_ == nullptr) return;
    const TileRunner::Slices own(&shared_weight_->slices()[slice], 1);
    MultiplySlices(kernels_, *shared_weight_, own, RowTiles::Of(tokens_, kernels_), shared_, begin,
                   end, [&](int64_t r, int64_t column, int64_t n, const float* values) {
                     kernels_.add_scaled(to + r * stride + column, values, n,
                                         gated_ ? gates_[r] : 1.0f);
                   });
  }

  const ExecContext& context_;
  const KernelTable& kernels_;
  const ExpertShare& share_;
  const ExpertSizes& sizes_;
  const int64_t tokens_;
  const int64_t first_expert_;
  int32_t* const begins_;       // [own experts + 1] first pair of each
  int32_t* const busy_;         // [own experts] those that have pairs
  int32_t* const pair_tokens_;  // [pairs] of the pass
  float* const pair_weights_;   // [pairs]
  float* const activated_;      // [pairs, Ie] in tiles of their expert
  float* const shared_;         // [tokens, Is] in tiles
  float* const gates_;          // [tokens]
  float* const x_;              // [rows of a batch, C] in tiles
  T* const gate_up_;            // [rows of a batch, 2 * Ie]
  float* const tree_;           // [kTreeDepth][tokens, C]
  int64_t num_busy_ = 0;
  const PackedWeight* shared_weight_ = nullptr;
  bool gated_ = false;
};

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
  TESSERA_CHECK(share.first_slice >= 0 && last_slice <= kReduceSlices && share.num_slices >= 1 &&
                static_cast<int64_t>(share.experts.size()) ==
                    SliceBegin(share.num_experts, last_slice) -
                        SliceBegin(share.num_experts, share.first_slice))
      << share.experts.size() << " experts of " << share.num_experts << " in slices from "
      << share.first_slice;
  for (const Expert& expert : share.experts) {
    TESSERA_CHECK(expert.gate_up->rows() == 2 * inner && expert.gate_up->columns() == hidden &&
                  expert.down->rows() == hidden && expert.down->columns() == inner)
        << "expert [" << expert.gate_up->rows() << ", " << expert.gate_up->columns() << "]";
  }
  if (shared.down == nullptr) return;
  const PackedWeight& down = static_cast<const PackedWeight&>(*shared.down);
  TESSERA_CHECK(down.rows() == hidden && down.row_parallel() &&
                static_cast<int>(down.slices().size()) == share.num_slices &&
                shared.activated.dims[0] == tokens && shared.activated.dims[1] == down.columns() &&
                shared.activated.dtype == x.dtype &&
                (shared.gate.empty() ||
                 (shared.gate.dims[0] == tokens && shared.gate.dtype == DType::kFloat32)))
      << "shared expert [" << down.rows() << ", " << down.columns() << "]";
}

}  // namespace

size_t CpuOps::ExpertsWorkspaceBytes(int64_t tokens_max, const ExpertSizes& sizes) {
  const int64_t tokens = std::clamp<int64_t>(tokens_max, 1, kPassTokensMax);
  return static_cast<size_t>(Layout(tokens, sizes, sizes.num_experts).bytes);
}

void CpuOps::ExpertsPartial(const ExecContext& context, TensorView out, TensorView x,
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
  for (int64_t begin = 0; begin < x.dims[0]; begin += kPassTokensMax) {
    const int64_t tokens = std::min(kPassTokensMax, x.dims[0] - begin);
    const Layout layout(tokens, sizes, static_cast<int64_t>(share.experts.size()));
    TESSERA_CHECK(layout.bytes <= context.workspace.dims[0])
        << "workspace of " << context.workspace.dims[0] << " bytes, " << layout.bytes << " needed";
    const auto rows = [&](const TensorView& view) {
      return view.empty() ? view : view.Rows(begin, tokens);
    };
    WithType(x.dtype, [&](auto t) {
      Pass<decltype(t)> pass(context, kernels_, share, sizes, layout, tokens);
      *load.as<int64_t>() +=
          pass.Group({.ids = rows(routing.ids), .weights = rows(routing.weights)});
      pass.Activate(rows(x));
      pass.TakeShared(
          {.activated = rows(shared.activated), .down = shared.down, .gate = rows(shared.gate)});
      pass.Sum(rows(out));
    });
  }
}

}  // namespace tessera::cpu
