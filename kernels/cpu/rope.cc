// Head norms, rotary embedding and the write into the paged cache, token by token; and the copies
// of whole blocks.

#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/kv_layout.h"

namespace tessera::cpu {
namespace {

// Elements worth handing to another thread.
constexpr int64_t kGrain = 16 << 10;

// cos and sin of every pair at one position.
struct Angles {
  float cos[kHeadSizeMax / 2];
  float sin[kHeadSizeMax / 2];

  void Fill(const RopeSpec& rope, int32_t position) {
    const float* frequency = rope.inv_frequency.as<const float>();
    for (int64_t i = 0; i < rope.rotary_size / 2; ++i) {
      const float angle = static_cast<float>(position) * frequency[i];
      cos[i] = std::cos(angle) * rope.attention_factor;
      sin[i] = std::sin(angle) * rope.attention_factor;
    }
  }
};

template <typename T>
T Round(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    return ToBFloat16(x);
  }
}

template <typename T>
void Rotate(T* head, const Angles& angles, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = ToFloat(head[i]);
    const float b = ToFloat(head[i + half]);
    head[i] = Round<T>(a * angles.cos[i] - b * angles.sin[i]);
    head[i + half] = Round<T>(b * angles.cos[i] + a * angles.sin[i]);
  }
}

template <typename Kv, typename T>
void StoreToken(const KvLayer& kv, int64_t block, int64_t slot, const T* keys, const T* values) {
  const int64_t size = kv.head_size;
  for (int64_t head = 0; head < kv.num_heads; ++head) {
    Kv* key = KeyBlock<Kv>(kv, block, head) + slot;
    Kv* value = ValueBlock<Kv>(kv, block, head) + slot * size;
    for (int64_t d = 0; d < size; ++d) {
      key[d * kv.block_size] = Round<Kv>(ToFloat(keys[head * size + d]));
      value[d] = Round<Kv>(ToFloat(values[head * size + d]));
    }
  }
}

// The step's row that token `token` belongs to, looking from `row` on.
int64_t RowOf(const StepView& step, int64_t token, int64_t row) {
  const int32_t* begin = step.query_begin.as<const int32_t>();
  while (token >= begin[row + 1]) ++row;
  return row;
}

}  // namespace

void CpuOps::RopeAndStoreKv(const ExecContext& context, TensorView qkv, const KvLayer& kv,
                            const StepView& step, const HeadNormSpec& norm, const RopeSpec& rope,
                            const AttentionSpec& spec) {
  const int64_t size = spec.head_size;
  const int64_t heads = spec.num_heads + spec.num_kv_heads;  // those that turn
  TESSERA_CHECK(qkv.rank == 2 && qkv.dims[0] == step.num_tokens &&
                qkv.dims[1] == (heads + spec.num_kv_heads) * size &&
                kv.num_heads == spec.num_kv_heads && kv.head_size == size && size <= kHeadSizeMax)
      << "qkv [" << qkv.dims[0] << ", " << qkv.dims[1] << "], " << spec.num_heads << " + "
      << spec.num_kv_heads << " heads of " << size;
  TESSERA_CHECK(rope.rotary_size % 2 == 0 && rope.rotary_size <= size &&
                (rope.rotary_size == 0 || rope.inv_frequency.dims[0] == rope.rotary_size / 2))
      << "rotary size " << rope.rotary_size;
  for (const TensorView& weight : {norm.query, norm.key}) {
    TESSERA_CHECK(weight.empty() || (weight.dims[0] == size && weight.dtype == qkv.dtype))
        << "head norm of " << weight.dims[0] << " elements";
  }
  const auto run = [&](auto t, auto kv_t) {
    using T = decltype(t);
    using Kv = decltype(kv_t);
    const RowKernels<T>& kernels = kernels_.rows<T>();
    const float offset = norm.plus_one ? 1.0f : 0.0f;
    // Norm and rotation round once each.
    const auto turn = [&](T* head, const TensorView& weight, const Angles& angles) {
      if (!weight.empty()) {
        kernels.rms_norm(head, head, weight.as<const T>(), size, norm.eps, offset);
      }
      Rotate(head, angles, rope.rotary_size / 2);
    };
    const auto work = [&](int64_t begin, int64_t end) {
      Angles angles;
      int64_t row = 0;
      for (int64_t token = begin; token < end; ++token) {
        row = RowOf(step, token, row);
        const int32_t position = step.positions.as<const int32_t>()[token];
        angles.Fill(rope, position);
        T* q = Row<T>(qkv, token);
        for (int64_t h = 0; h < heads; ++h) {
          turn(q + h * size, h < spec.num_heads ? norm.query : norm.key, angles);
        }
        StoreToken<Kv>(kv, BlockOf(kv, step, row, position), position % kv.block_size,
                       q + spec.num_heads * size, q + heads * size);
      }
    };
    ParallelFor(context.threads, step.num_tokens, 1 + kGrain / qkv.dims[1], work);
  };
  WithType(qkv.dtype, [&](auto t) { WithType(kv.dtype, [&](auto kv_t) { run(t, kv_t); }); });
}

size_t CpuOps::KvLayerBytes(DType dtype, int64_t num_blocks, int64_t block_size, int64_t num_heads,
                            int64_t head_size) {
  return static_cast<size_t>(num_blocks * num_heads * 2 * head_size * block_size) *
         DTypeSize(dtype);
}

void CpuOps::CopyBlocks(const ExecContext&, const KvLayer& kv, const std::vector<int32_t>& from,
                        const std::vector<int32_t>& to) {
  TESSERA_CHECK(from.size() == to.size()) << from.size() << " to " << to.size() << " blocks";
  const size_t bytes = static_cast<size_t>(KvBlockElements(kv)) * DTypeSize(kv.dtype);
  char* base = kv.storage.as<char>();
  for (size_t i = 0; i < from.size(); ++i) {
    TESSERA_CHECK(from[i] >= 0 && from[i] < kv.num_blocks && to[i] >= 0 && to[i] < kv.num_blocks)
        << "block " << from[i] << " to " << to[i] << " of " << kv.num_blocks;
    if (from[i] == to[i]) continue;
    std::memcpy(base + static_cast<size_t>(to[i]) * bytes,
                base + static_cast<size_t>(from[i]) * bytes, bytes);
  }
}

}  // namespace tessera::cpu
