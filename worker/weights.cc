// Streams every tensor's shard into its place, piece by piece. Called by the link on the rank's
// thread.

#include "worker/weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/status.h"
#include "models/weight_spec.h"
#include "worker/weight_places.h"

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

// What each float8 byte stands for.
std::array<float, 256> Float8Values() {
  std::array<float, 256> values;
  for (size_t byte = 0; byte < values.size(); ++byte) {
    values[byte] = Float8E4M3ToFloat(static_cast<uint8_t>(byte));
  }
  return values;
}

// FNV-1a, so that the seed of a tensor is that of its name.
uint64_t SeedOf(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

bool IsNorm(WeightSlot slot) {
  switch (slot) {
    case WeightSlot::kFinalNorm:
    case WeightSlot::kInputNorm:
    case WeightSlot::kQueryNorm:
    case WeightSlot::kKeyNorm:
    case WeightSlot::kAttentionOutNorm:
    case WeightSlot::kPostNorm:
    case WeightSlot::kMlpOutNorm:
    case WeightSlot::kQueryDownNorm:
    case WeightSlot::kLatentNorm:
      return true;
    default:
      return false;
  }
}

// Sizes that keep activations near 1, so that attention is uneven and logits are numbers.
NoiseSpec NoiseOf(const WeightSpec& weight, const ModelSpec& spec) {
  NoiseSpec noise;
  noise.seed = SeedOf(weight.name);
  if (IsNorm(weight.slot)) {
    noise.center = spec.norm_plus_one ? 0.0f : 1.0f;
    noise.spread = 0.1f;
  } else if (weight.shape.size() < 2) {
    noise.spread = 0.02f;
  } else {
    noise.spread = std::sqrt(3.0f / static_cast<float>(StoredColumns(weight)));
  }
  return noise;
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
        bytes_total_(ShardBytes(spec, checkpoint, options.rank, options.tp)),
        weights_(std::make_unique<Weights>()),
        places_(ops, spec, options, *weights_) {}

  absl::StatusOr<std::unique_ptr<Weights>> Load() {
    TESSERA_RETURN_IF_ERROR(places_.Allocate());
    for (const WeightSpec& weight : WeightTable(spec_)) TESSERA_RETURN_IF_ERROR(LoadTensor(weight));
    TESSERA_RETURN_IF_ERROR(ops_.Synchronize(ctx_));
    TESSERA_CHECK(rows_filled_ == places_.rows_made())
        << rows_filled_ << " weight rows filled of " << places_.rows_made();
    TESSERA_CHECK(bytes_done_ == bytes_total_) << bytes_done_;
    weights_->bytes_read = checkpoint_.has_no_weights() ? 0 : bytes_done_;
    return std::move(weights_);
  }

 private:
  absl::Status LoadTensor(const WeightSpec& weight) {
    const Shard shard = ShardOf(weight, spec_, options_.rank, options_.tp);
    if (shard.row_count == 0) return absl::OkStatus();
    if (checkpoint_.has_no_weights()) return MakeTensor(weight, shard);
    const Checkpoint::Located& located = checkpoint_.tensors().at(weight.name);
    const std::vector<WeightPlace> places = places_.Of(weight);
    const int64_t element = static_cast<int64_t>(DTypeSize(located.entry.dtype));
    const int64_t row_bytes = shard.column_count * element;
    int64_t step = std::max<int64_t>(1, kLoadChunkBytes / std::max<int64_t>(row_bytes, 1));
    step = (step + kRowsGranularity - 1) / kRowsGranularity * kRowsGranularity;
    if (weight.run_rows > 0) step = weight.run_rows;
    for (int64_t row = 0; row < shard.row_count; row += step) {
      const int64_t rows = std::min(step, shard.row_count - row);
      const uint64_t stored_row_bytes = StoredColumns(weight) * element;
      const int64_t stored_row = weight.StoredRow(shard.row_begin + row);
      const uint64_t begin = located.entry.begin + stored_row * stored_row_bytes;
      const uint8_t* data = located.file->data() + begin + shard.column_begin * element;
      TensorView piece;
      if (located.entry.dtype == DType::kFloat8E4M3) {
        piece = Scaled(weight, data, stored_row, rows, shard);
      } else {
        piece = Aligned(data, located.entry.dtype, rows, shard.column_count, StoredColumns(weight));
      }
      for (const WeightPlace& place : places) Store(place, row, piece);
      located.file->Release(begin, begin + rows * stored_row_bytes);
      bytes_done_ += rows * row_bytes;
      TESSERA_RETURN_IF_ERROR(progress_(bytes_done_, bytes_total_));
    }
    return absl::OkStatus();
  }

  // Makes the tensor's shard up. A number depends on its tensor's name and its place in the whole
  // tensor, so every tp has parts of the same model.
  absl::Status MakeTensor(const WeightSpec& weight, const Shard& shard) {
    const int64_t stored_columns = StoredColumns(weight);
    NoiseSpec noise = NoiseOf(weight, spec_);
    int64_t step = std::max<int64_t>(1, kLoadChunkBytes / std::max<int64_t>(shard.column_count, 1));
    step = (step + kRowsGranularity - 1) / kRowsGranularity * kRowsGranularity;
    if (weight.run_rows > 0) step = weight.run_rows;
    const DType dtype = checkpoint_.tensors().at(weight.name).entry.dtype;
    for (int64_t row = 0; row < shard.row_count; row += step) {
      const int64_t rows = std::min(step, shard.row_count - row);
      noise.first = weight.StoredRow(shard.row_begin + row) * stored_columns + shard.column_begin;
      for (const WeightPlace& place : places_.Of(weight)) {
        noise.row_step = place.transposed ? 1 : stored_columns;
        noise.column_step = place.transposed ? stored_columns : 1;
        const int64_t made = place.transposed ? shard.column_count : rows;
        const int64_t to = place.row_begin + (place.transposed ? row / rows * made : row);
        rows_filled_ += made;
        if (place.packed != nullptr) {
          ops_.FillRows(*place.packed, to, made, noise);
        } else {
          ops_.Fill(ctx_, place.plain.Rows(to, made), noise);
        }
      }
      bytes_done_ += rows * shard.column_count * DTypeSize(dtype);
      TESSERA_RETURN_IF_ERROR(progress_(bytes_done_, bytes_total_));
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

  // Float8 rows [stored_row, + rows) times their blocks' scales, in the model's dtype.
  TensorView Scaled(const WeightSpec& weight, const uint8_t* data, int64_t stored_row, int64_t rows,
                    const Shard& shard) {
    const Checkpoint::Located& located = checkpoint_.tensors().at(weight.ScaleName());
    const uint8_t* scales = located.file->data() + located.entry.begin;
    const int64_t scales_across = located.entry.shape[1];
    scaled_.resize(rows * shard.column_count);
    for (int64_t row = 0; row < rows; ++row) {
      const uint8_t* from = data + row * StoredColumns(weight);
      float* to = scaled_.data() + row * shard.column_count;
      const int64_t block_row = (stored_row + row) / spec_.float8.rows;
      for (int64_t column = 0; column < shard.column_count; ++column) {
        const int64_t block =
            block_row * scales_across + (shard.column_begin + column) / spec_.float8.columns;
        to[column] = float8_[from[column]] * ReadFloat(scales + block * 4, DType::kFloat32);
      }
    }
    return TensorView(scaled_.data(), DType::kFloat32, {rows, shard.column_count});
  }

  // Puts rows [row, row + piece rows) of the shard to its place.
  void Store(const WeightPlace& place, int64_t row, TensorView piece) {
    if (place.transposed) {
      // A run of n rows and K columns is K rows, behind those of the runs before.
      row = row / piece.dims[0] * piece.dims[1];
      piece = Transposed(piece);
    }
    const int64_t rows = piece.dims[0];
    const int64_t columns = piece.dims[1];
    rows_filled_ += rows;
    if (place.packed != nullptr) {
      ops_.PackRows(*place.packed, place.row_begin + row, piece);
      return;
    }
    const size_t element = DTypeSize(place.plain.dtype);
    const size_t stored_element = DTypeSize(piece.dtype);
    converted_.resize(rows * columns * element);
    for (int64_t r = 0; r < rows; ++r) {
      Convert(converted_.data() + r * columns * element, place.plain.dtype,
              piece.as<const uint8_t>() + r * piece.stride * stored_element, piece.dtype, columns);
    }
    const TensorView target = place.plain.Rows(place.row_begin + row, rows);
    TESSERA_CHECK(target.bytes() == converted_.size()) << target.bytes();
    ops_.CopyToDevice(ctx_, target.data, converted_.data(), converted_.size());
  }

  TensorView Transposed(const TensorView& piece) {
    const int64_t rows = piece.dims[0];
    const int64_t columns = piece.dims[1];
    transposed_.resize(rows * columns);
    const size_t element = DTypeSize(piece.dtype);
    for (int64_t r = 0; r < rows; ++r) {
      const uint8_t* from = piece.as<const uint8_t>() + r * piece.stride * element;
      for (int64_t c = 0; c < columns; ++c) {
        transposed_[c * rows + r] = ReadFloat(from + c * element, piece.dtype);
      }
    }
    return TensorView(transposed_.data(), DType::kFloat32, {columns, rows});
  }

  Ops& ops_;
  const ExecContext& ctx_;
  const ModelSpec& spec_;
  const Checkpoint& checkpoint_;
  const WeightsOptions& options_;
  const LoadProgressFn& progress_;
  const uint64_t bytes_total_;
  const std::array<float, 256> float8_ = Float8Values();

  std::unique_ptr<Weights> weights_;
  WeightPlaces places_;
  std::vector<uint8_t> staging_;
  std::vector<uint8_t> converted_;
  std::vector<float> scaled_;
  std::vector<float> transposed_;
  int64_t rows_filled_ = 0;
  uint64_t bytes_done_ = 0;
};

}  // namespace

uint64_t ShardBytes(const ModelSpec& spec, const Checkpoint& checkpoint, int rank, int tp) {
  uint64_t bytes = 0;
  for (const WeightSpec& weight : WeightTable(spec)) {
    const Shard shard = ShardOf(weight, spec, rank, tp);
    if (shard.row_count == 0) continue;
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
  TESSERA_RETURN_IF_ERROR(CheckFinite(spec, checkpoint));
  Loader loader(ops, ctx, spec, checkpoint, options, progress);
  TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<Weights> weights, loader.Load());
  weights->seconds = absl::ToDoubleSeconds(clock.Now() - start);
  return weights;
}

}  // namespace tessera
