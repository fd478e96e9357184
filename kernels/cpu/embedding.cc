// Row lookups: the embedding shard, and the rows whose logits are wanted.

#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu_ops.h"

namespace tessera::cpu {

void CpuOps::Embedding(const ExecContext&, TensorView out, TensorView tokens, TensorView table,
                       int64_t vocab_begin, float scale) {
  TESSERA_CHECK(out.rank == 2 && table.rank == 2 && out.dims[0] == tokens.dims[0] &&
                out.dims[1] == table.dims[1] && out.dtype == DType::kFloat32 &&
                tokens.dtype == DType::kInt32)
      << "out [" << out.dims[0] << ", " << out.dims[1] << "], " << tokens.dims[0]
      << " tokens, table [" << table.dims[0] << ", " << table.dims[1] << "]";
  WithType(table.dtype, [&](auto t) {
    using T = decltype(t);
    for (int64_t i = 0; i < tokens.dims[0]; ++i) {
      float* to = Row<float>(out, i);
      const int64_t row = tokens.as<const int32_t>()[i] - vocab_begin;
      if (row < 0 || row >= table.dims[0]) {
        std::fill_n(to, out.dims[1], 0.0f);
        continue;
      }
      const T* from = Row<const T>(table, row);
      for (int64_t c = 0; c < out.dims[1]; ++c) to[c] = ToFloat(from[c]) * scale;
    }
  });
}

void CpuOps::GatherRows(const ExecContext&, TensorView out, TensorView x, TensorView index) {
  TESSERA_CHECK(out.rank == 2 && x.rank == 2 && out.dims[0] == index.dims[0] &&
                out.dims[1] == x.dims[1] && out.dtype == x.dtype && index.dtype == DType::kInt32)
      << "out [" << out.dims[0] << ", " << out.dims[1] << "], x [" << x.dims[0] << ", " << x.dims[1]
      << "], " << index.dims[0] << " indices";
  const size_t element = DTypeSize(x.dtype);
  for (int64_t i = 0; i < index.dims[0]; ++i) {
    const int64_t row = index.as<const int32_t>()[i];
    TESSERA_CHECK(row >= 0 && row < x.dims[0]) << "row " << row << " of " << x.dims[0];
    std::memcpy(Row<char>(out, 0) + i * out.stride * static_cast<int64_t>(element),
                Row<const char>(x, 0) + row * x.stride * static_cast<int64_t>(element),
                static_cast<size_t>(x.dims[1]) * element);
  }
}

}  // namespace tessera::cpu
