// See the header.

#include "tests/simulation/room_check.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tessera::simulation {
namespace {

// Blocks of whoever has just ended are pinned for as long as plans are under way, and who was told
// to leave leaves behind its last row.
constexpr uint64_t kSettleSteps = 5;

}  // namespace

RoomCheck::Requests RoomCheck::Count(uint32_t model) const {
  Requests requests;
  for (const auto& [id, booked] : book_.all()) {
    const Request& request = *booked.request;
    if (request.model != model || !booked.applied) continue;
    if (booked.end.has_value()) {
      ++requests.ended;
      continue;
    }
    const int64_t longest =
        std::min(static_cast<int64_t>(request.prompt.size()) + request.sampling.max_tokens,
                 options_.models[model].context_max);
    ++requests.open;
    requests.choices += request.sampling.num_choices;
    // Each choice on blocks of its own, and the rest of its last block wasted.
    requests.tokens += request.sampling.num_choices * (longest + 2 * options_.block_size);
  }
  return requests;
}

bool RoomCheck::HaveRoom(const Requests& requests, const GroupStats& group) const {
  const int64_t blocks = *std::min_element(group.blocks_total.begin(), group.blocks_total.end());
  return requests.choices <= options_.rows_max && requests.tokens <= blocks * options_.block_size;
}

void RoomCheck::Check(const SchedulerStats& stats) {
  for (const GroupStats& group : stats.groups) {
    const int64_t waiting = stats.models[group.model].waiting;
    const Requests requests =
        group.ready && waiting > 0 ? Count(group.model) : Requests();  // rarely looked at
    if (requests.open == 0 || !HaveRoom(requests, group)) {
      waits_.erase(group.group);
      continue;
    }
    const auto [wait, is_new] = waits_.try_emplace(group.group, Wait{requests, group.steps});
    if (wait->second.requests != requests) wait->second = {requests, group.steps};
    if (is_new || group.steps < wait->second.steps + kSettleSteps) continue;
    violations_.Report(Checker::kRoom,
                       absl::StrCat(waiting, " wait for group ", group.group,
                                    ", which has room for all ", requests.open, " that are open"));
  }
}

}  // namespace tessera::simulation
