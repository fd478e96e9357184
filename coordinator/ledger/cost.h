// What one request costs, part by part. A plain value, in the currency of the price book that made
// it.

#ifndef TESSERA_COORDINATOR_LEDGER_COST_H_
#define TESSERA_COORDINATOR_LEDGER_COST_H_

#include <string>

namespace tessera {

// The currency of what no price is known for.
inline constexpr char kNoCurrency[] = "none";

struct Cost {
  bool priced = false;  // false: no price is known for the device, and everything below is 0
  std::string currency = kNoCurrency;
  // What the tenant pays: device time, its share of the rest of the machine, energy.
  double input = 0;   // of computing the prompt, without its cached tokens
  double output = 0;  // of computing the answer
  double energy = 0;  // contained in both
  // What the cached prompt tokens would have cost at the price at which this request's own computed
  // ones were.
  double saved = 0;
  // What the house pays: tokens computed again or past the end, and requests that failed.
  double waste = 0;

  double total() const { return input + output; }
};

// Adds money that is of the same currency, or none. The sum has a price if anything in it has.
inline void AddCost(const Cost& cost, Cost* sum) {
  if (!cost.priced) return;
  sum->priced = true;
  sum->currency = cost.currency;
  sum->input += cost.input;
  sum->output += cost.output;
  sum->energy += cost.energy;
  sum->saved += cost.saved;
  sum->waste += cost.waste;
}

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_LEDGER_COST_H_
