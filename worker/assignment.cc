// The stages in order; each ends early, with CANCELLED, when the inbox has something that ends the
// work.

#include "worker/assignment.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "worker/comm/comm_builder.h"

namespace tessera {
namespace {

using cluster::v1::Assign;
using cluster::v1::StepPlan;
using cluster::v1::StepResult;
using cluster::v1::WorkerMessage;

constexpr absl::Duration kProgressInterval = absl::Milliseconds(100);
// After a failed collective: how long the coordinator may take to say that the group is lost.
constexpr absl::Duration kVerdictDeadline = absl::Seconds(5);

absl::Status BadField(absl::string_view field, int64_t met, absl::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat("Assign.", field, " is ", met, ", ", wanted));
}

absl::Status CheckRange(absl::string_view field, int64_t met, int64_t max) {
  if (met >= 1 && met <= max) return absl::OkStatus();
  return BadField(field, met, absl::StrCat("must be 1 to ", max));
}

// One rank of a larger group, alone.
bool IsSoloShard(const Assign& assign) {
  return assign.comm() == cluster::v1::COMM_SOLO && assign.tp() > 1;
}

// On a CPU nothing else exists.
bool IsDeterministic(const Assign& assign, const Device& device) {
  return device.kind() == "cpu" || assign.deterministic();
}

// Everything that the bits of a result depend on, and nothing that differs between the ranks of a
// group.
std::string NumericsClass(const Assign& assign, const Device& device) {
  return absl::StrCat("weights=", assign.manifest_digest(), " device=", device.numerics(),
                      " dtype=", assign.dtype(), " kv_dtype=", assign.kv_dtype(),
                      IsSoloShard(assign) ? absl::StrCat(" solo_of=", assign.tp()) : "",
                      assign.quantize().empty() ? "" : " weights_in=", assign.quantize(),
                      " deterministic=", IsDeterministic(assign, device) ? 1 : 0);
}

}  // namespace

absl::Status CheckAssign(const Assign& assign) {
  if (assign.pp() > 1) {
    return absl::UnimplementedError("Assign.pp is reserved in this protocol version; send 1");
  }
  if (assign.rank() >= assign.tp()) {
    return BadField("rank", assign.rank(), absl::StrCat("must be below tp = ", assign.tp()));
  }
  TESSERA_RETURN_IF_ERROR(CheckRange("tp", assign.tp(), kReduceSlices));
  TESSERA_RETURN_IF_ERROR(CheckRange("block_size", assign.block_size(), kBlockSizeMax));
  TESSERA_RETURN_IF_ERROR(CheckRange("rows_max", assign.rows_max(), kStepRowsMax));
  TESSERA_RETURN_IF_ERROR(CheckRange("tokens_max", assign.tokens_max(), kStepTokensMax));
  TESSERA_RETURN_IF_ERROR(CheckRange("context_max", assign.context_max(), kContextMax));
  TESSERA_RETURN_IF_ERROR(ParseComputeDType("dtype", assign.dtype()).status());
  TESSERA_RETURN_IF_ERROR(ParseComputeDType("kv_dtype", assign.kv_dtype()).status());
  if (!assign.load_format().empty() && assign.load_format() != kDummyWeights) {
    return absl::UnimplementedError(absl::StrCat("Assign.load_format is '", assign.load_format(),
                                                 "'; this worker knows '' and 'dummy'"));
  }
  if (!assign.quantize().empty() && assign.quantize() != kFloat8Weights) {
    return absl::UnimplementedError(absl::StrCat("Assign.quantize is '", assign.quantize(),
                                                 "'; this worker knows '' and 'fp8'"));
  }
  const absl::Duration deadline = absl::Milliseconds(assign.step_deadline_ms());
  if (deadline < kStepDeadlineMin || deadline > kStepDeadlineMax) {
    return BadField("step_deadline_ms", assign.step_deadline_ms(), "must be 100 to 1800000");
  }
  return absl::OkStatus();
}

absl::Status Assignment::Run() {
  parts_.log.SetRank(assign_.group(), assign_.rank(), assign_.epoch());
  parts_.progress.epoch.store(assign_.epoch());
  absl::Status status = CheckAssign(assign_);
  if (status.ok()) status = Load();
  if (status.ok()) status = Connect();
  if (status.ok()) status = StartEngine();
  if (status.ok()) status = ServeSteps();
  engine_.reset();
  comm_.reset();
  if (!status.ok() && EndsGroupOnly(status)) {
    parts_.log.Warn("assignment over, weights kept: ", status.message());
    status = absl::OkStatus();
  }
  parts_.progress.epoch.store(0);
  parts_.log.ClearRank();
  return status;
}

bool Assignment::EndsGroupOnly(const absl::Status& status) const {
  // A lost peer and an interrupted wait look like this from here.
  if (!absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status) &&
      !absl::IsAborted(status) && !absl::IsCancelled(status)) {
    return false;
  }
  // The coordinator sees a lost peer too and says what is next; if it does not, the fault is ours.
  return parts_.inbox.SleepUnlessInterrupted(parts_.clock.Now() + kVerdictDeadline);
}

absl::Status Assignment::Load() {
  parts_.log.Info("assigned model=", assign_.model_name(), " tp=", assign_.tp(),
                  " dtype=", assign_.dtype(), " term=", assign_.term());
  if (assign_.load_format() == kDummyWeights) {
    parts_.log.Warn("weights are made up (load format dummy): answers are noise");
  }
  if (IsSoloShard(assign_)) {
    parts_.log.Warn("alone as rank ", assign_.rank(), " of ", assign_.tp(),
                    ": the other ranks' sums are missing, answers are not the model's");
  }
  const absl::Time begin = parts_.clock.Now();
  absl::Time next_report = begin;
  const auto progress = [&](uint64_t read, uint64_t total) -> absl::Status {
    if (parts_.inbox.interrupted()) return absl::CancelledError("the load was interrupted");
    const absl::Time now = parts_.clock.Now();
    if (now < next_report && read != total) return absl::OkStatus();
    next_report = now + kProgressInterval;
    WorkerMessage message;
    message.mutable_load_progress()->set_epoch(assign_.epoch());
    message.mutable_load_progress()->set_bytes_read(read);
    message.mutable_load_progress()->set_bytes_total(total);
    message.mutable_load_progress()->set_seconds(absl::ToDoubleSeconds(now - begin));
    link_.Send(message);
    return absl::OkStatus();
  };
  ExecContext ctx;
  ctx.threads = parts_.device.threads();
  TESSERA_ASSIGN_OR_RETURN(model_, parts_.store.Get(assign_, ctx, progress));
  const Weights& weights = *model_.model->weights;
  if (model_.reused) {
    parts_.log.Info("weights were in memory: ", weights.resident_bytes, " bytes");
  } else {
    parts_.log.Info("loaded ", model_.model->directory, ": read ", weights.bytes_read,
                    " bytes, resident ", weights.resident_bytes, " bytes, ",
                    absl::StrFormat("%.2f s, %.2f GB/s", weights.seconds,
                                    static_cast<double>(weights.bytes_read) * 1e-9 /
                                        std::max(weights.seconds, 1e-9)));
  }
  return absl::OkStatus();
}

absl::Status Assignment::Connect() {
  CommOptions options;
  options.kind = assign_.comm();
  options.rank = static_cast<int>(assign_.rank());
  options.size = static_cast<int>(assign_.tp());
  options.connect_deadline = kConnectDeadline;
  options.call_deadline = absl::Milliseconds(assign_.step_deadline_ms());
  if (assign_.comm() == cluster::v1::COMM_GLOO) {
    TESSERA_ASSIGN_OR_RETURN(options.gloo_host, AddressTowards(parts_.coordinator_address));
  }
  TESSERA_ASSIGN_OR_RETURN(CommBuilder builder, CommBuilder::Create(options, parts_.device.ops()));
  WorkerMessage message;
  message.mutable_comm_hello()->set_epoch(assign_.epoch());
  message.mutable_comm_hello()->set_rank(assign_.rank());
  message.mutable_comm_hello()->set_blob(builder.hello());
  link_.Send(message);
  TESSERA_ASSIGN_OR_RETURN(const cluster::v1::CommPeers peers,
                           parts_.inbox.TakePeers(parts_.clock.Now() + kPeersDeadline));
  const std::vector<std::string> blobs(peers.blobs().begin(), peers.blobs().end());
  TESSERA_ASSIGN_OR_RETURN(comm_, std::move(builder).Connect(blobs));
  return absl::OkStatus();
}

absl::Status Assignment::StartEngine() {
  EngineOptions options;
  options.term = assign_.term();
  options.epoch = assign_.epoch();
  options.group = assign_.group();
  options.spec = model_.model->spec;
  options.deterministic = IsDeterministic(assign_, parts_.device);
  // NCCL's watch and the host transports cannot be part of a recording.
  options.record_decode = assign_.comm() == cluster::v1::COMM_SOLO && !assign_.eager();
  TESSERA_ASSIGN_OR_RETURN(options.kv_dtype, ParseComputeDType("kv_dtype", assign_.kv_dtype()));
  options.limits.rows_max = assign_.rows_max();
  options.limits.tokens_max = assign_.tokens_max();
  options.limits.context_max = assign_.context_max();
  options.limits.block_size = assign_.block_size();
  options.limits.vocab_size = options.spec.vocab_size;
  options.limits.num_blocks.assign(assign_.num_blocks().begin(), assign_.num_blocks().end());
  for (const KvGroup& group : options.spec.kv_groups) {
    options.limits.windows.push_back(group.window);
  }
  TESSERA_ASSIGN_OR_RETURN(
      engine_, Engine::Create(std::move(options), parts_.device.ops(), parts_.device.threads(),
                              model_.model->weights, std::move(comm_), parts_.clock));
  return absl::OkStatus();
}

void Assignment::SendReady() {
  const Weights& weights = *model_.model->weights;
  WorkerMessage message;
  cluster::v1::Ready* ready = message.mutable_ready();
  ready->set_epoch(assign_.epoch());
  ready->set_bytes_read(model_.reused ? 0 : weights.bytes_read);
  ready->set_weight_bytes(weights.resident_bytes);
  ready->set_kv_bytes(engine_->kv_bytes());
  ready->set_load_seconds(model_.reused ? 0.0 : weights.seconds);
  ready->set_numerics_class(NumericsClass(assign_, parts_.device));
  link_.Send(message);
  parts_.log.Info("ready: weights ", weights.resident_bytes, " bytes, KV cache ",
                  engine_->kv_bytes(), " bytes, activations ", engine_->activation_bytes(),
                  " bytes, collectives by ", cluster::v1::CommKind_Name(assign_.comm()));
}

absl::Status Assignment::ComputeSteps(StepStream& steps) {
  StepPlan plan;
  StepResult result;
  absl::Status broken;
  while (broken.ok() && steps.Take(plan)) {
    for (const cluster::v1::SequenceReset& reset : plan.resets()) {
      parts_.log.Debug("request=", reset.request_id(), " choice=", reset.choice(),
                       " traceparent=", reset.traceparent(), " begins in step ", plan.step());
    }
    broken = engine_->Execute(plan, result);
    if (result.has_error()) {
      parts_.log.Warn("step ", plan.step(), " not computed: ", result.error().message());
    } else {
      parts_.progress.steps_finished.fetch_add(1);
    }
    const std::string news = engine_->TakeNews();
    if (!news.empty()) parts_.log.Info(news);
    if (!steps.Send(result)) break;
  }
  return broken;
}

absl::Status Assignment::ServeSteps() {
  grpc::ClientContext context;
  context.AddMetadata("tessera-worker-id", absl::StrCat(link_.welcome().worker_id()));
  context.AddMetadata("tessera-epoch", absl::StrCat(assign_.epoch()));
  const auto stream = link_.stub().Steps(&context);
  // Whatever ends the assignment ends the two waits of this loop: for a plan and inside a
  // collective.
  const Inbox::WakeScope scope(parts_.inbox, [this, &context] {
    context.TryCancel();
    engine_->Abort();
  });
  SendReady();
  absl::Status broken;
  {
    StepStream steps(*stream);
    broken = ComputeSteps(steps);
    if (!broken.ok()) {
      // The answer is the coordinator's to judge; cancelling at once could take it along.
      steps.CloseSending(kVerdictDeadline);
      parts_.inbox.SleepUnlessInterrupted(parts_.clock.Now() + kVerdictDeadline);
    }
    context.TryCancel();
  }
  const grpc::Status end = stream->Finish();
  if (!broken.ok()) return broken;
  if (parts_.inbox.interrupted()) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("the coordinator ended the step stream: ", end.error_message()));
}

}  // namespace tessera
