// See the header. Steps of a group are computed in order, but a block may still not change hands
// before the last plan that names it was answered: that is the rule that makes freeing safe.

#include "tests/simulation/plan_shadow.h"

#include <algorithm>
#include <set>
#include <variant>

#include "absl/strings/str_cat.h"

namespace tessera::simulation {
namespace {

using cluster::v1::StepPlan;

constexpr uint32_t kNothing = 0xffffffff;  // a block behind the window

}  // namespace

void PlanShadow::Violate(const std::string& what) {
  violations_.Report(Checker::kShadow, absl::StrCat(where_, ": ", what));
}

int64_t PlanShadow::FirstVisible(const Pool& pool, int64_t position) const {
  if (pool.window == 0) return 0;
  return std::max<int64_t>(0, position - pool.window + 1) / options_.block_size;
}

// Tokens of a choice, the prompt included, at most.
int64_t PlanShadow::LengthMax(const Request& request) const {
  return std::min(static_cast<int64_t>(request.prompt.size()) + request.sampling.max_tokens,
                  options_.models[request.model].context_max);
}

void PlanShadow::Observe(const Event& event) {
  if (const auto* ready = std::get_if<GroupReady>(&event)) {
    Group& group = groups_[ready->group];
    if (ready->epoch <= group.epoch) return;
    group = Group();
    group.epoch = ready->epoch;
    group.ready = true;
    for (size_t g = 0; g < ready->num_blocks.size(); ++g) {
      const KvGroup& kv_group = options_.models[ready->model].kv_groups[g];
      const bool has_window = kv_group.kind == KvGroup::Kind::kWindow;
      group.pools.push_back(
          {has_window ? kv_group.window : 0, std::vector<Block>(ready->num_blocks[g])});
    }
  } else if (const auto* lost = std::get_if<GroupLost>(&event)) {
    const auto found = groups_.find(lost->group);
    if (found == groups_.end() || found->second.epoch != lost->epoch) return;
    found->second.ready = false;
    found->second.sequences.clear();
    found->second.under_way.clear();
  } else if (const auto* done = std::get_if<StepDone>(&event)) {
    if (done->rank_results.empty()) return;
    Group& group = groups_[done->group];
    const cluster::v1::StepResult& result = done->rank_results.front();
    if (result.epoch() != group.epoch || group.under_way.empty()) return;
    if (result.step() == group.under_way.front().step) group.under_way.pop_front();
  }
}

bool PlanShadow::TakeRow(const StepPlan& plan, int row, bool is_reset, int& next_block,
                         Group& group) {
  const uint64_t id = plan.sequence(row);
  const auto found = group.sequences.find(id);
  if (found == group.sequences.end()) {
    Violate(absl::StrCat("sequence ", id, " begins without a reset"));
    return false;
  }
  Sequence& sequence = found->second;
  if (!is_reset) CheckKept(id, sequence, group);
  const int groups = static_cast<int>(group.pools.size());
  for (int g = 0; g < groups; ++g) {
    for (uint32_t i = 0; i < plan.num_new_blocks(row * groups + g); ++i) {
      const uint32_t block = plan.block_ids(next_block++);
      if (block != kNothing && block >= group.pools[g].blocks.size()) {
        Violate(absl::StrCat("sequence ", id, " names block ", block));
        return false;
      }
      sequence.tables[g].push_back(block);
    }
  }
  const bool is_under_way =
      std::any_of(group.under_way.begin(), group.under_way.end(),
                  [&](const Plan& earlier) { return earlier.step == sequence.last_step; });
  sequence.oldest_start = is_under_way ? sequence.start : plan.start_position(row);
  sequence.start = plan.start_position(row);
  sequence.end = sequence.start + plan.num_new_tokens(row);
  sequence.last_step = plan.step();
  const BookedRequest* booked = book_.Find(sequence.request_id);
  if (booked != nullptr && sequence.end >= LengthMax(*booked->request)) {
    Violate(absl::StrCat("sequence ", id, " computes its last possible token"));
  }
  for (int g = 0; g < groups; ++g) {
    const int64_t held = static_cast<int64_t>(sequence.tables[g].size());
    if (held * options_.block_size < sequence.end) {
      Violate(
          absl::StrCat("sequence ", id, " has ", held, " blocks for ", sequence.end, " tokens"));
      return false;
    }
  }
  return true;
}

// What the sequence still sees of its old blocks must not have been written by others since.
void PlanShadow::CheckKept(uint64_t id, const Sequence& sequence, const Group& group) {
  for (size_t g = 0; g < group.pools.size(); ++g) {
    const Pool& pool = group.pools[g];
    const std::vector<uint32_t>& table = sequence.tables[g];
    const size_t used =
        static_cast<size_t>((sequence.end + options_.block_size - 1) / options_.block_size);
    for (size_t i = static_cast<size_t>(FirstVisible(pool, sequence.end)); i < used; ++i) {
      if (table[i] == kNothing) continue;
      const Block& block = pool.blocks[table[i]];
      if (block.writer != id && block.written > sequence.last_step) {
        Violate(absl::StrCat("block ", table[i], " of sequence ", id, " was written by sequence ",
                             block.writer, " in step ", block.written));
      }
    }
  }
}

void PlanShadow::Name(uint64_t id, const Sequence& sequence, const Group& group, Plan& plan) const {
  for (size_t g = 0; g < group.pools.size(); ++g) {
    const Pool& pool = group.pools[g];
    const std::vector<uint32_t>& table = sequence.tables[g];
    const int64_t last = (sequence.end - 1) / options_.block_size;
    const int64_t visible = FirstVisible(pool, sequence.start);
    // Blocks behind a window may be given back a whole block late.
    const int64_t held = FirstVisible(pool, sequence.oldest_start - options_.block_size + 1);
    for (int64_t i = held; i <= last; ++i) {
      const uint32_t block = table[static_cast<size_t>(i)];
      if (block == kNothing) continue;
      Named& named = plan.named[g][block];
      named.held = true;
      if (i < visible) continue;
      named.by_several |= named.sequence != 0 && named.sequence != id;
      named.sequence = id;
    }
  }
}

void PlanShadow::CheckWrites(uint64_t id, const Sequence& sequence, const Group& group) {
  for (size_t g = 0; g < group.pools.size(); ++g) {
    const int64_t last = (sequence.end - 1) / options_.block_size;
    for (int64_t i = sequence.start / options_.block_size; i <= last; ++i) {
      const uint32_t block = sequence.tables[g][static_cast<size_t>(i)];
      if (block == kNothing) {
        Violate(absl::StrCat("sequence ", id, " writes where it has no block"));
        continue;
      }
      for (const Plan& plan : group.under_way) {
        const Named& named = plan.named[g][block];
        if (!named.by_several && (named.sequence == 0 || named.sequence == id)) continue;
        Violate(absl::StrCat("sequence ", id, " writes block ", block, " of KvGroup ", g,
                             ", which step ", plan.step, " under way names for sequence ",
                             named.sequence, named.by_several ? " and others" : ""));
      }
    }
  }
}

void PlanShadow::MarkWrites(uint64_t id, const Sequence& sequence, uint64_t step, Group& group) {
  for (size_t g = 0; g < group.pools.size(); ++g) {
    const int64_t last = (sequence.end - 1) / options_.block_size;
    for (int64_t i = sequence.start / options_.block_size; i <= last; ++i) {
      const uint32_t block = sequence.tables[g][static_cast<size_t>(i)];
      if (block != kNothing) group.pools[g].blocks[block] = {id, step};
    }
  }
}

// A copy is there so that one row, told of its whole table, can write.
void PlanShadow::CheckCopies(const StepPlan& plan, const std::vector<bool>& is_reset,
                             const Group& group) {
  for (const cluster::v1::BlockCopy& copy : plan.copies()) {
    int takers = 0;
    for (int row = 0; row < plan.sequence_size(); ++row) {
      const auto found = group.sequences.find(plan.sequence(row));
      if (!is_reset[row] || found == group.sequences.end()) continue;
      const std::vector<uint32_t>& table = found->second.tables.at(copy.kv_group());
      takers += std::count(table.begin(), table.end(), copy.to_block()) > 0 ? 1 : 0;
    }
    if (takers != 1) {
      Violate(absl::StrCat("block ", copy.from_block(), " is copied to ", copy.to_block(), " for ",
                           takers, " rows"));
    }
  }
}

void PlanShadow::Observe(const StepPlan& plan) {
  where_ = absl::StrCat("group ", plan.group(), " epoch ", plan.epoch(), " step ", plan.step());
  Group& group = groups_[plan.group()];
  if (!group.ready || plan.epoch() != group.epoch || plan.term() != options_.term) {
    return Violate("a plan for another life of the group");
  }
  if (static_cast<int>(group.under_way.size()) >= options_.plans_in_flight_max) {
    Violate(absl::StrCat(group.under_way.size(), " plans are under way already"));
  }
  std::vector<bool> is_reset(static_cast<size_t>(plan.sequence_size()), false);
  for (const cluster::v1::SequenceReset& reset : plan.resets()) {
    if (reset.row() >= is_reset.size()) return Violate("a reset without a row");
    is_reset[reset.row()] = true;
    Sequence& sequence = group.sequences[plan.sequence(static_cast<int>(reset.row()))];
    sequence = Sequence();
    sequence.request_id = reset.request_id();
    sequence.choice = reset.choice();
    sequence.tables.resize(group.pools.size());
  }
  Plan now;
  now.step = plan.step();
  now.sequences.assign(plan.sequence().begin(), plan.sequence().end());
  for (const Pool& pool : group.pools) now.named.emplace_back(pool.blocks.size());
  int next_block = 0;
  for (int row = 0; row < plan.sequence_size(); ++row) {
    if (!TakeRow(plan, row, is_reset[row], next_block, group)) return;
    Name(plan.sequence(row), group.sequences.at(plan.sequence(row)), group, now);
  }
  for (const cluster::v1::BlockCopy& copy : plan.copies()) {
    now.named.at(copy.kv_group()).at(copy.from_block()).held = true;
  }
  group.under_way.push_back(std::move(now));
  CheckCopies(plan, is_reset, group);
  for (uint64_t id : plan.sequence()) CheckWrites(id, group.sequences.at(id), group);
  for (uint64_t id : plan.sequence()) {
    MarkWrites(id, group.sequences.at(id), plan.step(), group);
  }
  for (uint64_t id : plan.finished_sequences()) group.sequences.erase(id);
}

void PlanShadow::CheckStats(const SchedulerStats& stats) {
  for (const GroupStats& seen : stats.groups) {
    const auto found = groups_.find(seen.group);
    if (!seen.ready || found == groups_.end()) continue;
    where_ = absl::StrCat("group ", seen.group, " epoch ", found->second.epoch);
    CheckGroupStats(seen, found->second);
  }
}

// Whoever has a row under way runs. When as many run as have a row in the newest plan and have not
// ended, there are no others: nobody is admitted and not planned yet, nobody pauses.
std::vector<uint64_t> PlanShadow::AllRunning(const GroupStats& seen, const Group& group) {
  std::vector<uint64_t> running;
  if (group.under_way.empty()) return running;
  for (uint64_t id : group.under_way.back().sequences) {
    const auto found = group.sequences.find(id);
    if (found == group.sequences.end()) continue;
    const BookedRequest* booked = book_.Find(found->second.request_id);
    if (booked == nullptr || booked->end.has_value()) continue;
    const BookedChoice& choice = booked->choices.at(found->second.choice);
    if (!choice.ended && !choice.text_stop.has_value()) running.push_back(id);
  }
  if (static_cast<int64_t>(running.size()) != seen.running) running.clear();
  return running;
}

void PlanShadow::CheckGroupStats(const GroupStats& seen, const Group& group) {
  const std::vector<uint64_t> running = AllRunning(seen, group);
  for (size_t g = 0; g < group.pools.size(); ++g) {
    const int64_t total = static_cast<int64_t>(group.pools[g].blocks.size());
    const int64_t used = total - seen.blocks_free[g];
    if (seen.blocks_total[g] != total || seen.blocks_free[g] > total || seen.blocks_cached[g] < 0 ||
        seen.blocks_cached[g] > seen.blocks_free[g]) {
      Violate(absl::StrCat("counts ", seen.blocks_free[g], " free and ", seen.blocks_cached[g],
                           " cached of ", total, " blocks"));
      continue;
    }
    std::vector<bool> named(static_cast<size_t>(total));
    std::vector<bool> held(static_cast<size_t>(total));
    for (const Plan& plan : group.under_way) {
      for (size_t b = 0; b < named.size(); ++b) {
        named[b] = named[b] || plan.named[g][b].sequence != 0;
        held[b] = held[b] || plan.named[g][b].held;
      }
    }
    const int64_t least = std::count(named.begin(), named.end(), true);
    if (least > used) {
      Violate(absl::StrCat("plans under way name ", least, " blocks, ", used, " are in use"));
    }
    if (running.empty()) continue;
    for (uint64_t id : running) {
      for (uint32_t block : group.sequences.at(id).tables[g]) {
        if (block != kNothing) held[block] = true;
      }
    }
    const int64_t most = std::count(held.begin(), held.end(), true);
    if (used > most) {
      Violate(
          absl::StrCat(used, " blocks of KvGroup ", g, " are in use, at most ", most, " can be"));
    }
  }
}

void PlanShadow::CheckIdle(const SchedulerStats& stats) {
  for (const GroupStats& seen : stats.groups) {
    where_ = absl::StrCat("group ", seen.group);
    if (seen.ready && seen.blocks_free != seen.blocks_total) Violate("blocks are lost");
  }
}

}  // namespace tessera::simulation
