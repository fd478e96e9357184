// How long a step takes, learned from the steps that were answered: seconds = a + b * tokens +
// c * attended, by least squares that forgets. `attended`: query-key pairs, the sum over rows of
// tokens times the positions they see. Used to size chunks and to refuse what cannot meet its
// deadline. Pure; one per group.

#ifndef TESSERA_COORDINATOR_SCHED_STEP_COST_H_
#define TESSERA_COORDINATOR_SCHED_STEP_COST_H_

#include <array>
#include <cstdint>

namespace tessera {

// Query-key pairs of `tokens` new tokens behind `start` others, causal.
constexpr double AttendedPairs(int64_t start, int64_t tokens) {
  return static_cast<double>(tokens) *
         (static_cast<double>(start) + (static_cast<double>(tokens) + 1) / 2);
}

// How long the last step with rows was thought to take, and took.
struct StepForecast {
  uint64_t count = 0;  // of steps for which both are known, since the start
  double predicted_seconds = 0;
  double measured_seconds = 0;
};

class StepCost {
 public:
  void Observe(double tokens, double attended, double seconds);
  // Seconds of a step, of every token and of every pair. All 0 until anything was observed.
  struct Terms {
    double fixed = 0;
    double per_token = 0;
    double per_pair = 0;
  };
  Terms terms() const;
  // Until so many steps were observed nothing is predicted.
  bool known() const { return num_observed_ >= kObservationsMin; }
  double Predict(double tokens, double attended) const;
  // What more tokens add to a step, without the step's own cost.
  double Added(double tokens, double attended) const;
  // The most tokens behind `start` others that add at most `seconds`; at least 0.
  int64_t TokensWithin(double seconds, int64_t start, int64_t tokens_max) const;

 private:
  static constexpr int64_t kObservationsMin = 8;
  using Vector = std::array<double, 3>;

  const Vector& Coefficients() const;

  std::array<Vector, 3> moments_ = {};  // decayed sum of x x^T, x = (1, tokens, attended) scaled
  Vector products_ = {};                // decayed sum of x * seconds
  int64_t num_observed_ = 0;
  mutable Vector coefficients_ = {};  // per scaled unit
  mutable bool stale_ = true;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_STEP_COST_H_
