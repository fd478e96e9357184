// See the header.

#include "tests/simulation/trace.h"

#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/sim/random.h"

namespace tessera::simulation {
namespace {

using cluster::v1::StepPlan;
using cluster::v1::StepResult;

std::string DescribeRequest(const Request& request) {
  const SamplingParams& sampling = request.sampling;
  std::string text =
      absl::StrCat("request ", request.public_id, " model ", request.model, " ", request.tenant,
                   " prompt ", request.prompt.size(), " max_tokens ", sampling.max_tokens);
  if (sampling.num_choices > 1) absl::StrAppend(&text, " n ", sampling.num_choices);
  if (sampling.has_stop_strings) absl::StrAppend(&text, " with stop strings");
  if (request.priority != 0) absl::StrAppend(&text, " priority ", request.priority);
  if (request.deadline != absl::InfiniteFuture()) {
    absl::StrAppend(&text, " deadline in ",
                    absl::FormatDuration(request.deadline - request.arrival));
  }
  return text;
}

std::string DescribeEvent(const Event& event) {
  if (const auto* e = std::get_if<NewRequest>(&event)) return DescribeRequest(*e->request);
  if (const auto* e = std::get_if<Cancel>(&event)) return absl::StrCat("cancel r", e->request);
  if (const auto* e = std::get_if<StepDone>(&event)) {
    const StepResult& result = e->rank_results.front();
    return absl::StrCat("answer group ", e->group, " epoch ", result.epoch(), " step ",
                        result.step(), ": ", absl::StrJoin(result.sampled(), " "));
  }
  if (const auto* e = std::get_if<TextStop>(&event)) {
    return absl::StrCat("text stop r", e->request, " choice ", e->choice, " at ", e->index);
  }
  if (const auto* e = std::get_if<TextEnd>(&event)) {
    return absl::StrCat("text end r", e->request, " choice ", e->choice);
  }
  if (const auto* e = std::get_if<GroupReady>(&event)) {
    return absl::StrCat("group ", e->group, " ready, epoch ", e->epoch, ", blocks ",
                        absl::StrJoin(e->num_blocks, " "));
  }
  if (const auto* e = std::get_if<GroupLost>(&event)) {
    return absl::StrCat("group ", e->group, " lost, epoch ", e->epoch, ": ", e->reason.message());
  }
  if (const auto* e = std::get_if<SetTenants>(&event)) {
    return absl::StrCat("tenants ", e->tenants.size());
  }
  return std::holds_alternative<Drain>(event) ? "drain" : "tick";
}

std::string DescribePlan(const StepPlan& plan) {
  std::string text =
      absl::StrCat("  plan group ", plan.group(), " epoch ", plan.epoch(), " step ", plan.step());
  const int groups =
      plan.sequence_size() == 0 ? 0 : plan.num_new_blocks_size() / plan.sequence_size();
  int next_block = 0;
  for (int row = 0; row < plan.sequence_size(); ++row) {
    absl::StrAppend(&text, "\n               seq ", plan.sequence(row), " [",
                    plan.start_position(row), ", ",
                    plan.start_position(row) + plan.num_new_tokens(row), ")");
    if (plan.token_source(row) == cluster::v1::TOKENS_LAST_SAMPLED) absl::StrAppend(&text, " last");
    if (plan.output(row) == cluster::v1::OUTPUT_SAMPLE) {
      absl::StrAppend(&text, " samples ", plan.num_choices(row));
    }
    for (const auto& reset : plan.resets()) {
      if (static_cast<int>(reset.row()) != row) continue;
      absl::StrAppend(&text, " reset ", reset.request_id(), " choice ", reset.choice());
    }
    for (int g = 0; g < groups; ++g) {
      const uint32_t added = plan.num_new_blocks(row * groups + g);
      if (added > 0) absl::StrAppend(&text, " blocks", g, ":");
      for (uint32_t i = 0; i < added; ++i) {
        absl::StrAppend(&text, " ", static_cast<int32_t>(plan.block_ids(next_block++)));
      }
    }
  }
  for (const auto& copy : plan.copies()) {
    absl::StrAppend(&text, "\n               copy", copy.kv_group(), ": ", copy.from_block(),
                    " to ", copy.to_block());
  }
  if (plan.finished_sequences_size() > 0) {
    absl::StrAppend(&text,
                    "\n               finished: ", absl::StrJoin(plan.finished_sequences(), " "));
  }
  return text;
}

}  // namespace

void Trace::Say(const std::string& text, absl::Time now) {
  if (out_ == nullptr) return;
  std::fprintf(out_, "%12.6f %s\n", absl::ToDoubleSeconds(now - absl::UnixEpoch()), text.c_str());
}

void Trace::Hash(uint64_t value) { hash_ = sim::Mix(hash_ * 31 + value + 1); }

template <typename Column>
void Trace::HashAll(const Column& column) {
  Hash(static_cast<uint64_t>(column.size()));
  for (const auto value : column) Hash(static_cast<uint64_t>(value));
}

void Trace::HashResult(const StepResult& result) {
  Hash(result.epoch());
  Hash(result.step());
  Hash(result.step_ns());
  Hash(result.idle_before_ns());
  HashAll(result.num_sampled());
  HashAll(result.sampled());
}

void Trace::Add(const Event& event, absl::Time now) {
  Hash(event.index());
  Hash(static_cast<uint64_t>(absl::ToUnixNanos(now)));
  if (const auto* e = std::get_if<NewRequest>(&event)) {
    Hash(e->request->id);
    HashAll(e->request->prompt);
    Hash(e->request->sampling.seed);
  } else if (const auto* e = std::get_if<Cancel>(&event)) {
    Hash(e->request);
  } else if (const auto* e = std::get_if<StepDone>(&event)) {
    Hash(e->group);
    for (const StepResult& result : e->rank_results) HashResult(result);
  } else if (const auto* e = std::get_if<TextStop>(&event)) {
    Hash(e->request << 20 ^ e->choice << 10 ^ e->index);
  } else if (const auto* e = std::get_if<TextEnd>(&event)) {
    Hash(e->request << 20 ^ e->choice);
  } else if (const auto* e = std::get_if<GroupReady>(&event)) {
    Hash(e->epoch);
  } else if (const auto* e = std::get_if<GroupLost>(&event)) {
    Hash(e->epoch);
  }
  if (out_ != nullptr) Say(DescribeEvent(event), now);
}

void Trace::Add(const StepPlan& plan, absl::Time now) {
  Hash(static_cast<uint64_t>(absl::ToUnixNanos(now)));
  Hash(plan.group());
  Hash(plan.epoch());
  Hash(plan.step());
  HashAll(plan.sequence());
  HashAll(plan.num_new_tokens());
  HashAll(plan.start_position());
  HashAll(plan.output());
  HashAll(plan.num_choices());
  HashAll(plan.token_source());
  HashAll(plan.tokens());
  HashAll(plan.num_new_blocks());
  HashAll(plan.block_ids());
  HashAll(plan.source_row());
  HashAll(plan.finished_sequences());
  for (const auto& reset : plan.resets()) {
    Hash(reset.row());
    Hash(reset.choice());
    HashAll(reset.history());
  }
  for (const auto& copy : plan.copies()) Hash(copy.from_block() * 131071u + copy.to_block());
  if (out_ != nullptr) Say(DescribePlan(plan), now);
}

void Trace::Add(const RequestUpdate& update, absl::Time now) {
  Hash(update.request << 8 ^ update.choice);
  HashAll(update.tokens());
  if (out_ == nullptr) return;
  std::string text = absl::StrCat("  update r", update.request, " choice ", update.choice, " from ",
                                  update.first_index, ": ", absl::StrJoin(update.tokens(), " "));
  if (update.ended) absl::StrAppend(&text, " ended ", FinishReasonName(update.reason));
  if (update.finished) {
    absl::StrAppend(&text, " finished ", FinishReasonName(update.reason), " ",
                    update.details->error.message(), " output ", update.details->output_tokens,
                    " cached ", update.details->cached_tokens);
  }
  Say(text, now);
}

void Trace::Add(const Notice& notice, absl::Time now) {
  if (out_ == nullptr || notice.kind == Notice::Kind::kPlan) return;
  Say(absl::StrCat("  notice ", NoticeKindName(notice.kind), " group ", notice.group, " epoch ",
                   notice.epoch, " ", notice.worker, " ", notice.text, " ",
                   notice.status.message()),
      now);
}

}  // namespace tessera::simulation
