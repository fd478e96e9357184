// Execute, top down: is this plan mine, may it run, what does it ask for, compute, sample, account.

#include "worker/engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "models/weight_spec.h"
#include "worker/probe.h"
#include "worker/step_output.h"

namespace tessera {
namespace {

using cluster::v1::DeviceInterval;
using cluster::v1::StepPlan;
using cluster::v1::StepResult;

// Reading the resident size costs microseconds, so not every step does.
constexpr absl::Duration kResidentInterval = absl::Milliseconds(250);

uint64_t Nanoseconds(absl::Duration duration) {
  return absl::ToInt64Nanoseconds(std::max(duration, absl::ZeroDuration()));
}

void SetError(const absl::Status& status, StepResult& result) {
  result.mutable_error()->set_code(static_cast<int32_t>(status.code()));
  result.mutable_error()->set_message(std::string(status.message()));
}

}  // namespace

Engine::Engine(EngineOptions options, Ops& ops, ThreadPool* threads,
               std::shared_ptr<const Weights> weights, std::unique_ptr<Communicator> comm,
               const Clock& clock, StepArrays arrays)
    : options_(std::move(options)),
      clock_(clock),
      ops_(ops),
      weights_(std::move(weights)),
      comm_(std::move(comm)),
      sampler_(ops, *comm_, weights_->vocab_begin, options_.spec.vocab_size),
      scorer_(ops, *comm_, weights_->vocab_begin),
      arrays_(std::move(arrays)),
      timer_(clock),
      last_end_(clock.Now()) {
  ctx_.threads = threads;
  ctx_.deterministic = options_.deterministic;
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(EngineOptions options, Ops& ops,
                                                       ThreadPool* threads,
                                                       std::shared_ptr<const Weights> weights,
                                                       std::unique_ptr<Communicator> comm,
                                                       const Clock& clock) {
  TESSERA_ASSIGN_OR_RETURN(StepArrays arrays, StepArrays::Create(ops, options.limits));
  std::unique_ptr<Engine> engine(new Engine(std::move(options), ops, threads, std::move(weights),
                                            std::move(comm), clock, std::move(arrays)));
  const EngineOptions& opts = engine->options_;
  const HeadShard heads = HeadsOf(opts.spec, engine->comm_->rank(), engine->comm_->size());
  const bool records = opts.record_decode && ops.CanRecord();
  if (records) engine->graphs_ = std::make_unique<DecodeGraphs>(ops, clock);
  const KvCacheOptions kv_options = {.dtype = opts.kv_dtype,
                                     .block_size = opts.limits.block_size,
                                     .num_blocks = opts.limits.num_blocks,
                                     .spare_block = records};
  TESSERA_ASSIGN_OR_RETURN(engine->kv_, KvCache::Create(ops, opts.spec, heads, kv_options));
  const DecoderParts parts = {.spec = opts.spec,
                              .weights = *engine->weights_,
                              .kv = *engine->kv_,
                              .ops = ops,
                              .comm = *engine->comm_};
  TESSERA_ASSIGN_OR_RETURN(engine->model_, NewDecoder(parts, opts.limits));
  const size_t workspace = std::max<size_t>(engine->model_->workspace_bytes(), 1);
  TESSERA_ASSIGN_OR_RETURN(engine->workspace_, ops.Allocate(workspace));
  engine->ctx_.workspace =
      engine->workspace_.View(DType::kUInt8, {static_cast<int64_t>(workspace)});
  return engine;
}

uint64_t Engine::activation_bytes() const {
  return model_->buffer_bytes() + arrays_.bytes() + workspace_.bytes();
}

absl::Status Engine::CheckIdentity(const StepPlan& plan) const {
  if (plan.term() != options_.term || plan.epoch() != options_.epoch ||
      plan.group() != options_.group) {
    return absl::FailedPreconditionError(
        absl::StrCat("plan of term ", plan.term(), ", epoch ", plan.epoch(), ", group ",
                     plan.group(), "; this rank serves term ", options_.term, ", epoch ",
                     options_.epoch, ", group ", options_.group));
  }
  if (plan.step() != last_step_ + 1) {
    return absl::FailedPreconditionError(
        absl::StrCat("StepPlan.step = ", plan.step(), ", expected ", last_step_ + 1));
  }
  return absl::OkStatus();
}

absl::Status Engine::Execute(const StepPlan& plan, StepResult& result) {
  const absl::Time begin = clock_.Now();
  result.Clear();
  result.set_term(options_.term);
  result.set_epoch(options_.epoch);
  result.set_group(options_.group);
  result.set_step(plan.step());
  result.set_rank(comm_->rank());

  absl::Status refused = CheckIdentity(plan);
  // A refused plan has still used its number: the next one is expected to follow it.
  if (refused.ok()) {
    last_step_ = plan.step();
    refused = CheckPlan(plan, options_.limits, sequences_);
  }
  absl::Status broken;
  if (refused.ok()) broken = Compute(plan, result);
  if (!refused.ok()) SetError(refused, result);
  if (!broken.ok()) SetError(broken, result);
  Account(begin, result);
  return broken;
}

absl::Status Engine::Compute(const StepPlan& plan, StepResult& result) {
  CopyBlocks(plan);
  if (plan.sequence_size() == 0) {
    ForgetFinished(plan, sequences_);
    // A heartbeat shows that every rank and the way between them make progress.
    timer_.Enter(DeviceInterval::COLLECTIVE);
    return comm_->Barrier(ctx_);
  }
  ApplyPlan(plan, options_.limits, sequences_, input_);
  TESSERA_ASSIGN_OR_RETURN(TensorView logits, Forward());
  timer_.Enter(DeviceInterval::SAMPLE);
  TESSERA_RETURN_IF_ERROR(sampler_.Sample(ctx_, drawn_, logits, input_.sampling));
  FillScoreRows(input_, drawn_, score_rows_);
  TESSERA_RETURN_IF_ERROR(scorer_.Score(ctx_, scores_, logits, score_rows_));
  TESSERA_RETURN_IF_ERROR(ops_.Synchronize(ctx_));
  timer_.Leave();
  result.set_expert_tokens(model_->TakeExpertLoad(ctx_));

  FillColumns(input_, drawn_, scores_, result);
  KeepDraws(plan, input_, drawn_, sequences_);
  // Only now: the draws point into their sequences.
  ForgetFinished(plan, sequences_);
  return absl::OkStatus();
}

absl::StatusOr<TensorView> Engine::Forward() {
  if (graphs_ == nullptr || !IsDecode(input_)) {
    return model_->Forward(ctx_, arrays_.Upload(ctx_, input_), timer_);
  }
  const StepLimits& limits = options_.limits;
  // Rows that stand for nothing would count as load of experts.
  const int64_t rows =
      options_.spec.moe.num_experts > 0
          ? input_.num_rows()
          : DecodeRowsBucket(input_.num_rows(),
                             std::min<int64_t>(limits.rows_max, limits.tokens_max));
  PadDecode(input_, rows, limits.num_blocks, BlocksFor(limits.context_max, limits.block_size),
            padded_);
  const std::vector<GroupStep>& steps = arrays_.Upload(ctx_, padded_);
  TESSERA_ASSIGN_OR_RETURN(const TensorView logits, graphs_->Run(ctx_, padded_, [&] {
    return model_->Forward(ctx_, steps, timer_);
  }));
  return logits.Rows(input_.num_rows());
}

void Engine::CopyBlocks(const StepPlan& plan) {
  // Runs of one KvGroup go together; order between groups does not matter, their pools are apart.
  std::vector<int32_t> from;
  std::vector<int32_t> to;
  for (int i = 0; i < plan.copies_size(); ++i) {
    from.push_back(static_cast<int32_t>(plan.copies(i).from_block()));
    to.push_back(static_cast<int32_t>(plan.copies(i).to_block()));
    const bool run_ends =
        i + 1 == plan.copies_size() || plan.copies(i + 1).kv_group() != plan.copies(i).kv_group();
    if (!run_ends) continue;
    kv_->Copy(ctx_, static_cast<int>(plan.copies(i).kv_group()), from, to);
    from.clear();
    to.clear();
  }
}

void Engine::Account(absl::Time begin, StepResult& result) {
  timer_.Report(result);
  const absl::Time end = clock_.Now();
  if (end - resident_measured_ > kResidentInterval) {
    resident_bytes_ = ProcessResidentBytes();
    resident_measured_ = end;
  }
  result.set_step_ns(Nanoseconds(end - begin));
  result.set_idle_before_ns(Nanoseconds(begin - last_end_));
  result.set_resident_bytes(resident_bytes_);
  last_end_ = end;
}

}  // namespace tessera
