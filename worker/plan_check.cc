// Checks of a plan, cheapest first: reserved fields, lengths of columns, then row by row. Called by
// the engine before it touches anything; messages read "StepPlan.<column>[<row>] = <met>,
// <wanted>".

#include "worker/plan_check.h"

#include <cmath>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tessera {
namespace {

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
  if (plan.source_step_size() != 0) return Reserved("source_step");
  if (plan.source_row_size() != 0) return Reserved("source_row");
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
  if (plan.tokens_size() > limits.tokens_max) {
    return absl::InvalidArgumentError(absl::StrCat("StepPlan.tokens has ", plan.tokens_size(),
                                                   " tokens, tokens_max is ", limits.tokens_max));
  }
  const int64_t groups = static_cast<int64_t>(limits.num_blocks.size());
  TESSERA_RETURN_IF_ERROR(CheckColumnLength("num_new_tokens", plan.num_new_tokens_size(), rows));
  TESSERA_RETURN_IF_ERROR(CheckColumnLength("start_position", plan.start_position_size(), rows));
  TESSERA_RETURN_IF_ERROR(CheckColumnLength("output", plan.output_size(), rows));
  TESSERA_RETURN_IF_ERROR(CheckColumnLength("num_choices", plan.num_choices_size(), rows));
  TESSERA_RETURN_IF_ERROR(CheckColumnLength("token_source", plan.token_source_size(), rows));
  TESSERA_RETURN_IF_ERROR(
      CheckColumnLength("num_new_blocks", plan.num_new_blocks_size(), rows * groups));
  int64_t tokens = 0;
  for (uint32_t n : plan.num_new_tokens()) tokens += n;
  TESSERA_RETURN_IF_ERROR(CheckColumnLength("tokens", plan.tokens_size(), tokens));
  int64_t blocks = 0;
  for (uint32_t n : plan.num_new_blocks()) blocks += n;
  return CheckColumnLength("block_ids", plan.block_ids_size(), blocks);
}

absl::Status CheckReservedSampling(const cluster::v1::SamplingParams& params) {
  if (params.min_p() != 0) return Reserved("resets.sampling.min_p");
  if (params.presence_penalty() != 0) return Reserved("resets.sampling.presence_penalty");
  if (params.frequency_penalty() != 0) return Reserved("resets.sampling.frequency_penalty");
  if (params.repetition_penalty() != 0 && params.repetition_penalty() != 1) {
    return Reserved("resets.sampling.repetition_penalty");
  }
  if (!params.logit_bias().empty()) return Reserved("resets.sampling.logit_bias");
  if (params.allowed_token_ids_size() != 0) return Reserved("resets.sampling.allowed_token_ids");
  if (params.banned_token_ids_size() != 0) return Reserved("resets.sampling.banned_token_ids");
  if (params.min_tokens() != 0) return Reserved("resets.sampling.min_tokens");
  if (params.top_logprobs() != 0) return Reserved("resets.sampling.top_logprobs");
  if (params.logprobs()) return Reserved("resets.sampling.logprobs");
  return absl::OkStatus();
}

absl::Status CheckReset(const SequenceReset& reset, const StepLimits& limits, int index) {
  const cluster::v1::SamplingParams& params = reset.sampling();
  TESSERA_RETURN_IF_ERROR(CheckReservedSampling(params));
  if (!std::isfinite(params.temperature()) || params.temperature() < 0) {
    return Bad("resets.sampling.temperature", index, absl::StrCat(params.temperature()),
               "must be finite and >= 0");
  }
  // A greedy row reads no top_p, so its default may stay.
  const bool draws = params.temperature() > 0;
  if (!(params.top_p() <= 1) || params.top_p() < 0 || (draws && params.top_p() == 0)) {
    return Bad("resets.sampling.top_p", index, absl::StrCat(params.top_p()), "must be in (0, 1]");
  }
  if (reset.num_prompt_tokens() > limits.context_max) {
    return Bad("resets.num_prompt_tokens", index, absl::StrCat(reset.num_prompt_tokens()),
               absl::StrCat("context_max is ", limits.context_max));
  }
  if (reset.history_size() > limits.context_max) {
    return Bad("resets.history", index, absl::StrCat(reset.history_size(), " tokens"),
               absl::StrCat("context_max is ", limits.context_max));
  }
  for (int32_t token : reset.history()) {
    if (token < 0 || token >= limits.vocab_size) {
      return Bad("resets.history", index, absl::StrCat("token ", token),
                 absl::StrCat("the vocabulary has ", limits.vocab_size));
    }
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

absl::Status CheckOutput(const StepPlan& plan, int row) {
  switch (plan.token_source(row)) {
    case cluster::v1::TOKENS_EXPLICIT:
      break;
    case cluster::v1::TOKENS_LAST_SAMPLED:
      return Reserved("token_source = TOKENS_LAST_SAMPLED");
    default:
      return Bad("token_source", row, absl::StrCat(plan.token_source(row)), "no such source");
  }
  switch (plan.output(row)) {
    case cluster::v1::OUTPUT_NONE:
      break;
    case cluster::v1::OUTPUT_SAMPLE:
      if (plan.num_choices(row) == 0) {
        return Bad("num_choices", row, "0", "a row with OUTPUT_SAMPLE needs 1");
      }
      break;
    case cluster::v1::OUTPUT_VERIFY_DRAFTS:
    case cluster::v1::OUTPUT_POOL:
      return Reserved(absl::StrCat("output = ", cluster::v1::OutputKind_Name(plan.output(row))));
    default:
      return Bad("output", row, absl::StrCat(plan.output(row)), "no such output");
  }
  if (plan.num_choices(row) > 1) return Reserved("num_choices > 1");
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

absl::Status CheckTokensAndBlocks(const StepPlan& plan, const StepLimits& limits) {
  for (int i = 0; i < plan.tokens_size(); ++i) {
    if (plan.tokens(i) < 0 || plan.tokens(i) >= limits.vocab_size) {
      return Bad("tokens", i, absl::StrCat(plan.tokens(i)),
                 absl::StrCat("the vocabulary has ", limits.vocab_size));
    }
  }
  const int groups = static_cast<int>(limits.num_blocks.size());
  int next = 0;
  for (int entry = 0; entry < plan.num_new_blocks_size(); ++entry) {
    const uint32_t pool = limits.num_blocks[entry % groups];
    for (uint32_t k = 0; k < plan.num_new_blocks(entry); ++k, ++next) {
      if (plan.block_ids(next) >= pool) {
        return Bad("block_ids", next, absl::StrCat(plan.block_ids(next)),
                   absl::StrCat("of row ", entry / groups, "; KvGroup ", entry % groups, " has ",
                                pool, " blocks"));
      }
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

}  // namespace

absl::Status CheckPlan(const StepPlan& plan, const StepLimits& limits,
                       const SequenceMap& sequences) {
  TESSERA_RETURN_IF_ERROR(CheckReserved(plan));
  TESSERA_RETURN_IF_ERROR(CheckColumns(plan, limits));
  std::vector<int> reset_of_row;
  TESSERA_RETURN_IF_ERROR(CheckResets(plan, limits, reset_of_row));
  absl::flat_hash_set<uint64_t> seen;
  seen.reserve(plan.sequence_size());
  size_t added = 0;
  for (int row = 0; row < plan.sequence_size(); ++row) {
    const uint64_t id = plan.sequence(row);
    if (!seen.insert(id).second) {
      return Bad("sequence", row, absl::StrCat(id), "an earlier row has the same sequence");
    }
    TESSERA_RETURN_IF_ERROR(CheckOutput(plan, row));
    const auto found = sequences.find(id);
    const SequenceState* known = nullptr;
    if (reset_of_row[row] == -1) {
      if (found == sequences.end()) {
        return Bad("sequence", row, absl::StrCat(id),
                   "unknown to this rank; its first row needs an entry in resets");
      }
      known = &found->second;
    } else if (found == sequences.end()) {
      ++added;
    }
    TESSERA_RETURN_IF_ERROR(CheckPositions(plan, limits, row, known));
  }
  if (sequences.size() + added > kSequencesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("this rank keeps ", sequences.size(), " sequences and the plan adds ", added,
                     ", at most ", kSequencesMax, "; name ended ones in finished_sequences"));
  }
  TESSERA_RETURN_IF_ERROR(CheckTokensAndBlocks(plan, limits));
  return CheckCopies(plan, limits);
}

}  // namespace tessera
