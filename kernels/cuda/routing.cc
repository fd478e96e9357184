// Checks of RouteExperts and its hand-over to the kernel.

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/experts_kernels.h"

namespace tessera::cuda {
namespace {

ScoreForm ScoringOf(RoutingSpec::Scoring scoring) {
  switch (scoring) {
    case RoutingSpec::Scoring::kSoftmax:
      return ScoreForm::kSoftmax;
    case RoutingSpec::Scoring::kSigmoid:
      return ScoreForm::kSigmoid;
    case RoutingSpec::Scoring::kSparseMixer:
      return ScoreForm::kSparseMixer;
  }
  return ScoreForm::kSoftmax;
}

}  // namespace

void CudaOps::RouteExperts(const ExecContext& context, const Routing& routing, TensorView logits,
                           TensorView bias, const RoutingSpec& spec) {
  const int64_t experts = logits.dims[1];
  const int64_t count = routing.ids.dims[1];
  TESSERA_CHECK(logits.rank == 2 && experts <= kRoutedExpertsMax && count >= 1 &&
                count <= experts && routing.ids.dims[0] == logits.dims[0] &&
                routing.ids.dtype == DType::kInt32 && routing.weights.dims == routing.ids.dims &&
                routing.weights.dtype == DType::kFloat32 &&
                (logits.dtype == DType::kFloat32 || logits.dtype == DType::kBFloat16))
      << count << " of " << experts << " experts for " << logits.dims[0] << " tokens";
  TESSERA_CHECK(bias.empty() || (bias.dtype == DType::kFloat32 && bias.dims[0] == experts))
      << "bias of " << bias.dims[0];
  TESSERA_CHECK(spec.num_groups >= 1 && experts % spec.num_groups == 0 &&
                spec.groups_per_token >= 1 && spec.groups_per_token <= spec.num_groups &&
                spec.group_top >= 1 && spec.group_top <= experts / spec.num_groups &&
                spec.groups_per_token * (experts / spec.num_groups) >= count)
      << spec.groups_per_token << " of " << spec.num_groups << " groups, the best "
      << spec.group_top << " of each";
  TESSERA_CHECK(spec.scoring != RoutingSpec::Scoring::kSparseMixer || count == 2)
      << count << " experts";
  Enter();
  RouteArguments arguments;
  arguments.tokens = logits.dims[0];
  arguments.experts = static_cast<int>(experts);
  arguments.count = static_cast<int>(count);
  arguments.bfloat16 = logits.dtype == DType::kBFloat16;
  arguments.logits = {logits.data, logits.stride};
  arguments.bias = bias.as<const float>();
  arguments.ids = {routing.ids.data, routing.ids.stride};
  arguments.weights = {routing.weights.data, routing.weights.stride};
  arguments.scoring = ScoringOf(spec.scoring);
  arguments.num_groups = static_cast<int>(spec.num_groups);
  arguments.groups_per_token = static_cast<int>(spec.groups_per_token);
  arguments.group_top = static_cast<int>(spec.group_top);
  arguments.normalize = spec.normalize;
  arguments.scale = spec.scale;
  arguments.jitter = spec.jitter;
  LaunchRoute(arguments, StreamOf(context));
  Launched("choose experts");
}

}  // namespace tessera::cuda
