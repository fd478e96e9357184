// The details of an update, or their defaults where it has none.

#ifndef TESSERA_TESTS_COORDINATOR_SCHED_DETAILS_OF_H_
#define TESSERA_TESTS_COORDINATOR_SCHED_DETAILS_OF_H_

#include "coordinator/sched/event.h"

namespace tessera::testing {

inline const RequestUpdate::Details& DetailsOf(const RequestUpdate& update) {
  static const RequestUpdate::Details none;
  return update.details.has_value() ? *update.details : none;
}

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_COORDINATOR_SCHED_DETAILS_OF_H_
