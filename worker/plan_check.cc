// Checks of a plan, cheapest first: reserved fields, lengths of columns, then row by row. Called by
// the engine before it touches anything; messages read "StepPlan.<column>[<row>] = <met>,
// <wanted>".

#include "worker/plan_check.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/scorer.h"

namespace tessera {
namespace {

using cluster::v1::SamplingParams;
using cluster::v1::SequenceReset;
using cluster::v1::StepPlan;

absl::Status Reserved(absl::string_view field) {
  return absl::UnimplementedError(
      absl::StrCat("StepPlan.", field, " is reserved in this protocol version; leave it unset"));
}

absl::Status Bad(absl::string_view column, int64_t row, absl::string_view met,
                 absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("StepPlan.", column, "[", row, "] = ", met, ", ", wanted));
}

absl::Status CheckReserved(const StepPlan& plan) {
  if (plan.micro_batch() != 0) return Reserved("micro_batch");
  if (plan.moves_size() != 0) return Reserved("moves");
  if (plan.mask_pending_size() != 0) return Reserved("mask_pending");
  if (plan.adapter_size() != 0) return Reserved("adapter");
  if (plan.embeds_size() != 0) return Reserved("embeds");
  if (plan.kv_shard_size() != 0) return Reserved("kv_shard");
  if (plan.drafts_size() != 0) return Reserved("drafts");
  return absl::OkStatus();
}

absl::Status CheckColumnLength(absl::string_view column, int64_t met, int64_t wanted) {
  if (met == wanted) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("StepPlan.", column, " has ", met, " entries, the plan's rows need ", wanted));
}

absl::Status CheckColumns(const StepPlan& plan, const StepLimits& limits) {
  const int64_t rows = plan.sequence_size();
  if (rows > limits.rows_max) {
    return absl::InvalidArgumentError(
        absl::StrCat("StepPlan.sequence has ", rows, " rows, rows_max is ", limits.rows_max));
  }
  const int64_t groups = static_cast<int64_t>(limits.num_blocks.size());
  TESSERA_RETURN_IF_ERROR(CheckColumnLength("num_new_tokens", plan.num_new_tokens_size(), rows));
  TESSERA_RETURN_IF_ERROR(CheckColumnLength("start_position", plan.start_position_size(), rows));
  TESSERA_RETURN_IF_ERROR(CheckColumnLength("output", plan.output_size(), rows));
  TESSERA_RETURN_IF_ERROR(CheckColumnLength("num_choices", plan.num_choices_size(), rows));
  TESSERA_RETURN_IF_ERROR(CheckColumnLength("token_source", plan.token_source_size(), rows));
  TESSERA_RETURN_IF_ERROR(
      CheckColumnLength("num_new_blocks", plan.num_new_blocks_size(), rows * groups));
  int64_t tokens = 0;   // explicit ones
  int64_t carried = 0;  // from the step before
  for (int row = 0; row < plan.sequence_size(); ++row) {
    if (plan.token_source(row) == cluster::v1::TOKENS_LAST_SAMPLED) {
      ++carried;
    } else {
      tokens += plan.num_new_tokens(row);
    }
  }
  TESSERA_RETURN_IF_ERROR(CheckColumnLength("tokens", plan.tokens_size(), tokens));
  TESSERA_RETURN_IF_ERROR(CheckColumnLength("source_step", plan.source_step_size(), carried));
  TESSERA_RETURN_IF_ERROR(CheckColumnLength("source_row", plan.source_row_size(), carried));
  if (tokens + carried > limits.tokens_max) {
    return absl::InvalidArgumentError(absl::StrCat("StepPlan.num_new_tokens sums up to ",
                                                   tokens + carried, " tokens, tokens_max is ",
                                                   limits.tokens_max));
  }
  int64_t blocks = 0;
  for (uint32_t n : plan.num_new_blocks()) blocks += n;
  return CheckColumnLength("block_ids", plan.block_ids_size(), blocks);
}

absl::Status CheckTokenIds(absl::string_view column, int reset,
                           const google::protobuf::RepeatedField<int32_t>& ids, int64_t size_max,
                           const StepLimits& limits) {
  if (ids.size() > size_max) {
    return Bad(column, reset, absl::StrCat(ids.size(), " tokens"),
               absl::StrCat("at most ", size_max));
  }
  for (int32_t id : ids) {
    if (id < 0 || id >= limits.vocab_size) {
      return Bad(column, reset, absl::StrCat("token ", id),
                 absl::StrCat("the vocabulary has ", limits.vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckNumbers(const SamplingParams& params, int reset) {
  const auto bad = [reset](absl::string_view name, float met, absl::string_view wanted) {
    return Bad(absl::StrCat("resets.sampling.", name), reset, absl::StrCat(met), wanted);
  };
  if (!std::isfinite(params.temperature()) || params.temperature() < 0) {
    return bad("temperature", params.temperature(), "must be finite and >= 0");
  }
  // A greedy row reads no top_p, so its default may stay.
  const bool draws = params.temperature() > 0;
  if (!(params.top_p() <= 1) || params.top_p() < 0 || (draws && params.top_p() == 0)) {
    return bad("top_p", params.top_p(), "must be in (0, 1]");
  }
  if (!(params.min_p() >= 0 && params.min_p() < 1)) {
    return bad("min_p", params.min_p(), "must be in [0, 1)");
  }
  if (!std::isfinite(params.presence_penalty())) {
    return bad("presence_penalty", params.presence_penalty(), "must be finite");
  }
  if (!std::isfinite(params.frequency_penalty())) {
    return bad("frequency_penalty", params.frequency_penalty(), "must be finite");
  }
  if (!std::isfinite(params.repetition_penalty()) || params.repetition_penalty() < 0) {
    return bad("repetition_penalty", params.repetition_penalty(), "must be finite and >= 0");
  }
  return absl::OkStatus();
}

absl::Status CheckRules(const SamplingParams& params, const StepLimits& limits, int reset) {
  for (const auto& [token, bias] : params.logit_bias()) {
    if (token < 0 || token >= limits.vocab_size || !std::isfinite(bias)) {
      return Bad("resets.sampling.logit_bias", reset, absl::StrCat("token ", token, ": ", bias),
                 absl::StrCat("must be finite, and the vocabulary has ", limits.vocab_size));
    }
  }
  const int64_t vocab = limits.vocab_size;
  TESSERA_RETURN_IF_ERROR(CheckTokenIds("resets.sampling.allowed_token_ids", reset,
                                        params.allowed_token_ids(), vocab, limits));
  TESSERA_RETURN_IF_ERROR(CheckTokenIds("resets.sampling.banned_token_ids", reset,
                                        params.banned_token_ids(), vocab, limits));
  TESSERA_RETURN_IF_ERROR(CheckTokenIds("resets.sampling.min_tokens_banned", reset,
                                        params.min_tokens_banned(), vocab, limits));
  if (params.min_tokens() > limits.context_max) {
    return Bad("resets.sampling.min_tokens", reset, absl::StrCat(params.min_tokens()),
               absl::StrCat("context_max is ", limits.context_max));
  }
  if (params.top_logprobs() > Scorer::kTopMax) {
    return Bad("resets.sampling.top_logprobs", reset, absl::StrCat(params.top_logprobs()),
               absl::StrCat("at most ", Scorer::kTopMax));
  }
  if (params.prompt_logprobs() > 1 + Scorer::kTopMax) {
    return Bad("resets.sampling.prompt_logprobs", reset, absl::StrCat(params.prompt_logprobs()),
               absl::StrCat("at most ", 1 + Scorer::kTopMax));
  }
  return absl::OkStatus();
}

absl::Status CheckReset(const SequenceReset& reset, const StepLimits& limits, int index) {
  const SamplingParams& params = reset.sampling();
  TESSERA_RETURN_IF_ERROR(CheckNumbers(params, index));
  TESSERA_RETURN_IF_ERROR(CheckRules(params, limits, index));
  if (reset.choice() >= kChoicesPerRowMax) {
    return Bad("resets.choice", index, absl::StrCat(reset.choice()),
               absl::StrCat("must be below ", kChoicesPerRowMax));
  }
  if (reset.num_prompt_tokens() > limits.context_max) {
    return Bad("resets.num_prompt_tokens", index, absl::StrCat(reset.num_prompt_tokens()),
               absl::StrCat("context_max is ", limits.context_max));
  }
  TESSERA_RETURN_IF_ERROR(
      CheckTokenIds("resets.history", index, reset.history(), limits.context_max, limits));
  const int64_t history_min = std::max<int64_t>(1, reset.num_prompt_tokens());
  if (ReadsTokens(params) && reset.history_size() < history_min) {
    return Bad("resets.history", index, absl::StrCat(reset.history_size(), " tokens"),
               absl::StrCat("its parameters read tokens, and the prompt has ", history_min));
  }
  return absl::OkStatus();
}

// reset_of_row[r] becomes the index of row r's reset, -1 without one.
absl::Status CheckResets(const StepPlan& plan, const StepLimits& limits,
                         std::vector<int>& reset_of_row) {
  const int rows = plan.sequence_size();
  reset_of_row.assign(rows, -1);
  for (int i = 0; i < plan.resets_size(); ++i) {
    const SequenceReset& reset = plan.resets(i);
    if (reset.row() >= static_cast<uint32_t>(rows)) {
      return Bad("resets.row", i, absl::StrCat(reset.row()),
                 absl::StrCat("the plan has ", rows, " rows"));
    }
    if (reset_of_row[reset.row()] != -1) {
      return Bad("resets.row", i, absl::StrCat(reset.row()), "this row has a reset already");
    }
    reset_of_row[reset.row()] = i;
    TESSERA_RETURN_IF_ERROR(CheckReset(reset, limits, i));
  }
  return absl::OkStatus();
}

absl::Status CheckOutput(const StepPlan& plan, int row, uint32_t choice) {
  switch (plan.output(row)) {
    case cluster::v1::OUTPUT_NONE:
      return absl::OkStatus();
    case cluster::v1::OUTPUT_SAMPLE:
      break;
    case cluster::v1::OUTPUT_VERIFY_DRAFTS:
    case cluster::v1::OUTPUT_POOL:
      return Reserved(absl::StrCat("output = ", cluster::v1::OutputKind_Name(plan.output(row))));
    default:
      return Bad("output", row, absl::StrCat(plan.output(row)), "no such output");
  }
  const uint32_t choices = plan.num_choices(row);
  if (choices == 0 || choices > kChoicesPerRowMax) {
    return Bad("num_choices", row, absl::StrCat(choices),
               absl::StrCat("a row with OUTPUT_SAMPLE needs 1 to ", kChoicesPerRowMax));
  }
  if (choices > 1 && choice != 0) {
    return Bad("num_choices", row, absl::StrCat(choices),
               absl::StrCat("sequence ", plan.sequence(row), " is choice ", choice,
                            "; only choice 0 draws for the others"));
  }
  return absl::OkStatus();
}

// `state`: the sequence as the rank knows it, whether or not the row resets it.
absl::Status CheckSource(const StepPlan& plan, int row, int source, const SequenceState* state) {
  switch (plan.token_source(row)) {
    case cluster::v1::TOKENS_EXPLICIT:
      return absl::OkStatus();
    case cluster::v1::TOKENS_LAST_SAMPLED:
      break;
    default:
      return Bad("token_source", row, absl::StrCat(plan.token_source(row)), "no such source");
  }
  if (plan.num_new_tokens(row) != 1) {
    return Bad("num_new_tokens", row, absl::StrCat(plan.num_new_tokens(row)),
               "a row with TOKENS_LAST_SAMPLED computes 1");
  }
  const uint64_t step = plan.source_step(source);
  if (step + 1 != plan.step()) {
    return Bad("source_step", source, absl::StrCat(step),
               absl::StrCat("of row ", row, "; must be the step before ", plan.step()));
  }
  const bool drew = state != nullptr && state->last_draw.step == step &&
                    state->last_draw.row == plan.source_row(source);
  if (!drew) {
    return Bad("source_row", source, absl::StrCat(plan.source_row(source)),
               absl::StrCat("of row ", row, "; that row of step ", step,
                            " did not sample a single choice of sequence ", plan.sequence(row)));
  }
  if (plan.start_position(row) != state->num_computed) {
    return Bad("start_position", row, absl::StrCat(plan.start_position(row)),
               absl::StrCat("the token that sequence ", plan.sequence(row),
                            " sampled last has position ", state->num_computed));
  }
  return absl::OkStatus();
}

// A row of a sequence whose tokens are kept, against what is known of them: known(p) is the token
// at position p < num_known. `first_token` is the row's place in StepPlan.tokens.
template <typename Known>
absl::Status CheckHistory(const StepPlan& plan, int row, int first_token, int64_t num_known,
                          const Known& known) {
  const int64_t start = plan.start_position(row);
  const int64_t end = start + plan.num_new_tokens(row);
  const bool carried = plan.token_source(row) == cluster::v1::TOKENS_LAST_SAMPLED;
  if (start > num_known || (carried && start != num_known)) {
    return Bad("start_position", row, absl::StrCat(start),
               absl::StrCat("the history of sequence ", plan.sequence(row), " has ", num_known,
                            " tokens"));
  }
  if (plan.output(row) == cluster::v1::OUTPUT_SAMPLE && end < num_known) {
    return Bad("output", row, "OUTPUT_SAMPLE",
               absl::StrCat("position ", end, " would be sampled, but the history of sequence ",
                            plan.sequence(row), " has ", num_known, " tokens"));
  }
  for (int64_t p = start; !carried && p < std::min(end, num_known); ++p) {
    const int token = first_token + static_cast<int>(p - start);
    if (plan.tokens(token) != known(p)) {
      return Bad("tokens", token, absl::StrCat(plan.tokens(token)),
                 absl::StrCat("of row ", row, "; the history of sequence ", plan.sequence(row),
                              " has ", known(p), " at position ", p));
    }
  }
  return absl::OkStatus();
}

// Where the tokens stand: contiguous with what is computed, inside the context, inside the table.
absl::Status CheckPositions(const StepPlan& plan, const StepLimits& limits, int row,
                            const SequenceState* known) {
  const int64_t start = plan.start_position(row);
  const int64_t new_tokens = plan.num_new_tokens(row);
  if (new_tokens < 1) return Bad("num_new_tokens", row, "0", "must be >= 1");
  if (known != nullptr && start != known->num_computed) {
    return Bad("start_position", row, absl::StrCat(start),
               absl::StrCat("sequence ", plan.sequence(row), " has ", known->num_computed,
                            " computed tokens"));
  }
  if (start + new_tokens > limits.context_max) {
    return Bad(
        "start_position", row, absl::StrCat(start),
        absl::StrCat("with ", new_tokens, " new tokens exceeds context_max ", limits.context_max));
  }
  const int64_t needed = BlocksFor(start + new_tokens, limits.block_size);
  const int64_t table_max = BlocksFor(limits.context_max, limits.block_size);
  const int groups = static_cast<int>(limits.num_blocks.size());
  for (int group = 0; group < groups; ++group) {
    const int64_t entry = static_cast<int64_t>(row) * groups + group;
    const int64_t held =
        known == nullptr ? 0 : static_cast<int64_t>(known->block_tables[group].size());
    const int64_t total = held + plan.num_new_blocks(static_cast<int>(entry));
    if (total < needed || total > table_max) {
      return Bad("num_new_blocks", entry,
                 absl::StrCat(plan.num_new_blocks(static_cast<int>(entry))),
                 absl::StrCat("row ", row, " of KvGroup ", group, " then has ", total,
                              " blocks; its ", start + new_tokens, " tokens need ", needed,
                              ", the context at most ", table_max));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTokens(const StepPlan& plan, const StepLimits& limits) {
  for (int i = 0; i < plan.tokens_size(); ++i) {
    if (plan.tokens(i) < 0 || plan.tokens(i) >= limits.vocab_size) {
      return Bad("tokens", i, absl::StrCat(plan.tokens(i)),
                 absl::StrCat("the vocabulary has ", limits.vocab_size));
    }
  }
  return absl::OkStatus();
}

// The new blocks of one row, from block_ids[next] on; `next` moves behind them.
absl::Status CheckBlocks(const StepPlan& plan, const StepLimits& limits, int row,
                         const SequenceState* known, int& next) {
  const int groups = static_cast<int>(limits.num_blocks.size());
  for (int group = 0; group < groups; ++group) {
    const uint32_t pool = limits.num_blocks[group];
    const int64_t window = limits.windows.empty() ? 0 : limits.windows[group];
    // Positions below it are seen by none of the row's tokens.
    const int64_t seen = plan.start_position(row) + int64_t{1} - window;
    const int64_t held =
        known == nullptr ? 0 : static_cast<int64_t>(known->block_tables[group].size());
    for (uint32_t k = 0; k < plan.num_new_blocks(row * groups + group); ++k, ++next) {
      const uint32_t block = plan.block_ids(next);
      if (block < pool) continue;
      if (block == kNoBlock && window > 0 && (held + k + 1) * limits.block_size <= seen) continue;
      const absl::string_view hint =
          block == kNoBlock ? "; a block may be missing only behind a window" : "";
      return Bad("block_ids", next, absl::StrCat(block),
                 absl::StrCat("of row ", row, "; KvGroup ", group, " has ", pool, " blocks", hint));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCopies(const StepPlan& plan, const StepLimits& limits) {
  for (int i = 0; i < plan.copies_size(); ++i) {
    const cluster::v1::BlockCopy& copy = plan.copies(i);
    if (copy.kv_group() >= limits.num_blocks.size()) {
      return Bad("copies.kv_group", i, absl::StrCat(copy.kv_group()),
                 absl::StrCat("the model has ", limits.num_blocks.size(), " KvGroups"));
    }
    const uint32_t pool = limits.num_blocks[copy.kv_group()];
    if (i >= static_cast<int64_t>(pool)) {
      return absl::InvalidArgumentError(absl::StrCat("StepPlan.copies has ", plan.copies_size(),
                                                     " entries, more than the ", pool, " blocks"));
    }
    if (copy.from_block() >= pool || copy.to_block() >= pool) {
      return Bad("copies", i, absl::StrCat(copy.from_block(), " -> ", copy.to_block()),
                 absl::StrCat("KvGroup ", copy.kv_group(), " has ", pool, " blocks"));
    }
  }
  if (plan.finished_sequences_size() > static_cast<int64_t>(kSequencesMax)) {
    return absl::InvalidArgumentError(absl::StrCat("StepPlan.finished_sequences has ",
                                                   plan.finished_sequences_size(),
                                                   " entries, at most ", kSequencesMax));
  }
  return absl::OkStatus();
}

// What the rows before have used up of the plan's columns and of the step's limits.
struct Cursor {
  int token = 0;           // in StepPlan.tokens
  int block = 0;           // in StepPlan.block_ids
  int source = 0;          // in source_step and source_row
  int64_t num_logits = 0;  // rows of logits
  int64_t num_draws = 0;
};

absl::Status CheckRow(const StepPlan& plan, const StepLimits& limits, int row,
                      const SequenceReset* reset, const SequenceState* state, Cursor& cursor) {
  // A reset makes the sequence new.
  const SequenceState* known = reset == nullptr ? state : nullptr;
  TESSERA_RETURN_IF_ERROR(
      CheckOutput(plan, row, reset != nullptr ? reset->choice() : known->sampling.choice));
  TESSERA_RETURN_IF_ERROR(CheckPositions(plan, limits, row, known));
  TESSERA_RETURN_IF_ERROR(CheckSource(plan, row, cursor.source, state));
  TESSERA_RETURN_IF_ERROR(CheckBlocks(plan, limits, row, known, cursor.block));
  if (reset != nullptr && ReadsTokens(reset->sampling())) {
    TESSERA_RETURN_IF_ERROR(CheckHistory(plan, row, cursor.token, reset->history_size(),
                                         [reset](int64_t p) { return reset->history(p); }));
  } else if (known != nullptr && !known->history.empty()) {
    TESSERA_RETURN_IF_ERROR(CheckHistory(plan, row, cursor.token, known->num_known,
                                         [known](int64_t p) { return known->history[p]; }));
  }
  if (plan.token_source(row) == cluster::v1::TOKENS_LAST_SAMPLED) {
    ++cursor.source;
  } else {
    cursor.token += plan.num_new_tokens(row);
  }
  const int64_t start = plan.start_position(row);
  const int64_t new_tokens = plan.num_new_tokens(row);
  const bool scores =
      reset != nullptr ? reset->sampling().prompt_logprobs() > 0 : known->prompt_scores > 0;
  const int64_t prompt = reset != nullptr ? reset->num_prompt_tokens() : known->num_prompt_tokens;
  if (scores) cursor.num_logits += ScoredPositions(start, new_tokens, prompt).size();
  if (plan.output(row) != cluster::v1::OUTPUT_SAMPLE) return absl::OkStatus();
  cursor.num_draws += plan.num_choices(row);
  ++cursor.num_logits;
  return absl::OkStatus();
}

}  // namespace

bool ReadsTokens(const SamplingParams& params) {
  return params.presence_penalty() != 0 || params.frequency_penalty() != 0 ||
         (params.repetition_penalty() != 0 && params.repetition_penalty() != 1) ||
         params.prompt_logprobs() > 0;
}

absl::Status CheckPlan(const StepPlan& plan, const StepLimits& limits,
                       const SequenceMap& sequences) {
  TESSERA_RETURN_IF_ERROR(CheckReserved(plan));
  TESSERA_RETURN_IF_ERROR(CheckColumns(plan, limits));
  std::vector<int> reset_of_row;
  TESSERA_RETURN_IF_ERROR(CheckResets(plan, limits, reset_of_row));
  TESSERA_RETURN_IF_ERROR(CheckTokens(plan, limits));
  absl::flat_hash_set<uint64_t> seen;
  seen.reserve(plan.sequence_size());
  size_t added = 0;
  Cursor cursor;
  for (int row = 0; row < plan.sequence_size(); ++row) {
    const uint64_t id = plan.sequence(row);
    if (!seen.insert(id).second) {
      return Bad("sequence", row, absl::StrCat(id), "an earlier row has the same sequence");
    }
    const auto found = sequences.find(id);
    const SequenceState* state = found == sequences.end() ? nullptr : &found->second;
    const SequenceReset* reset =
        reset_of_row[row] == -1 ? nullptr : &plan.resets(reset_of_row[row]);
    if (reset == nullptr && state == nullptr) {
      return Bad("sequence", row, absl::StrCat(id),
                 "unknown to this rank; its first row needs an entry in resets");
    }
    if (state == nullptr) ++added;
    TESSERA_RETURN_IF_ERROR(CheckRow(plan, limits, row, reset, state, cursor));
  }
  if (cursor.num_logits > limits.rows_max || cursor.num_draws > kStepDrawsMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "StepPlan.output asks for ", cursor.num_logits, " rows of logits and ", cursor.num_draws,
        " draws, at most ", limits.rows_max, " (rows_max) and ", kStepDrawsMax));
  }
  if (sequences.size() + added > kSequencesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("this rank keeps ", sequences.size(), " sequences and the plan adds ", added,
                     ", at most ", kSequencesMax, "; name ended ones in finished_sequences"));
  }
  return CheckCopies(plan, limits);
}

}  // namespace tessera
