// See the header.

#include "coordinator/lost_groups.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tessera {
namespace {

absl::Status Lost(const std::string& why) {
  return absl::UnavailableError(absl::StrCat("the model is not served any more: ", why));
}

}  // namespace

LostGroups::LostGroups(size_t groups, int ranks) : ranks_(ranks), groups_(groups) {}

void LostGroups::Apply(const Notice& notice) {
  Group& group = groups_.at(notice.group);
  switch (notice.kind) {
    case Notice::Kind::kReady:
      group.ready_epoch = std::max(group.ready_epoch, notice.epoch);
      group.load_failed = false;
      break;
    case Notice::Kind::kLost:
      group.lost_epoch = std::max(group.lost_epoch, notice.epoch);
      break;
    case Notice::Kind::kLoadFailed:
      group.load_failed = true;
      break;
    case Notice::Kind::kLeft:
      // Epoch 0: it held no rank.
      if (notice.epoch > 0) seats_[notice.worker] = {notice.group, notice.rank};
      return;
    default:
      return;
  }
  Judge();
}

void LostGroups::OnWorkerGone(const WorkerGone& gone) {
  const bool is_known = std::any_of(gone_.begin(), gone_.end(), [&](const WorkerGone& known) {
    return known.worker == gone.worker;
  });
  if (is_known) return;
  gone_.push_back(gone);
  Judge();
}

void LostGroups::Judge() {
  int64_t free = static_cast<int64_t>(groups_.size()) * ranks_ - std::ssize(gone_);
  for (const Group& group : groups_) free -= group.is_ready() ? ranks_ : 0;
  for (uint32_t index = 0; index < groups_.size(); ++index) {
    Group& group = groups_[index];
    if (group.is_ready()) {
      if (std::exchange(group.is_lost, false)) changes_.push_back({index, absl::OkStatus()});
    } else if (!group.is_lost && (free < ranks_ || group.load_failed)) {
      group.is_lost = true;
      changes_.push_back({index, Lost(group.load_failed ? "it cannot be loaded again, see the log"
                                                        : WhyTooFew(index))});
    }
  }
}

std::string LostGroups::WhyTooFew(uint32_t group) const {
  TESSERA_CHECK(!gone_.empty()) << "there is one worker per rank";
  for (auto gone = gone_.rbegin(); gone != gone_.rend(); ++gone) {
    const auto seat = seats_.find(gone->worker);
    if (seat == seats_.end() || seat->second.group != group) continue;
    return absl::StrCat("rank ", seat->second.rank, " (", gone->worker, ") ", gone->reason);
  }
  return absl::StrCat("too few workers are left: ", gone_.back().worker, " ", gone_.back().reason);
}

std::vector<LostGroups::Change> LostGroups::TakeChanges() { return std::exchange(changes_, {}); }

}  // namespace tessera
