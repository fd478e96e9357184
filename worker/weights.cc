// Allocates this rank's matrices, then streams every tensor's shard into its place, piece by piece.
// Called by the link on the rank's thread.

#include "worker/weights.h"

#include <algorithm>
#include <cstring>

#include "base/status.h"
#include "models/weight_spec.h"

namespace tessera {
namespace {

// Pieces are whole multiples of this many rows where a tensor has them, so that packing works on
// full panels.
constexpr int64_t kRowsGranularity = 16;

float ReadFloat(const uint8_t* from, DType dtype) {
  if (dtype == DType::kFloat32) {
    float value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return dtype == DType::kBFloat16 ? ToFloat(BFloat16{bits}) : Float16ToFloat(bits);
}

// `count` elements of `from` (any alignment) as elements of `to_dtype`.
void Convert(uint8_t* to, DType to_dtype, const uint8_t* from, DType from_dtype, int64_t count) {
  if (to_dtype == from_dtype) {
    std::memcpy(to, from, count * DTypeSize(to_dtype));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const float value = ReadFloat(from + i * DTypeSize(from_dtype), from_dtype);
    if (to_dtype == DType::kFloat32) {
      std::memcpy(to + i * 4, &value, 4);
    } else {
      const BFloat16 rounded = ToBFloat16(value);
      std::memcpy(to + i * 2, &rounded, 2);
    }
  }
}

// Elements from one row of the stored tensor to the next.
int64_t StoredColumns(const WeightSpec& weight) {
  return weight.shape.size() > 1 ? weight.shape[1] : 1;
}

class Loader {
 public:
  Loader(Ops& ops, const ExecContext& ctx, const ModelSpec& spec, const Checkpoint& checkpoint,
         const WeightsOptions& options, const LoadProgressFn& progress)
      : ops_(ops),
        ctx_(ctx),
        spec_(spec),
        checkpoint_(checkpoint),
        options_(options),
        progress_(progress),
        heads_(HeadsOf(spec, options.rank, options.tp)),
        query_rows_(heads_.num_heads * spec.head_size),
        kv_rows_(heads_.num_kv_heads * spec.head_size),
        intermediate_(spec.intermediate_size / options.tp),
        bytes_total_(ShardBytes(spec, checkpoint, options.rank, options.tp)) {}

  absl::StatusOr<std::unique_ptr<Weights>> Load() {
    weights_ = std::make_unique<Weights>();
    weights_->dtype = options_.dtype;
    TESSERA_RETURN_IF_ERROR(AllocateVocabulary());
    weights_->layers.resize(spec_.num_layers);
    for (LayerWeights& layer : weights_->layers) TESSERA_RETURN_IF_ERROR(AllocateLayer(layer));
    for (const WeightSpec& weight : WeightTable(spec_)) TESSERA_RETURN_IF_ERROR(LoadTensor(weight));
    TESSERA_RETURN_IF_ERROR(ops_.Synchronize(ctx_));
    TESSERA_CHECK(rows_filled_ == rows_made_)
        << rows_filled_ << " weight rows filled of " << rows_made_;
    TESSERA_CHECK(weights_->bytes_read == bytes_total_) << weights_->bytes_read;
    return std::move(weights_);
  }

 private:
  // Where the shard of a tensor goes: rows of a packed weight, or rows of a plain view.
  struct Place {
    explicit Place(const std::unique_ptr<Weight>& weight, int64_t row = 0)
        : packed(weight.get()), row_begin(row) {}
    explicit Place(TensorView view, int64_t row = 0) : plain(view), row_begin(row) {}
    Weight* packed = nullptr;
    TensorView plain;
    int64_t row_begin = 0;
  };

  absl::StatusOr<TensorView> NewPlain(std::initializer_list<int64_t> dims) {
    int64_t size = 1;
    for (int64_t d : dims) size *= d;
    // An empty shard still gets memory, so that its view is not taken for an absent one.
    const size_t bytes = std::max<int64_t>(size, 1) * DTypeSize(options_.dtype);
    TESSERA_ASSIGN_OR_RETURN(Buffer buffer, ops_.Allocate(bytes));
    weights_->resident_bytes += buffer.bytes();
    weights_->buffers.push_back(std::move(buffer));
    rows_made_ += *dims.begin();
    return weights_->buffers.back().View(options_.dtype, dims);
  }

  absl::StatusOr<std::unique_ptr<Weight>> NewPacked(int64_t rows, int64_t columns) {
    return NewPacked({.rows = rows, .columns = columns, .dtype = options_.dtype});
  }
  absl::StatusOr<std::unique_ptr<Weight>> NewPacked(const WeightShape& shape) {
    TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<Weight> weight, ops_.NewWeight(shape));
    weights_->resident_bytes += weight->bytes();
    rows_made_ += shape.rows;
    return weight;
  }
  // The whole matrix has `columns` * tp columns, of which this rank has its share in rank order.
  absl::StatusOr<std::unique_ptr<Weight>> NewRowParallel(int64_t rows, int64_t columns) {
    return NewPacked({.rows = rows,
                      .columns = columns,
                      .dtype = options_.dtype,
                      .column_begin = columns * options_.rank,
                      .column_total = columns * options_.tp});
  }

  absl::Status AllocateVocabulary() {
    Weights& w = *weights_;
    for (const WeightSpec& weight : WeightTable(spec_)) {
      if (weight.slot != WeightSlot::kEmbedding) continue;
      const Shard shard = ShardOf(weight, spec_, options_.rank, options_.tp);
      w.vocab_begin = shard.row_begin;
      w.vocab_count = shard.row_count;
    }
    TESSERA_ASSIGN_OR_RETURN(w.embedding, NewPlain({w.vocab_count, spec_.hidden_size}));
    TESSERA_ASSIGN_OR_RETURN(w.final_norm, NewPlain({spec_.hidden_size}));
    if (w.vocab_count == 0) return absl::OkStatus();
    TESSERA_ASSIGN_OR_RETURN(w.head, NewPacked(w.vocab_count, spec_.hidden_size));
    return absl::OkStatus();
  }

  absl::Status AllocateLayer(LayerWeights& layer) {
    const int64_t hidden = spec_.hidden_size;
    const int64_t qkv_rows = query_rows_ + 2 * kv_rows_;
    TESSERA_ASSIGN_OR_RETURN(layer.input_norm, NewPlain({hidden}));
    TESSERA_ASSIGN_OR_RETURN(layer.qkv, NewPacked(qkv_rows, hidden));
    if (spec_.qkv_bias) {
      TESSERA_ASSIGN_OR_RETURN(layer.qkv_bias, NewPlain({qkv_rows}));
    }
    if (spec_.qk_norm) {
      TESSERA_ASSIGN_OR_RETURN(layer.query_norm, NewPlain({spec_.head_size}));
      TESSERA_ASSIGN_OR_RETURN(layer.key_norm, NewPlain({spec_.head_size}));
    }
    TESSERA_ASSIGN_OR_RETURN(layer.output, NewRowParallel(hidden, query_rows_));
    if (spec_.output_bias) {
      TESSERA_ASSIGN_OR_RETURN(layer.output_bias, NewPlain({hidden}));
    }
    if (spec_.attention_out_norm) {
      TESSERA_ASSIGN_OR_RETURN(layer.attention_out_norm, NewPlain({hidden}));
    }
    TESSERA_ASSIGN_OR_RETURN(layer.post_norm, NewPlain({hidden}));
    return AllocateMlp(layer);
  }

  absl::Status AllocateMlp(LayerWeights& layer) {
    const int64_t hidden = spec_.hidden_size;
    TESSERA_ASSIGN_OR_RETURN(layer.gate_up, NewPacked(2 * intermediate_, hidden));
    TESSERA_ASSIGN_OR_RETURN(layer.down, NewRowParallel(hidden, intermediate_));
    if (spec_.mlp_bias) {
      TESSERA_ASSIGN_OR_RETURN(layer.gate_up_bias, NewPlain({2 * intermediate_}));
      TESSERA_ASSIGN_OR_RETURN(layer.down_bias, NewPlain({hidden}));
    }
    if (spec_.mlp_out_norm) {
      TESSERA_ASSIGN_OR_RETURN(layer.mlp_out_norm, NewPlain({hidden}));
    }
    return absl::OkStatus();
  }

  std::vector<Place> PlacesOf(const WeightSpec& weight) {
    Weights& w = *weights_;
    if (weight.layer >= 0) return {PlaceInLayer(weight.slot, w.layers[weight.layer])};
    switch (weight.slot) {
      case WeightSlot::kEmbedding:
        if (!spec_.tied_head || w.head == nullptr) return {Place(w.embedding)};
        return {Place(w.embedding), Place(w.head)};
      case WeightSlot::kFinalNorm:
        return {Place(w.final_norm)};
      case WeightSlot::kHead:
        return {Place(w.head)};
      default:
        TESSERA_CHECK(false) << weight.name << " belongs to a layer but names none";
        return {};
    }
  }

  Place PlaceInLayer(WeightSlot slot, const LayerWeights& layer) {
    switch (slot) {
      case WeightSlot::kInputNorm:
        return Place(layer.input_norm);
      case WeightSlot::kQuery:
        return Place(layer.qkv);
      case WeightSlot::kKey:
        return Place(layer.qkv, query_rows_);
      case WeightSlot::kValue:
        return Place(layer.qkv, query_rows_ + kv_rows_);
      case WeightSlot::kQueryNorm:
        return Place(layer.query_norm);
      case WeightSlot::kKeyNorm:
        return Place(layer.key_norm);
      case WeightSlot::kOutput:
        return Place(layer.output);
      case WeightSlot::kAttentionOutNorm:
        return Place(layer.attention_out_norm);
      case WeightSlot::kPostNorm:
        return Place(layer.post_norm);
      case WeightSlot::kGate:
        return Place(layer.gate_up);
      case WeightSlot::kUp:
        return Place(layer.gate_up, intermediate_);
      case WeightSlot::kDown:
        return Place(layer.down);
      case WeightSlot::kMlpOutNorm:
        return Place(layer.mlp_out_norm);
      case WeightSlot::kQueryBias:
        return Place(layer.qkv_bias);
      case WeightSlot::kKeyBias:
        return Place(layer.qkv_bias, query_rows_);
      case WeightSlot::kValueBias:
        return Place(layer.qkv_bias, query_rows_ + kv_rows_);
      case WeightSlot::kOutputBias:
        return Place(layer.output_bias);
      case WeightSlot::kGateBias:
        return Place(layer.gate_up_bias);
      case WeightSlot::kUpBias:
        return Place(layer.gate_up_bias, intermediate_);
      case WeightSlot::kDownBias:
        return Place(layer.down_bias);
      case WeightSlot::kEmbedding:
      case WeightSlot::kFinalNorm:
      case WeightSlot::kHead:
        break;
    }
    TESSERA_CHECK(false) << "slot " << static_cast<int>(slot) << " is not of a layer";
    return Place(TensorView());
  }

  absl::Status LoadTensor(const WeightSpec& weight) {
    const Checkpoint::Located& located = checkpoint_.tensors().at(weight.name);
    const Shard shard = ShardOf(weight, spec_, options_.rank, options_.tp);
    const std::vector<Place> places = PlacesOf(weight);
    const int64_t element = static_cast<int64_t>(DTypeSize(located.entry.dtype));
    const int64_t row_bytes = shard.column_count * element;
    int64_t step = std::max<int64_t>(1, kLoadChunkBytes / std::max<int64_t>(row_bytes, 1));
    step = (step + kRowsGranularity - 1) / kRowsGranularity * kRowsGranularity;
    for (int64_t row = 0; row < shard.row_count; row += step) {
      const int64_t rows = std::min(step, shard.row_count - row);
      const uint64_t stored_row_bytes = StoredColumns(weight) * element;
      const int64_t stored_row = weight.stored_begin + shard.row_begin + row;
      const uint64_t begin = located.entry.begin + stored_row * stored_row_bytes;
      const uint8_t* data = located.file->data() + begin + shard.column_begin * element;
      const TensorView piece =
          Aligned(data, located.entry.dtype, rows, shard.column_count, StoredColumns(weight));
      for (const Place& place : places) Store(place, row, piece);
      located.file->Release(begin, begin + rows * stored_row_bytes);
      weights_->bytes_read += rows * row_bytes;
      TESSERA_RETURN_IF_ERROR(progress_(weights_->bytes_read, bytes_total_));
    }
    return absl::OkStatus();
  }

  // The piece as it lies in the file, or a copy where the file has it at an odd address.
  TensorView Aligned(const uint8_t* data, DType dtype, int64_t rows, int64_t columns,
                     int64_t stride) {
    const size_t element = DTypeSize(dtype);
    uint8_t* start = const_cast<uint8_t*>(data);
    if (reinterpret_cast<uintptr_t>(data) % element != 0) {
      staging_.resize(rows * columns * element);
      for (int64_t row = 0; row < rows; ++row) {
        std::memcpy(staging_.data() + row * columns * element, data + row * stride * element,
                    columns * element);
      }
      start = staging_.data();
      stride = columns;
    }
    TensorView view(start, dtype, {rows, columns});
    view.stride = stride;
    return view;
  }

  // Puts rows [row, row + piece rows) of the shard to its place.
  void Store(const Place& place, int64_t row, TensorView piece) {
    const int64_t rows = piece.dims[0];
    const int64_t columns = piece.dims[1];
    rows_filled_ += rows;
    if (place.packed != nullptr) {
      ops_.PackRows(*place.packed, place.row_begin + row, piece);
      return;
    }
    const size_t element = DTypeSize(options_.dtype);
    const size_t stored_element = DTypeSize(piece.dtype);
    converted_.resize(rows * columns * element);
    for (int64_t r = 0; r < rows; ++r) {
      Convert(converted_.data() + r * columns * element, options_.dtype,
              piece.as<const uint8_t>() + r * piece.stride * stored_element, piece.dtype, columns);
    }
    const TensorView target = place.plain.Rows(place.row_begin + row, rows);
    TESSERA_CHECK(target.bytes() == converted_.size()) << target.bytes();
    ops_.CopyToDevice(ctx_, target.data, converted_.data(), converted_.size());
  }

  Ops& ops_;
  const ExecContext& ctx_;
  const ModelSpec& spec_;
  const Checkpoint& checkpoint_;
  const WeightsOptions& options_;
  const LoadProgressFn& progress_;
  const HeadShard heads_;
  const int64_t query_rows_;    // H * D of this rank
  const int64_t kv_rows_;       // K * D of this rank
  const int64_t intermediate_;  // I of this rank
  const uint64_t bytes_total_;

  std::unique_ptr<Weights> weights_;
  std::vector<uint8_t> staging_;
  std::vector<uint8_t> converted_;
  int64_t rows_made_ = 0;  // of all places, each to be filled exactly once
  int64_t rows_filled_ = 0;
};

}  // namespace

uint64_t ShardBytes(const ModelSpec& spec, const Checkpoint& checkpoint, int rank, int tp) {
  uint64_t bytes = 0;
  for (const WeightSpec& weight : WeightTable(spec)) {
    const Shard shard = ShardOf(weight, spec, rank, tp);
    const DType dtype = checkpoint.tensors().at(weight.name).entry.dtype;
    bytes += shard.row_count * shard.column_count * DTypeSize(dtype);
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<Weights>> LoadWeights(
    Ops& ops, const ExecContext& ctx, const ModelSpec& spec, const Checkpoint& checkpoint,
    const WeightsOptions& options, const Clock& clock, const LoadProgressFn& progress) {
  const absl::Time start = clock.Now();
  TESSERA_RETURN_IF_ERROR(CheckTensorParallel(spec, options.tp));
  TESSERA_RETURN_IF_ERROR(CheckTensors(spec, checkpoint));
  Loader loader(ops, ctx, spec, checkpoint, options, progress);
  TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<Weights> weights, loader.Load());
  weights->seconds = absl::ToDoubleSeconds(clock.Now() - start);
  return weights;
}

}  // namespace tessera
