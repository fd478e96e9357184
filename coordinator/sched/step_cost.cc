// Least squares in three unknowns; see step_cost.h.

#include "coordinator/sched/step_cost.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace tessera {
namespace {

constexpr double kForgetting = 0.99;  // weight of the past at each step
constexpr double kRidge = 1e-6;       // keeps what was never varied at zero
// Brings the three terms to the same size.
constexpr double kTokensUnit = 256;
constexpr double kAttendedUnit = 1 << 20;

}  // namespace

void StepCost::Observe(double tokens, double attended, double seconds) {
  const Vector x = {1, tokens / kTokensUnit, attended / kAttendedUnit};
  for (size_t i = 0; i < 3; ++i) {
    for (size_t j = 0; j < 3; ++j) moments_[i][j] = kForgetting * moments_[i][j] + x[i] * x[j];
    products_[i] = kForgetting * products_[i] + x[i] * seconds;
  }
  ++num_observed_;
  stale_ = true;
}

// Gauss-Seidel on the normal equations with every coefficient kept at 0 or above: a step cannot
// become faster by more work.
const StepCost::Vector& StepCost::Coefficients() const {
  if (!stale_) return coefficients_;
  constexpr int kSweeps = 50;
  const double ridge = kRidge * (moments_[0][0] + moments_[1][1] + moments_[2][2]);
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    for (size_t i = 0; i < 3; ++i) {
      double rest = products_[i];
      for (size_t j = 0; j < 3; ++j) {
        if (j != i) rest -= moments_[i][j] * coefficients_[j];
      }
      coefficients_[i] = std::max(0.0, rest / (moments_[i][i] + ridge));
    }
  }
  stale_ = false;
  return coefficients_;
}

StepCost::Terms StepCost::terms() const {
  const Vector& c = Coefficients();
  return {.fixed = c[0], .per_token = c[1] / kTokensUnit, .per_pair = c[2] / kAttendedUnit};
}

double StepCost::Added(double tokens, double attended) const {
  const Vector& c = Coefficients();
  return c[1] * tokens / kTokensUnit + c[2] * attended / kAttendedUnit;
}

double StepCost::Predict(double tokens, double attended) const {
  return Coefficients()[0] + Added(tokens, attended);
}

int64_t StepCost::TokensWithin(double seconds, int64_t start, int64_t tokens_max) const {
  int64_t low = 0;  // fits
  int64_t high = tokens_max + 1;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    const double added = Added(static_cast<double>(middle), AttendedPairs(start, middle));
    (added <= seconds ? low : high) = middle;
  }
  return low;
}

}  // namespace tessera
