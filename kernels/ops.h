// The device seam: every piece of arithmetic the forward pass and the sampler need, with shapes.
// kernels/cpu implements it plainly (the oracle) and packed; kernels/cuda implements it for GPUs.
//
// Rules for every method: ExecContext and outputs come first; nothing is allocated in a compute
// method (scratch comes from the context's workspace); calls are asynchronous on the context's
// stream and ordered there; a wrong shape or dtype is a broken invariant (CHECK). A row's result
// never depends on its neighbours, on the number of rows, or on how a product was split over ranks
// (see MatMulPartial).
//
// Shapes: T tokens, R rows, H query heads, K KV heads, D head size, C hidden size, V vocabulary,
// B blocks. `A` is the activation dtype: float32 or bfloat16.

#ifndef TESSERA_KERNELS_OPS_H_
#define TESSERA_KERNELS_OPS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/noise.h"
#include "kernels/tensor.h"

namespace tessera {

// Row-parallel products are summed over this many fixed slices of K in a fixed binary tree; a group
// of tp ranks owns subtrees of it, so tp in {1, 2, 4, 8} gives the same bits.
inline constexpr int kReduceSlices = 8;

// First index of slice `slice` when `n` things are cut in kReduceSlices.
constexpr int64_t SliceBegin(int64_t n, int slice) { return n * slice / kReduceSlices; }

class ThreadPool;  // kernels/cpu

// Where and how to compute. One per rank; not thread-safe.
struct ExecContext {
  void* stream = nullptr;         // CUDA stream; unused on CPU
  ThreadPool* threads = nullptr;  // CPU helpers of this rank; null: the caller's thread alone
  TensorView workspace;           // kUInt8 [bytes], see Ops::WorkspaceBytes
  bool deterministic = true;      // CUDA only; CPU always is
};

// A weight matrix [N, K] in the backend's own layout, filled row range by row range while loading.
class Weight {
 public:
  virtual ~Weight() = default;
  virtual int64_t rows() const = 0;     // N, outputs
  virtual int64_t columns() const = 0;  // K, inputs, of this rank
  virtual DType dtype() const = 0;
  virtual size_t bytes() const = 0;  // resident, padding included
};

// A float8 (E4M3) weight has a float32 scale for every row, and in row-parallel ones for every
// slice of a row, so that tp does not show in it: what was summed over the row, or over the slice,
// is multiplied by it. The scale makes the largest magnitude 448, see base/float8.h.
struct WeightShape {
  int64_t rows = 0;     // N of this rank
  int64_t columns = 0;  // K of this rank
  DType dtype = DType::kBFloat16;
  // For row-parallel weights: where this rank's columns lie in the whole matrix, so that the fixed
  // slices fall on the same places whatever tp is. column_total = 0: not row-parallel.
  int64_t column_begin = 0;
  int64_t column_total = 0;
};

// Keys and values of one layer. The layout inside is the backend's; sizes come from
// Ops::KvLayerBytes.
struct KvLayer {
  TensorView storage;  // kUInt8 [bytes]
  DType dtype = DType::kBFloat16;
  int64_t num_blocks = 0;
  int64_t block_size = 0;  // tokens
  int64_t num_heads = 0;   // K of this rank
  int64_t head_size = 0;   // D
  // Latent attention keeps one entry per token: the key, whose first elements are the value.
  bool latent = false;
};

// The rows of one step as the kernels see them; all arrays on the device, int32.
// Example: two rows, 3 prompt tokens of one sequence and 1 decode token of another at position 7:
// query_begin = [0, 3, 4], kv_length = [3, 8], positions = [0, 1, 2, 7].
struct StepView {
  int64_t num_rows = 0;     // R
  int64_t num_tokens = 0;   // T
  TensorView tokens;        // [T] token ids
  TensorView positions;     // [T]
  TensorView query_begin;   // [R + 1] first token of each row
  TensorView kv_length;     // [R] tokens in the cache once this step has written its own
  TensorView block_table;   // [R, blocks of the longest row] of the layer's KvGroup; tail undefined
  TensorView output_token;  // [outputs] index into T of the tokens whose logits are wanted
};

// Rotary position embedding: pair i turns by position * inv_frequency[i]. It is elements i and
// i + rotary_size / 2, or 2 i and 2 i + 1 where pairs are interleaved.
struct RopeSpec {
  TensorView inv_frequency;       // float32 [rotary_size / 2], scaling already applied
  int64_t rotary_size = 0;        // leading elements of a head that turn, D unless partial
  float attention_factor = 1.0f;  // multiplies cos and sin
  bool interleaved = false;
};

struct AttentionSpec {
  int64_t num_heads = 0;     // H of this rank
  int64_t num_kv_heads = 0;  // K of this rank; H % K == 0
  int64_t head_size = 0;     // D
  float scale = 0.0f;        // of q . k
  int64_t window = 0;        // tokens that a query sees, itself included; 0: all
  float softcap = 0.0f;      // tanh cap on scores, 0: none
  int64_t value_size = 0;    // elements of a value, at most D; 0: D
};

// out = x / rms(x) * weight, or times 1 + weight. With a bias: LayerNorm, which takes the mean off
// first, out = (x - mean) / deviation * weight + bias.
struct NormSpec {
  TensorView weight = {};  // [C] A
  TensorView bias = {};    // [C] A; empty: RmsNorm
  float eps = 0.0f;
  bool plus_one = false;
  // AddResidualNorm: the sum is normed with this weight before it is added; empty: it is not.
  TensorView sum_weight = {};  // [C] A
};

// Norms of every query and every key head before they turn; empty weights: none.
struct HeadNormSpec {
  TensorView query = {};  // [D] A
  TensorView key = {};    // [D] A
  float eps = 0.0f;
  bool plus_one = false;
};

enum class Activation { kSilu, kGeluTanh, kGelu };

inline constexpr int64_t kRoutedExpertsMax = 1024;

// Which experts a token passes through, and how much each counts.
struct Routing {
  TensorView ids = {};      // [T, k] int32, of the whole model; no expert twice in a row
  TensorView weights = {};  // [T, k] float32
};

// How experts are chosen. A token's scores are a softmax over all logits, or sigmoids; with groups
// of E / num_groups neighbours only those of the groups_per_token best groups may be chosen, a
// group being as good as the sum of its group_top best. Of the rest the best k are taken; their
// scores are their weights. kSparseMixer: twice the best of what is left, its weight being its
// softmax over those whose distance to it is at most 2 * jitter of the larger magnitude; k is 2.
struct RoutingSpec {
  enum class Scoring { kSoftmax, kSigmoid, kSparseMixer };
  Scoring scoring = Scoring::kSoftmax;
  int64_t num_groups = 1;
  int64_t groups_per_token = 1;
  int64_t group_top = 1;
  bool normalize = false;  // weights are divided by their sum
  float scale = 1.0f;      // multiplies weights
  float jitter = 0.0f;
};

struct Expert {
  const Weight* gate_up = nullptr;  // [2 * Ie, C]: gate rows, up rows
  const Weight* down = nullptr;     // [C, Ie]
};

// The experts of one rank: whole ones, divided over ranks by the slices of row-parallel products.
struct ExpertShare {
  int64_t num_experts = 0;  // E of the whole model
  int first_slice = 0;      // of kReduceSlices
  int num_slices = kReduceSlices;
  Activation activation = Activation::kSilu;
  // SliceBegin(E, first_slice) up to SliceBegin(E, first_slice + num_slices).
  std::vector<Expert> experts = {};
};

// The expert that every token passes through, as far as it is computed already.
struct SharedExpert {
  TensorView activated = {};     // [T, Is] A
  const Weight* down = nullptr;  // [C, Is], row-parallel; null: there is none
  TensorView gate = {};  // [T, 1] float32: its output is multiplied by sigmoid(gate); or empty
};

// What sizes the scratch of ExpertsPartial; of the whole model but Is, which is the rank's.
struct ExpertSizes {
  int64_t hidden = 0;             // C
  int64_t num_experts = 0;        // E
  int64_t experts_per_token = 0;  // k
  int64_t intermediate = 0;       // Ie
  int64_t shared = 0;             // Is
};

// What the sampling ops read: rows of one tensor of logits, in any order and any number of times. A
// NaN is passed over everywhere: never counted, never chosen.
struct LogitRows {
  TensorView logits = {};         // [L, Vs] float32 on the device; Vs counts real tokens only
  int64_t vocab_begin = 0;        // token id of column 0
  std::vector<int32_t> row = {};  // [R] which row of logits entry r reads
  // Bit i % 32 of word i / 32 says that column i may be used; others count as -inf.
  TensorView masks = {};           // [M, ceil(Vs / 32)] int32 on the device
  std::vector<int32_t> mask = {};  // [R] which row of masks, -1: none; empty: no entry has one
};

// One logit of a tensor [L, Vs].
struct LogitPlace {
  int32_t row = 0;
  int32_t column = 0;
};

// One entry's part in the truncated draw; see worker/sampler.h for the algorithm.
struct DrawRow {
  float inv_temperature = 1.0f;
  // Only tokens whose logit is above the threshold, or equal to it and among the first `ties_kept`
  // equal ones of this shard in order of id, may be drawn. -inf keeps all, +inf costs nothing.
  float threshold = 0.0f;
  int64_t ties_kept = 0;
  uint64_t seed = 0;
  uint32_t position = 0;  // of the token being drawn
  uint32_t choice = 0;
};

// Largest `n` of Ops::TopLogits.
inline constexpr int kTopLogitsMax = 20;

struct Candidate {
  float score = 0.0f;  // of TopLogits: the logit; of Draw: logit / T + Gumbel noise
  int32_t token = -1;  // -1: this shard has none
};

class Ops {
 public:
  virtual ~Ops() = default;

  // -- memory ------------------------------------------------------------------------------------
  // Zeroed memory of this device, aligned to 64 bytes. RESOURCE_EXHAUSTED when there is none.
  virtual absl::StatusOr<Buffer> Allocate(size_t bytes) = 0;
  virtual void CopyToDevice(const ExecContext&, void* device, const void* host, size_t bytes) = 0;
  virtual void CopyToHost(const ExecContext&, void* host, const void* device, size_t bytes) = 0;
  // Waits for everything queued on the stream; INTERNAL with the device's message if something
  // failed.
  virtual absl::Status Synchronize(const ExecContext&) = 0;
  // Scratch that the compute methods need for steps of at most these sizes.
  virtual size_t WorkspaceBytes(int64_t tokens_max, int64_t rows_max, int64_t widest) = 0;
  // The same for ExpertsPartial alone.
  virtual size_t ExpertsWorkspaceBytes(int64_t tokens_max, const ExpertSizes& sizes) = 0;

  // -- recording ---------------------------------------------------------------------------------
  // Between the two calls what is queued on the context's stream is recorded instead of computed;
  // Replay computes it again, with the same shapes, on what then lies at the same addresses.
  // Nothing that copies from the host or returns to it may be recorded. A failed recording is no
  // error of the device. UNIMPLEMENTED where CanRecord is false.
  using Recording = std::shared_ptr<void>;
  virtual bool CanRecord() const = 0;
  virtual absl::Status BeginRecording(const ExecContext&) = 0;
  virtual absl::StatusOr<Recording> EndRecording(const ExecContext&) = 0;
  virtual absl::Status Replay(const ExecContext&, const Recording& recording) = 0;

  // -- weights -----------------------------------------------------------------------------------
  virtual absl::StatusOr<std::unique_ptr<Weight>> NewWeight(const WeightShape& shape) = 0;
  // Packs `source` (host memory, [n, columns], float32, bfloat16 or float16, rows may be strided)
  // as rows [row_begin, row_begin + n) of the weight, converting to its dtype.
  virtual void PackRows(Weight& weight, int64_t row_begin, TensorView source) = 0;
  // Makes up rows [row_begin, row_begin + rows) of the weight, counted from row_begin in `noise`.
  virtual void FillRows(Weight& weight, int64_t row_begin, int64_t rows,
                        const NoiseSpec& noise) = 0;
  // The same for plain memory, one or two dimensions, A or float32. [n] counts rows.
  virtual void Fill(const ExecContext&, TensorView out, const NoiseSpec& noise) = 0;

  // -- forward -----------------------------------------------------------------------------------
  // out [T, C] float32: row tokens[t] - vocab_begin of `table` [V/tp, C] A times `scale`, zeros
  // where the token belongs to another shard. The sum over shards is the embedding.
  virtual void Embedding(const ExecContext&, TensorView out, TensorView tokens, TensorView table,
                         int64_t vocab_begin, float scale) = 0;
  // out, x [T, C] A; float32 inside; out may be x. A LayerNorm if the spec has a bias.
  virtual void RmsNorm(const ExecContext&, TensorView out, TensorView x, const NormSpec& norm) = 0;
  // residual += sum + bias, or its norm (one rounding), then out = RmsNorm(residual), or a
  // LayerNorm. out, residual [T, C] A; sum [T, C] float32; bias [C] A or empty.
  virtual void AddResidualNorm(const ExecContext&, TensorView out, TensorView residual,
                               TensorView sum, TensorView bias, const NormSpec& norm) = 0;
  // out = x . w^T + bias. out [T, N] A or float32; x [T, K] A; bias [N] A or empty. Each output
  // element is accumulated in float32 over k = 0, 1, ... K-1 in order, whatever T is.
  virtual void MatMul(const ExecContext&, TensorView out, TensorView x, const Weight& w,
                      TensorView bias) = 0;
  // The subtree sum of this rank's slices: out [T, N] float32 = tree over slices s of
  // (x[:, slice s] . w[:, slice s]^T). `w` was made with column_total > 0. Summing the ranks'
  // outputs in the same tree gives the whole product with the same bits for every tp.
  virtual void MatMulPartial(const ExecContext&, TensorView out, TensorView x, const Weight& w) = 0;
  // Head by head: out[:, first N of head h] = x[:, first K of head h] . w[rows of head h]^T. out
  // [T, H * No] A, No >= N; x [T, H * Ko] A, Ko >= K; w [H * N, K]. What lies behind the first N of
  // a head of out stays as it is.
  virtual void MatMulHeads(const ExecContext&, TensorView out, TensorView x, const Weight& w,
                           int64_t num_heads) = 0;
  // See RoutingSpec. routing [T, k]; logits [T, E] A or float32; bias [E] float32, added to scores
  // where experts are compared but not in weights, or empty. The lower id goes first among equals.
  // A token with a logit that is not finite has NaN for its weights, so that what comes of it is no
  // number either; its experts are the first k.
  virtual void RouteExperts(const ExecContext&, const Routing& routing, TensorView logits,
                            TensorView bias, const RoutingSpec& spec) = 0;
  // out [T, C] float32, x [T, C] A. Per token: leaf s = sum over its experts of slice s, in order
  // of id, of weight * down(act(gate x) * up x), plus slice s of the shared expert's product; out
  // is the tree over this rank's slices, as in MatMulPartial. load [1] int64 += the (token, expert)
  // pairs that were computed here.
  virtual void ExpertsPartial(const ExecContext&, TensorView out, TensorView x,
                              const Routing& routing, const ExpertShare& share,
                              const SharedExpert& shared, TensorView load) = 0;
  // Norms and rotates q and k in place and writes k and v into the cache. qkv [T, (H + 2K) * D] A:
  // q heads, k heads, v heads; row t goes to position positions[t] of its row's block table.
  virtual void RopeAndStoreKv(const ExecContext&, TensorView qkv, const KvLayer& kv,
                              const StepView& step, const HeadNormSpec& norm, const RopeSpec& rope,
                              const AttentionSpec& spec) = 0;
  // Latent attention, kv.latent, entries of L + R = head size elements, R = rotary size. Turns the
  // last R of every head of q [T, H * (N + R)] A into the last R of every head of query
  // [T, H * (L + R)] A, whose first L it leaves alone; norms the first L of latent [T, L + R] A,
  // turns its last R, both in place, and writes it into the cache.
  virtual void RopeAndStoreLatent(const ExecContext&, TensorView query, TensorView q,
                                  TensorView latent, const KvLayer& kv, const StepView& step,
                                  const NormSpec& norm, const RopeSpec& rope,
                                  const AttentionSpec& spec) = 0;
  // out [T, H * value size] A: causal attention of every query over its row's cache as stored, its
  // own chunk included. q [T, H * D] A (may be columns of qkv).
  virtual void PagedAttention(const ExecContext&, TensorView out, TensorView q, const KvLayer& kv,
                              const StepView& step, const AttentionSpec& spec) = 0;
  // out [T, I] A = act(gate) * up. gate_up [T, 2 * I] A: gate columns, then up columns.
  virtual void GatedActivation(const ExecContext&, TensorView out, TensorView gate_up,
                               Activation act) = 0;
  // x = cap * tanh(x / cap), in place. x [R, V] float32.
  virtual void SoftCap(const ExecContext&, TensorView x, float cap) = 0;
  // out[i] = x[index[i]]. out [R, C] A; x [T, C] A; index [R] int32.
  virtual void GatherRows(const ExecContext&, TensorView out, TensorView x, TensorView index) = 0;
  // Bytes of one layer's KV storage; of `kv` all but the storage is read.
  virtual size_t KvLayerBytes(const KvLayer& kv) = 0;
  // Copies whole blocks inside a layer's storage, pairs in order.
  virtual void CopyBlocks(const ExecContext&, const KvLayer& kv, const std::vector<int32_t>& from,
                          const std::vector<int32_t>& to) = 0;

  // -- sampling, over this rank's shard of the vocabulary -----------------------------------------
  // Results are host arrays; calls that return one synchronize. R is the number of entries.
  // best [R, n]: each entry's n largest logits, the lower id first among equals; behind the last
  // number of a row {-inf, -1}. n is 1 .. kTopLogitsMax.
  virtual void TopLogits(const ExecContext&, std::vector<Candidate>& best, const LogitRows& rows,
                         int n) = 0;
  // One radix digit of the truncation search. A logit's key is its float order as uint32, see
  // kernels/logit_key.h. Per entry r, over tokens whose key agrees with prefix[r] above the digit
  // (digit 3 = top byte): count[r * 256 + b] += 1 and mass[r * 256 + b] += round(2^40 *
  // exp((logit - max[r]) * inv_temperature[r])) for the token's byte b at that digit; exp is 1
  // where the logit equals max[r]. Integers, so the sum over shards has no order.
  virtual void MassHistogram(const ExecContext&, std::vector<uint32_t>& count,
                             std::vector<uint64_t>& mass, const LogitRows& rows,
                             const std::vector<uint32_t>& prefix, int digit,
                             const std::vector<float>& max,
                             const std::vector<float>& inv_temperature) = 0;
  // best [R]: Gumbel-max among the tokens that draws[r] keeps: score = logit * inv_temperature +
  // noise, where the noise is a pure function of (seed, position, choice, token id): Philox4x32-10,
  // see kernels/philox.h. The lowest id wins among equal scores.
  virtual void Draw(const ExecContext&, std::vector<Candidate>& best, const LogitRows& rows,
                    const std::vector<DrawRow>& draws) = 0;
  // values[i] = logits[at[i]]. logits [L, Vs] float32.
  virtual void GatherLogits(const ExecContext&, std::vector<float>& values, TensorView logits,
                            const std::vector<LogitPlace>& at) = 0;
  // logits[at[i]] = values[i]; every place at most once. Both arrays are read before the call
  // returns.
  virtual void ScatterLogits(const ExecContext&, TensorView logits,
                             const std::vector<LogitPlace>& at,
                             const std::vector<float>& values) = 0;
};

// The backends. A backend that was not built answers UNIMPLEMENTED naming the preset that has it.
absl::StatusOr<std::unique_ptr<Ops>> NewCpuOps();
absl::StatusOr<std::unique_ptr<Ops>> NewCudaOps(int device);

}  // namespace tessera

#endif  // TESSERA_KERNELS_OPS_H_
