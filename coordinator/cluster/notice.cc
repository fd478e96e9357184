// Names of notices.

#include "coordinator/cluster/notice.h"

#include "absl/strings/str_cat.h"

namespace tessera {

const char* NoticeKindName(Notice::Kind kind) {
  switch (kind) {
    case Notice::Kind::kJoined:
      return "joined";
    case Notice::Kind::kWaiting:
      return "waiting";
    case Notice::Kind::kPlan:
      return "plan";
    case Notice::Kind::kLoading:
      return "loading";
    case Notice::Kind::kReady:
      return "ready";
    case Notice::Kind::kLost:
      return "lost";
    case Notice::Kind::kLoadFailed:
      return "load_failed";
    case Notice::Kind::kLeft:
      return "left";
  }
  return "unknown";
}

std::string DeviceName(const cluster::v1::Hardware& hardware) {
  if (hardware.device() != "cpu") return hardware.device_name();
  return absl::StrCat("cpu ", hardware.device_name());
}

}  // namespace tessera
