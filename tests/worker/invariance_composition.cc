// A scheduler in small, with chance in the place of policy.

#include "tests/worker/invariance_composition.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "worker/plan_check.h"

namespace tessera {
namespace {

using cluster::v1::SequenceReset;
using cluster::v1::StepPlan;

constexpr int kRequestsMax = 4;
constexpr int64_t kStepsMax = 2000;

}  // namespace

Composition::Composition(const std::vector<ScriptedRequest>& script, RankGroup& group,
                         uint64_t seed, PlantedFault fault, CompositionCounts& counts)
    : script_(script), group_(group), fault_(fault), counts_(counts), random_(seed) {
  for (uint32_t num_blocks : group.limits().num_blocks) {
    blocks_.push_back(
        {.references = std::vector<int>(num_blocks, 0), .cache = {}, .cached_as = {}});
  }
  const int count = 1 + static_cast<int>(random_() % kRequestsMax);
  for (int i = 0; i < count; ++i) {
    Sequence sequence;
    sequence.request = static_cast<int>(random_() % script.size());
    sequence.known = script[sequence.request].num_prompt_tokens;
    waiting_.push_back(std::move(sequence));
  }
}

const ScriptedChoice& Composition::ChoiceOf(const Sequence& sequence) const {
  return script_[sequence.request].choices[sequence.choice];
}

absl::Status Composition::Run() {
  group_.Clear();
  for (uint64_t step = 1; !live_.empty() || !waiting_.empty(); ++step) {
    if (step > kStepsMax) return absl::DeadlineExceededError("the composition does not end");
    plan_.Clear();
    rows_.clear();
    plan_.set_step(step);
    if (!live_.empty() && Chance(12)) Preempt(random_() % live_.size());
    while (!waiting_.empty() && (live_.empty() || Chance(2))) Admit();
    PlanRows();
    if (rows_.empty()) {
      // The one that was asked last does not fit.
      Preempt(random_() % live_.size());
      continue;
    }
    for (uint64_t id : std::exchange(finished_, {})) plan_.add_finished_sequences(id);
    ++counts_.steps;
    const absl::StatusOr<PlanOutcome> outcome = group_.Execute(plan_);
    if (!outcome.ok()) return outcome.status();
    TESSERA_RETURN_IF_ERROR(Compare(*outcome));
    Advance();
  }
  return absl::OkStatus();
}

void Composition::Preempt(size_t live) {
  ++counts_.preemptions;
  Sequence sequence = std::move(live_[live]);
  live_.erase(live_.begin() + static_cast<int64_t>(live));
  Release(sequence);
  finished_.push_back(sequence.id);
  sequence.tables.clear();
  waiting_.push_back(std::move(sequence));
}

void Composition::Admit() {
  Sequence sequence = std::move(waiting_.front());
  waiting_.pop_front();
  const int64_t block_size = group_.limits().block_size;
  sequence.id = next_id_++;
  sequence.fresh = true;
  sequence.long_rope = group_.IsLong(sequence.known);
  sequence.draw_step = 0;
  // At least one token is computed. Sometimes less than there is is taken.
  const bool scores = script_[sequence.request].sampling.prompt_logprobs() > 0;
  int64_t hit = 0;
  for (int64_t end = block_size; end < sequence.known && !scores && !Chance(8); end += block_size) {
    ++hit;
  }
  while (!IsCached(sequence, hit)) --hit;
  TakeHit(sequence, hit);
  bool room = true;
  for (size_t group = 0; group < blocks_.size(); ++group) room = room && Free(group) > 0;
  if (fault_ == PlantedFault::kHitTooLong && room && sequence.computed + 1 < sequence.known) {
    ++sequence.computed;
    for (size_t group = 0; group < blocks_.size(); ++group) {
      sequence.tables[group].push_back(Allocate(group));
    }
    ++counts_.faults;
  }
  live_.push_back(std::move(sequence));
}

std::vector<int32_t> Composition::KeyOf(const Sequence& sequence, int64_t end) const {
  const std::vector<int32_t>& text = ChoiceOf(sequence).text;
  std::vector<int32_t> key(text.begin(), text.begin() + end);
  if (sequence.long_rope && fault_ != PlantedFault::kSharedNames) key.push_back(-1);
  return key;
}

bool Composition::IsCached(const Sequence& sequence, int64_t blocks) const {
  const int64_t block_size = group_.limits().block_size;
  for (size_t group = 0; group < blocks_.size(); ++group) {
    for (int64_t block = FirstVisible(group, blocks * block_size); block < blocks; ++block) {
      const std::vector<int32_t> key = KeyOf(sequence, (block + 1) * block_size);
      if (blocks_[group].cache.count(key) == 0) return false;
    }
  }
  return true;
}

void Composition::TakeHit(Sequence& sequence, int64_t blocks) {
  const int64_t block_size = group_.limits().block_size;
  sequence.tables.resize(blocks_.size());
  for (size_t group = 0; group < blocks_.size(); ++group) {
    std::vector<int>& references = blocks_[group].references;
    const int64_t first = FirstVisible(group, blocks * block_size);
    for (int64_t index = 0; index < blocks; ++index) {
      uint32_t block = kNoBlock;
      if (index >= first) {
        block = blocks_[group].cache.at(KeyOf(sequence, (index + 1) * block_size));
        if (fault_ == PlantedFault::kStaleHit && Chance(2)) {
          block = static_cast<uint32_t>((block + 1) % references.size());
          ++counts_.faults;
        }
        ++references[block];
        ++counts_.hits;
      }
      sequence.tables[group].push_back(block);
    }
  }
  sequence.computed = blocks * block_size;
}

void Composition::PlanRows() {
  std::vector<size_t> order(live_.size());
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random_);
  for (size_t live : order) {
    if (!Chance(4)) PlanRow(live);
  }
  if (rows_.empty() && !order.empty()) PlanRow(order[0]);
}

void Composition::CopyOnWrite(Sequence& sequence, size_t group, size_t index) {
  const uint32_t to = Allocate(group);
  const uint32_t from = std::exchange(sequence.tables[group][index], to);
  --blocks_[group].references[from];
  sequence.fresh = true;
  ++counts_.copies;
  if (fault_ == PlantedFault::kForgottenCopy) {
    ++counts_.faults;
    return;
  }
  cluster::v1::BlockCopy* copy = plan_.add_copies();
  copy->set_kv_group(static_cast<uint32_t>(group));
  copy->set_from_block(from);
  copy->set_to_block(to);
}

bool Composition::Extend(Sequence& sequence, int64_t end) {
  const int64_t block_size = group_.limits().block_size;
  const size_t first = static_cast<size_t>(sequence.computed / block_size);
  const size_t wanted = static_cast<size_t>(BlocksFor(end, block_size));
  const auto is_shared = [&](size_t group) {
    const std::vector<uint32_t>& table = sequence.tables[group];
    return first < table.size() && blocks_[group].references[table[first]] > 1;
  };
  for (size_t group = 0; group < blocks_.size(); ++group) {
    const size_t held = sequence.tables[group].size();
    const int64_t more = static_cast<int64_t>(wanted - std::min(wanted, held));
    if (Free(group) < more + (is_shared(group) ? 1 : 0)) return false;
  }
  for (size_t group = 0; group < blocks_.size(); ++group) {
    if (is_shared(group)) CopyOnWrite(sequence, group, first);
    std::vector<uint32_t>& table = sequence.tables[group];
    while (table.size() < wanted) table.push_back(Allocate(group));
  }
  return true;
}

bool Composition::PlanRow(size_t live) {
  Sequence& sequence = live_[live];
  const int64_t left = sequence.known - sequence.computed;
  const int64_t count = Chance(3) ? left : 1 + static_cast<int64_t>(random_() % left);
  const int64_t end = sequence.computed + count;
  const size_t had = sequence.tables[0].size();
  if (!Extend(sequence, end)) return false;
  const bool carried =
      left == 1 && sequence.draw_step != 0 && sequence.draw_step + 1 == plan_.step() && !Chance(5);
  // A reset is allowed at any time.
  if (!sequence.fresh && Chance(10)) {
    sequence.fresh = true;
    ++counts_.resets;
  }
  const std::vector<int32_t>& text = ChoiceOf(sequence).text;
  const bool samples = end == sequence.known;
  const uint32_t num_choices =
      sequence.forked ? 1 : static_cast<uint32_t>(script_[sequence.request].choices.size());
  plan_.add_sequence(sequence.id);
  plan_.add_num_new_tokens(count);
  plan_.add_start_position(sequence.computed);
  plan_.add_output(samples ? cluster::v1::OUTPUT_SAMPLE : cluster::v1::OUTPUT_NONE);
  plan_.add_num_choices(samples ? num_choices : 0);
  plan_.add_token_source(carried ? cluster::v1::TOKENS_LAST_SAMPLED : cluster::v1::TOKENS_EXPLICIT);
  if (carried) {
    plan_.add_source_step(sequence.draw_step);
    plan_.add_source_row(sequence.draw_row);
    ++counts_.carried;
  } else {
    for (int64_t p = sequence.computed; p < end; ++p) plan_.add_tokens(text[p]);
  }
  AddBlocks(sequence, sequence.fresh ? 0 : had);
  if (sequence.fresh) AddReset(sequence, carried);
  sequence.fresh = false;
  rows_.push_back({.live = live, .end = end, .num_choices = samples ? num_choices : 0});
  return true;
}

void Composition::AddBlocks(const Sequence& sequence, size_t held) {
  for (const std::vector<uint32_t>& whole : sequence.tables) {
    std::vector<uint32_t> table(whole.begin() + static_cast<int64_t>(held), whole.end());
    if (sequence.fresh) DamageTable(sequence, table);
    plan_.add_num_new_blocks(table.size());
    for (uint32_t block : table) plan_.add_block_ids(block);
  }
}

void Composition::DamageTable(const Sequence& sequence, std::vector<uint32_t>& table) {
  const int64_t full = sequence.computed / group_.limits().block_size;
  if (fault_ != PlantedFault::kWrongBlock || full == 0) return;
  uint32_t& block = table[random_() % full];
  if (block == kNoBlock) return;
  block = static_cast<uint32_t>((block + 1) % blocks_[0].references.size());
  ++counts_.faults;
}

void Composition::AddReset(const Sequence& sequence, bool carried) {
  const ScriptedRequest& request = script_[sequence.request];
  SequenceReset* reset = plan_.add_resets();
  reset->set_row(static_cast<uint32_t>(rows_.size()));
  reset->set_choice(sequence.choice);
  reset->set_long_rope(sequence.long_rope);
  reset->set_num_prompt_tokens(request.num_prompt_tokens);
  *reset->mutable_sampling() = request.sampling;
  if (!ReadsTokens(request.sampling)) return;
  const std::vector<int32_t>& text = ChoiceOf(sequence).text;
  // A carried token is not known when such a plan is made.
  reset->mutable_history()->Assign(text.begin(), text.begin() + sequence.known - (carried ? 1 : 0));
}

absl::Status Composition::Compare(const PlanOutcome& outcome) {
  const StepInput& input = group_.input();
  size_t logits = 0;
  size_t draw = 0;
  for (size_t i = 0; i < rows_.size(); ++i) {
    const Sequence& sequence = live_[rows_[i].live];
    const ScriptedChoice& choice = ChoiceOf(sequence);
    const std::string where = absl::StrCat("step ", plan_.step(), ", row ", i, ", request ",
                                           sequence.request, ", choice ", sequence.choice);
    for (; logits < outcome.logits.size(); ++logits) {
      const int32_t token = input.output_token[logits];
      if (token >= input.query_begin[i + 1]) break;
      const int32_t position = input.positions[token];
      const std::vector<float>& wanted =
          group_.IsLong(sequence.known) ? choice.long_logits[position] : choice.logits[position];
      if (std::memcmp(outcome.logits[logits].data(), wanted.data(), wanted.size() * 4) != 0) {
        return absl::DataLossError(absl::StrCat(where, ": other logits at position ", position));
      }
    }
    counts_.scored += input.num_prompt_scores[i];
    for (uint32_t k = 0; k < rows_[i].num_choices; ++k, ++draw) {
      const std::vector<int32_t>& text =
          script_[sequence.request].choices[sequence.choice + k].text;
      const int32_t drawn = outcome.drawn[draw];
      ++counts_.samples;
      if (drawn != text[rows_[i].end]) {
        return absl::DataLossError(absl::StrCat(where, ": drew ", drawn, " for choice ",
                                                sequence.choice + k, ", alone ",
                                                text[rows_[i].end]));
      }
    }
  }
  return absl::OkStatus();
}

void Composition::Advance() {
  std::vector<Sequence> forks;
  std::vector<bool> ended(live_.size(), false);
  for (size_t i = 0; i < rows_.size(); ++i) {
    Sequence& sequence = live_[rows_[i].live];
    sequence.computed = rows_[i].end;
    CacheFullBlocks(sequence);
    DropBehindWindows(sequence);
    const uint32_t num_choices = rows_[i].num_choices;
    if (num_choices == 0) continue;
    ++sequence.known;
    if (num_choices == 1) {
      sequence.draw_step = plan_.step();
      sequence.draw_row = static_cast<uint32_t>(i);
    }
    sequence.forked = true;
    for (uint32_t choice = 1; choice < num_choices; ++choice) {
      Sequence fork = sequence;
      fork.id = next_id_++;
      fork.choice = choice;
      fork.fresh = true;
      fork.draw_step = 0;
      Hold(fork);
      forks.push_back(std::move(fork));
    }
  }
  live_.insert(live_.end(), forks.begin(), forks.end());
  const auto over = [this](const Sequence& sequence) {
    if (sequence.known < static_cast<int64_t>(ChoiceOf(sequence).text.size())) return false;
    Release(sequence);
    finished_.push_back(sequence.id);
    return true;
  };
  live_.erase(std::remove_if(live_.begin(), live_.end(), over), live_.end());
  SwitchRopes();
}

void Composition::SwitchRopes() {
  for (size_t live = live_.size(); live-- > 0;) {
    if (live_[live].long_rope || !group_.IsLong(live_[live].known)) continue;
    ++counts_.switched;
    if (fault_ == PlantedFault::kNoSwitch) {
      ++counts_.faults;
      continue;
    }
    Preempt(live);
  }
}

void Composition::CacheFullBlocks(const Sequence& sequence) {
  const int64_t block_size = group_.limits().block_size;
  for (size_t group = 0; group < blocks_.size(); ++group) {
    Blocks& blocks = blocks_[group];
    for (int64_t end = block_size; end <= sequence.computed; end += block_size) {
      const uint32_t block = sequence.tables[group][end / block_size - 1];
      if (block == kNoBlock || blocks.cached_as.count(block) != 0) continue;
      std::vector<int32_t> key = KeyOf(sequence, end);
      if (!blocks.cache.try_emplace(key, block).second) continue;
      blocks.cached_as[block] = std::move(key);
    }
  }
}

int64_t Composition::FirstVisible(size_t group, int64_t position) const {
  const int64_t window = group_.limits().windows[group];
  if (window == 0 || position < window) return 0;
  return (position + 1 - window) / group_.limits().block_size;
}

void Composition::DropBehindWindows(Sequence& sequence) {
  for (size_t group = 0; group < blocks_.size(); ++group) {
    int64_t first = FirstVisible(group, sequence.computed);
    const int64_t full = sequence.computed / group_.limits().block_size;
    if (fault_ == PlantedFault::kDroppedEarly && first > 0 && first < full) {
      ++first;
      ++counts_.faults;
    }
    for (int64_t index = 0; index < first; ++index) {
      uint32_t& block = sequence.tables[group][index];
      if (block == kNoBlock) continue;
      --blocks_[group].references[block];
      block = kNoBlock;
      ++counts_.dropped;
    }
  }
}

int64_t Composition::Free(size_t group) const {
  const std::vector<int>& references = blocks_[group].references;
  return std::count(references.begin(), references.end(), 0);
}

uint32_t Composition::Allocate(size_t group) {
  Blocks& blocks = blocks_[group];
  // From a random place on, so that tables are in no order.
  size_t block = random_() % blocks.references.size();
  for (size_t i = 0; blocks.references[block] != 0; ++i) {
    TESSERA_CHECK(i < blocks.references.size()) << "no free block";
    block = (block + 1) % blocks.references.size();
  }
  blocks.references[block] = 1;
  const auto cached = blocks.cached_as.find(static_cast<uint32_t>(block));
  if (cached != blocks.cached_as.end()) {
    blocks.cache.erase(cached->second);
    blocks.cached_as.erase(cached);
  }
  return static_cast<uint32_t>(block);
}

void Composition::Hold(const Sequence& sequence) {
  for (size_t group = 0; group < sequence.tables.size(); ++group) {
    for (uint32_t block : sequence.tables[group]) {
      if (block != kNoBlock) ++blocks_[group].references[block];
    }
  }
}

void Composition::Release(const Sequence& sequence) {
  for (size_t group = 0; group < sequence.tables.size(); ++group) {
    for (uint32_t block : sequence.tables[group]) {
      if (block != kNoBlock) --blocks_[group].references[block];
    }
  }
}

}  // namespace tessera
