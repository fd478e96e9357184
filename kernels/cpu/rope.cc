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

// to = the turned elements of `from`; to may be from.
template <typename T>
void Rotate(T* to, const T* from, const Angles& angles, const RopeSpec& rope) {
  const int64_t half = rope.rotary_size / 2;
  const int64_t first_step = rope.interleaved ? 2 : 1;
  const int64_t apart = rope.interleaved ? 1 : half;
  for (int64_t i = 0; i < half; ++i) {
    const int64_t first = i * first_step;
    const float a = ToFloat(from[first]);
    const float b = ToFloat(from[first + apart]);
    to[first] = Round<T>(a * angles.cos[i] - b * angles.sin[i]);
    to[first + apart] = Round<T>(b * angles.cos[i] + a * angles.sin[i]);
  }
}

void CheckRope(const RopeSpec& rope, int64_t head_size) {
  TESSERA_CHECK(rope.rotary_size % 2 == 0 && rope.rotary_size <= head_size &&
                (rope.rotary_size == 0 || rope.inv_frequency.dims[0] == rope.rotary_size / 2))
      << "rotary size " << rope.rotary_size;
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
  CheckRope(rope, size);
  TESSERA_CHECK(!kv.latent) << "keys and values for a latent cache";
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
      Rotate(head, head, angles, rope);
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

void CpuOps::RopeAndStoreLatent(const ExecContext& context, TensorView query, TensorView q,
                                TensorView latent, const KvLayer& kv, const StepView& step,
                                const NormSpec& norm, const RopeSpec& rope,
                                const AttentionSpec& spec) {
  const int64_t entry = kv.head_size;
  const int64_t turning = rope.rotary_size;
  const int64_t normed = entry - turning;
  const int64_t head = q.dims[1] / spec.num_heads;  // N + R
  CheckRope(rope, entry);
  TESSERA_CHECK(kv.latent && kv.num_heads == 1 && entry <= kHeadSizeMax &&
                query.dims[0] == step.num_tokens && query.dims[1] == spec.num_heads * entry &&
                q.dims[0] == step.num_tokens && q.dims[1] == spec.num_heads * head &&
                head >= turning && latent.dims[0] == step.num_tokens && latent.dims[1] == entry &&
                query.dtype == q.dtype && latent.dtype == q.dtype)
      << "query [" << query.dims[0] << ", " << query.dims[1] << "], q [" << q.dims[0] << ", "
      << q.dims[1] << "], latent [" << latent.dims[0] << ", " << latent.dims[1] << "], entries of "
      << entry;
  TESSERA_CHECK(norm.weight.dims[0] == normed && norm.weight.dtype == q.dtype && norm.bias.empty())
      << "norm of " << norm.weight.dims[0] << " elements";
  const auto run = [&](auto t, auto kv_t) {
    using T = decltype(t);
    using Kv = decltype(kv_t);
    const auto work = [&](int64_t begin, int64_t end) {
      Angles angles;
      int64_t row = 0;
      for (int64_t token = begin; token < end; ++token) {
        row = RowOf(step, token, row);
        const int32_t position = step.positions.as<const int32_t>()[token];
        angles.Fill(rope, position);
        for (int64_t h = 0; h < spec.num_heads; ++h) {
          Rotate(Row<T>(query, token) + h * entry + normed,
                 Row<const T>(q, token) + (h + 1) * head - turning, angles, rope);
        }
        T* own = Row<T>(latent, token);
        kernels_.rows<T>().rms_norm(own, own, norm.weight.as<const T>(), normed, norm.eps,
                                    norm.plus_one ? 1.0f : 0.0f);
        Rotate(own + normed, own + normed, angles, rope);
        const int64_t slot = position % kv.block_size;
        Kv* key = KeyBlock<Kv>(kv, BlockOf(kv, step, row, position), 0) + slot;
        for (int64_t d = 0; d < entry; ++d) key[d * kv.block_size] = Round<Kv>(ToFloat(own[d]));
      }
    };
    ParallelFor(context.threads, step.num_tokens, 1 + kGrain / (entry + q.dims[1]), work);
  };
  WithType(q.dtype, [&](auto t) { WithType(kv.dtype, [&](auto kv_t) { run(t, kv_t); }); });
}

size_t CpuOps::KvLayerBytes(const KvLayer& kv) {
  return static_cast<size_t>(kv.num_blocks * KvBlockElements(kv)) * DTypeSize(kv.dtype);
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
