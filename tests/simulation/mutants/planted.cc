// See planted.h.

#include "tests/simulation/mutants/planted.h"

#include <cstdlib>

namespace tessera {

int& PlantedNow() {
  static int now = [] {
    const char* value = std::getenv("TESSERA_PLANTED");
    return value == nullptr ? 0 : std::atoi(value);
  }();
  return now;
}

}  // namespace tessera
