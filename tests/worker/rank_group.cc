// Every step goes through the product's own plan check, step input and decoder; only the output
// list is widened to all tokens.

#include "tests/worker/rank_group.h"

#include <algorithm>
#include <numeric>
#include <thread>

#include "base/check.h"
#include "base/status.h"
#include "models/checkpoint.h"
#include "models/weight_spec.h"
#include "worker/comm/loopback.h"
#include "worker/sampler.h"

namespace tessera {

struct RankGroup::Rank {
  Rank(Ops& ops_in, std::unique_ptr<Communicator> comm_in, StepArrays arrays_in, const Clock& clock)
      : ops(ops_in), comm(std::move(comm_in)), arrays(std::move(arrays_in)), timer(clock) {}
  void Forward(const StepInput& input) {
    const auto computed = model->Forward(ctx, arrays.Upload(ctx, input), timer);
    TESSERA_CHECK(computed.ok()) << computed.status();
    view = *computed;
    logits.resize(static_cast<size_t>(view.size()));
    ops.CopyToHost(ctx, logits.data(), view.data, view.bytes());
  }
  Ops& ops;
  std::unique_ptr<Communicator> comm;
  StepArrays arrays;
  StepTimer timer;
  std::unique_ptr<Weights> weights;
  std::unique_ptr<KvCache> kv;
  std::unique_ptr<TextModel> model;
  Buffer workspace;
  ExecContext ctx;
  std::unique_ptr<Sampler> sampler;
  TensorView view;            // [L, Vs] logits of the last step
  std::vector<float> logits;  // the same, copied before anyone samples
  std::vector<int32_t> drawn;
};

RankGroup::~RankGroup() = default;

absl::StatusOr<std::unique_ptr<RankGroup>> RankGroup::Load(const std::string& model_dir,
                                                           const RankGroupOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(const auto checkpoint, options.dummy_weights
                                                      ? Checkpoint::WithoutWeights(model_dir)
                                                      : Checkpoint::Open(model_dir));
  std::unique_ptr<RankGroup> group(new RankGroup());
  TESSERA_ASSIGN_OR_RETURN(group->spec_, ParseModelSpec(checkpoint->config_json()));
  if (options.edit) options.edit(group->spec_);
  group->rope_switch_ = RopeSwitch(group->spec_, options.context_max);
  group->at_switch_ = options.at_switch;
  group->limits_ = {.rows_max = options.tokens_max,
                    .tokens_max = options.tokens_max,
                    .context_max = options.context_max,
                    .block_size = options.block_size,
                    .vocab_size = group->spec_.vocab_size,
                    .num_blocks = {}};
  for (const KvGroup& kv_group : group->spec_.kv_groups) {
    group->limits_.num_blocks.push_back(options.num_blocks);
    group->limits_.windows.push_back(kv_group.window);
  }
  group->all_blocks_.resize(options.num_blocks);
  std::iota(group->all_blocks_.begin(), group->all_blocks_.end(), 0);
  std::mt19937 random(options.shuffle_seed);
  std::shuffle(group->all_blocks_.begin(), group->all_blocks_.end(), random);
  group->Clear();

  std::vector<Ops*> ops;
  for (int rank = 0; rank < options.tp; ++rank) {
    TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<Ops> made,
                             options.new_ops ? options.new_ops() : NewCpuOps());
    ops.push_back(made.get());
    group->ops_.push_back(std::move(made));
  }
  std::vector<std::unique_ptr<Communicator>> comms = options.new_comms
                                                         ? options.new_comms(ops, absl::Seconds(60))
                                                         : NewLoopback(ops, absl::Seconds(60));
  for (int rank = 0; rank < options.tp; ++rank) {
    TESSERA_ASSIGN_OR_RETURN(StepArrays arrays, StepArrays::Create(*ops[rank], group->limits_));
    auto r = std::make_unique<Rank>(*ops[rank], std::move(comms[rank]), std::move(arrays),
                                    group->clock_);
    const WeightsOptions weights = {
        .rank = rank, .tp = options.tp, .dtype = options.dtype, .float8 = options.float8};
    TESSERA_ASSIGN_OR_RETURN(
        r->weights, LoadWeights(r->ops, r->ctx, group->spec_, *checkpoint, weights, group->clock_,
                                [](uint64_t, uint64_t) { return absl::OkStatus(); }));
    if (options.edit_weights) options.edit_weights(*r->weights);
    const KvCacheOptions kv = {.dtype = options.dtype,
                               .block_size = options.block_size,
                               .num_blocks = group->limits_.num_blocks};
    TESSERA_ASSIGN_OR_RETURN(
        r->kv, KvCache::Create(r->ops, group->spec_, HeadsOf(group->spec_, rank, options.tp), kv));
    TESSERA_ASSIGN_OR_RETURN(r->model, NewDecoder({.spec = group->spec_,
                                                   .weights = *r->weights,
                                                   .kv = *r->kv,
                                                   .ops = r->ops,
                                                   .comm = *r->comm},
                                                  group->limits_));
    r->sampler = std::make_unique<Sampler>(r->ops, *r->comm, r->weights->vocab_begin,
                                           group->spec_.vocab_size);
    TESSERA_ASSIGN_OR_RETURN(r->workspace, r->ops.Allocate(r->model->workspace_bytes()));
    r->ctx.deterministic = options.deterministic;
    r->ctx.workspace =
        r->workspace.View(DType::kUInt8, {static_cast<int64_t>(r->model->workspace_bytes())});
    group->ranks_.push_back(std::move(r));
  }
  return group;
}

RowTokens RankGroup::Planned(const RowTokens& row) {
  std::vector<int32_t>& text = texts_[row.sequence];
  text.insert(text.end(), row.tokens.begin(), row.tokens.end());
  RowTokens planned = row;
  const auto known = sequences_.find(row.sequence);
  const bool is_long = IsLong(static_cast<int64_t>(text.size()));
  if (known == sequences_.end()) {
    planned.long_rope = row.long_rope.value_or(is_long);
  } else if (is_long && !known->second.long_rope && at_switch_ != AtSwitch::kKeepShort) {
    planned.long_rope = true;
    if (at_switch_ == AtSwitch::kComputeAnew) planned.tokens = text;
  }
  return planned;
}

cluster::v1::StepPlan RankGroup::MakePlan(const std::vector<RowTokens>& rows) {
  cluster::v1::StepPlan plan;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto known = sequences_.find(rows[i].sequence);
    const std::vector<std::vector<int32_t>> none(free_blocks_.size());
    const auto& tables = known == sequences_.end() ? none : known->second.block_tables;
    const int64_t end = static_cast<int64_t>(texts_.at(rows[i].sequence).size());
    const int64_t held = static_cast<int64_t>(tables[0].size());
    const int64_t needed = BlocksFor(end, limits_.block_size);
    plan.add_sequence(rows[i].sequence);
    plan.add_num_new_tokens(rows[i].tokens.size());
    plan.add_start_position(end - static_cast<int64_t>(rows[i].tokens.size()));
    plan.add_output(cluster::v1::OUTPUT_SAMPLE);
    plan.add_num_choices(1);
    plan.add_token_source(cluster::v1::TOKENS_EXPLICIT);
    for (int32_t token : rows[i].tokens) plan.add_tokens(token);
    const bool reset =
        known == sequences_.end() ||
        rows[i].long_rope.value_or(known->second.long_rope) != known->second.long_rope;
    for (size_t group = 0; group < free_blocks_.size(); ++group) {
      plan.add_num_new_blocks(reset ? needed : needed - held);
      if (reset) {
        for (int32_t block : tables[group]) plan.add_block_ids(static_cast<uint32_t>(block));
      }
      std::vector<uint32_t>& free = free_blocks_[group];
      for (int64_t block = held; block < needed; ++block) {
        TESSERA_CHECK(!free.empty()) << "the test needs more blocks";
        plan.add_block_ids(free.back());
        free.pop_back();
      }
    }
    if (!reset) continue;
    plan.add_resets()->set_row(i);
    plan.mutable_resets()->rbegin()->set_long_rope(*rows[i].long_rope);
  }
  return plan;
}

std::vector<std::vector<std::vector<float>>> RankGroup::Step(const std::vector<RowTokens>& rows) {
  std::vector<RowTokens> planned;
  for (const RowTokens& row : rows) planned.push_back(Planned(row));
  const cluster::v1::StepPlan plan = MakePlan(planned);
  const absl::Status status = CheckPlan(plan, limits_, sequences_);
  TESSERA_CHECK(status.ok()) << status;
  ApplyPlan(plan, limits_, sequences_, input_);
  input_.output_token.resize(input_.tokens.size());
  std::iota(input_.output_token.begin(), input_.output_token.end(), 0);

  OnEveryRank([this](Rank& rank) { rank.Forward(input_); });

  std::vector<std::vector<std::vector<float>>> result(rows.size());
  size_t token = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    token += planned[i].tokens.size() - rows[i].tokens.size();
    for (size_t j = 0; j < rows[i].tokens.size(); ++j) result[i].push_back(LogitsOf(token++));
  }
  return result;
}

absl::StatusOr<PlanOutcome> RankGroup::Execute(const cluster::v1::StepPlan& plan) {
  TESSERA_RETURN_IF_ERROR(CheckPlan(plan, limits_, sequences_));
  ApplyPlan(plan, limits_, sequences_, input_);
  OnEveryRank([this, &plan](Rank& rank) {
    for (const cluster::v1::BlockCopy& copy : plan.copies()) {
      rank.kv->Copy(rank.ctx, static_cast<int>(copy.kv_group()),
                    {static_cast<int32_t>(copy.from_block())},
                    {static_cast<int32_t>(copy.to_block())});
    }
    rank.Forward(input_);
    const absl::Status sampled =
        rank.sampler->Sample(rank.ctx, rank.drawn, rank.view, input_.sampling);
    TESSERA_CHECK(sampled.ok()) << sampled;
  });
  PlanOutcome outcome = {.logits = {}, .drawn = ranks_[0]->drawn};
  for (const std::unique_ptr<Rank>& rank : ranks_) {
    if (rank->drawn != outcome.drawn) return absl::InternalError("the ranks drew different tokens");
  }
  for (size_t row = 0; row < input_.output_token.size(); ++row) {
    outcome.logits.push_back(LogitsOf(row));
  }
  KeepDraws(plan, input_, outcome.drawn, sequences_);
  ForgetFinished(plan, sequences_);
  return outcome;
}

std::vector<uint64_t> RankGroup::TakeExpertLoads() {
  std::vector<uint64_t> loads;
  for (const std::unique_ptr<Rank>& rank : ranks_) {
    loads.push_back(rank->model->TakeExpertLoad(rank->ctx));
  }
  return loads;
}

void RankGroup::OnEveryRank(const std::function<void(Rank&)>& work) {
  std::vector<std::thread> threads;
  for (size_t rank = 1; rank < ranks_.size(); ++rank) {
    threads.emplace_back([&work, r = ranks_[rank].get()] { work(*r); });
  }
  work(*ranks_[0]);
  for (std::thread& thread : threads) thread.join();
}

std::vector<float> RankGroup::LogitsOf(size_t row) const {
  std::vector<float> logits;
  for (const std::unique_ptr<Rank>& rank : ranks_) {
    const int64_t n = rank->weights->vocab_count;
    const auto begin = rank->logits.begin() + row * n;
    logits.insert(logits.end(), begin, begin + n);
  }
  return logits;
}

void RankGroup::Clear() {
  sequences_.clear();
  texts_.clear();
  free_blocks_.assign(spec_.kv_groups.size(), all_blocks_);
}

int32_t ArgMaxOf(const std::vector<float>& logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace tessera
