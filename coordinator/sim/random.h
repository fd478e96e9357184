// The simulator's only source of chance: a small counter-based generator (splitmix64). The same
// seed gives the same numbers on every machine and with every standard library.

#ifndef TESSERA_COORDINATOR_SIM_RANDOM_H_
#define TESSERA_COORDINATOR_SIM_RANDOM_H_

#include <cmath>
#include <cstdint>

#include "absl/time/time.h"

namespace tessera::sim {

// A bijection that spreads every bit over all others.
constexpr uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(Mix(seed + kStep)) {}
  // A generator of its own, so that one use of chance does not shift another.
  Random Fork() { return Random(Next()); }

  uint64_t Next() { return Mix(state_ += kStep); }
  uint64_t Below(uint64_t n) { return n < 2 ? 0 : Next() % n; }
  int64_t Between(int64_t low, int64_t high) {  // both included
    return low + static_cast<int64_t>(Below(static_cast<uint64_t>(high - low + 1)));
  }
  bool Chance(double probability) { return Uniform() < probability; }
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }  // [0, 1)
  double Exponential() { return -std::log1p(-Uniform()); }                    // mean 1
  absl::Duration Between(absl::Duration low, absl::Duration high) {
    return low + (high - low) * Uniform();
  }

 private:
  static constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  uint64_t state_;
};

}  // namespace tessera::sim

#endif  // TESSERA_COORDINATOR_SIM_RANDOM_H_
