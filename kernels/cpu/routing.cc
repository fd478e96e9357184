// Which experts a token passes through. One token at a time, float32, the same choice whatever else
// is in the batch: sums run over experts in order, and the lower id goes first among equals.

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/cpu_ops.h"

namespace tessera::cpu {
namespace {

// Logits worth handing to another thread.
constexpr int64_t kGrain = 8 << 10;
constexpr float kNever = -std::numeric_limits<float>::infinity();
// Keeps weights of experts that all score 0 from becoming NaN.
constexpr float kSumMin = 1e-20f;

using Scoring = RoutingSpec::Scoring;

// What has been chosen: below every number, -inf among them, so that nothing is chosen twice.
constexpr float kTaken = std::numeric_limits<float>::quiet_NaN();

// Index of the largest of n, the first among equals. A NaN is passed over; 0 if all are.
int64_t Best(const float* x, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; ++i) {
    if (x[i] > x[best] || (x[best] != x[best] && x[i] == x[i])) best = i;
  }
  return best;
}

// Chooses for one token after the other; the arrays are its scratch.
class Router {
 public:
  Router(const KernelTable& kernels, const RoutingSpec& spec, int64_t experts, int64_t count,
         const float* bias)
      : kernels_(kernels), spec_(spec), experts_(experts), count_(count), bias_(bias) {}

  float* logits() { return logits_; }  // [E], to be filled before Run

  void Run(int32_t* ids, float* weights) {
    if (!IsFinite()) return Spoil(ids, weights);
    if (spec_.scoring == Scoring::kSparseMixer) return MixSparsely(ids, weights);
    Score();
    for (int64_t e = 0; e < experts_; ++e) {
      choice_[e] = Known(bias_ == nullptr ? score_[e] : score_[e] + bias_[e]);
    }
    if (spec_.num_groups > 1) KeepBestGroups();
    float sum = 0.0f;
    for (int64_t j = 0; j < count_; ++j) {
      const int64_t expert = Best(choice_, experts_);
      ids[j] = static_cast<int32_t>(expert);
      weights[j] = score_[expert];
      sum += score_[expert];
      choice_[expert] = kTaken;
    }
    for (int64_t j = 0; j < count_; ++j) {
      if (spec_.normalize) weights[j] /= sum + kSumMin;
      weights[j] *= spec_.scale;
    }
  }

 private:
  bool IsFinite() const {
    return std::all_of(logits_, logits_ + experts_, [](float x) { return std::isfinite(x); });
  }

  // No choice would be right: the token's logits are to show it.
  void Spoil(int32_t* ids, float* weights) const {
    for (int64_t j = 0; j < count_; ++j) {
      ids[j] = static_cast<int32_t>(j);
      weights[j] = std::numeric_limits<float>::quiet_NaN();
    }
  }

  // A score that is no number, as a bias may make it, is chosen last.
  static float Known(float x) { return x == x ? x : kNever; }

  void Score() {
    if (spec_.scoring == Scoring::kSigmoid) return kernels_.sigmoid(score_, logits_, experts_);
    Softmax(logits_, score_);
  }

  void Softmax(const float* x, float* out) {
    kernels_.exp_scaled(out, x, experts_, kernels_.max(x, experts_), 1.0f);
    float sum = 0.0f;
    for (int64_t e = 0; e < experts_; ++e) sum += out[e];
    for (int64_t e = 0; e < experts_; ++e) out[e] /= sum;
  }

  // Puts the experts of other groups out of the choice.
  void KeepBestGroups() {
    const int64_t size = experts_ / spec_.num_groups;
    for (int64_t group = 0; group < spec_.num_groups; ++group) {
      std::copy_n(choice_ + group * size, size, rest_);
      group_[group] = 0.0f;
      for (int64_t i = 0; i < spec_.group_top; ++i) {
        const int64_t best = Best(rest_, size);
        group_[group] += rest_[best];
        rest_[best] = kTaken;
      }
      group_[group] = Known(group_[group]);
    }
    std::fill_n(keep_, spec_.num_groups, false);
    for (int64_t i = 0; i < spec_.groups_per_token; ++i) {
      const int64_t best = Best(group_, spec_.num_groups);
      keep_[best] = true;
      group_[best] = kTaken;
    }
    for (int64_t e = 0; e < experts_; ++e) {
      if (!keep_[e / size]) choice_[e] = kNever;
    }
  }

  void MixSparsely(int32_t* ids, float* weights) {
    for (int64_t e = 0; e < experts_; ++e) choice_[e] = Known(logits_[e]);
    for (int64_t j = 0; j < count_; ++j) {
      const int64_t best = Best(choice_, experts_);
      const float top = choice_[best];
      for (int64_t e = 0; e < experts_; ++e) {
        const float distance = (top - logits_[e]) / std::max(std::fabs(logits_[e]), top);
        rest_[e] = distance > 2.0f * spec_.jitter ? kNever : Known(choice_[e]);
      }
      Softmax(rest_, score_);
      ids[j] = static_cast<int32_t>(best);
      weights[j] = score_[best];
      choice_[best] = kTaken;
    }
  }

  const KernelTable& kernels_;
  const RoutingSpec& spec_;
  const int64_t experts_;
  const int64_t count_;
  const float* const bias_;
  float logits_[kRoutedExpertsMax];
  float score_[kRoutedExpertsMax];
  float choice_[kRoutedExpertsMax];
  float rest_[kRoutedExpertsMax];
  float group_[kRoutedExpertsMax];
  bool keep_[kRoutedExpertsMax];
};

void CheckRouting(const Routing& routing, const TensorView& logits, const TensorView& bias,
                  const RoutingSpec& spec) {
  const int64_t experts = logits.dims[1];
  const int64_t count = routing.ids.dims[1];
  TESSERA_CHECK(logits.rank == 2 && experts <= kRoutedExpertsMax && count >= 1 &&
                count <= experts && routing.ids.dims[0] == logits.dims[0] &&
                routing.ids.dtype == DType::kInt32 && routing.weights.dims == routing.ids.dims &&
                routing.weights.dtype == DType::kFloat32)
      << count << " of " << experts << " experts for " << logits.dims[0] << " tokens";
  TESSERA_CHECK(bias.empty() || (bias.dtype == DType::kFloat32 && bias.dims[0] == experts))
      << "bias of " << bias.dims[0];
  TESSERA_CHECK(spec.num_groups >= 1 && experts % spec.num_groups == 0 &&
                spec.groups_per_token >= 1 && spec.groups_per_token <= spec.num_groups &&
                spec.group_top >= 1 && spec.group_top <= experts / spec.num_groups &&
                spec.groups_per_token * (experts / spec.num_groups) >= count)
      << spec.groups_per_token << " of " << spec.num_groups << " groups, the best "
      << spec.group_top << " of each";
  TESSERA_CHECK(spec.scoring != Scoring::kSparseMixer || count == 2) << count << " experts";
}

}  // namespace

void CpuOps::RouteExperts(const ExecContext& context, const Routing& routing, TensorView logits,
                          TensorView bias, const RoutingSpec& spec) {
  CheckRouting(routing, logits, bias, spec);
  const int64_t experts = logits.dims[1];
  const auto work = [&](int64_t begin, int64_t end) {
    Router router(kernels_, spec, experts, routing.ids.dims[1],
                  bias.empty() ? nullptr : bias.as<const float>());
    for (int64_t token = begin; token < end; ++token) {
      WithType(logits.dtype, [&](auto t) {
        const auto* from = Row<const decltype(t)>(logits, token);
        for (int64_t e = 0; e < experts; ++e) router.logits()[e] = ToFloat(from[e]);
      });
      router.Run(Row<int32_t>(routing.ids, token), Row<float>(routing.weights, token));
    }
  };
  ParallelFor(context.threads, logits.dims[0], 1 + kGrain / experts, work);
}

}  // namespace tessera::cpu
