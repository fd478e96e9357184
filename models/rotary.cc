// See rotary.h.

#include "models/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace tessera {
namespace {

// Frequencies below the original context's are divided by the factor, those well above are kept,
// and between the two wavelengths the result is blended.
double Llama3Frequency(double frequency, const RopeScaling& scaling) {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  const double turns = static_cast<double>(scaling.original_context) / wavelength;
  if (turns < scaling.low_freq_factor) return frequency / scaling.factor;
  if (turns > scaling.high_freq_factor) return frequency;
  const double blend =
      (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1.0 - blend) * frequency / scaling.factor + blend * frequency;
}

// The pair, as a real number, that turns `turns` times over the original context.
double PairOf(double turns, const RotarySpec& rope) {
  const double context = static_cast<double>(rope.scaling.original_context);
  return static_cast<double>(rope.rotary_size) *
         std::log(context / (turns * 2.0 * std::numbers::pi)) / (2.0 * std::log(rope.theta));
}

// Blends by the pair's place between the borders that beta_fast and beta_slow draw.
class YarnBlend {
 public:
  explicit YarnBlend(const RotarySpec& rope) : factor_(rope.scaling.factor) {
    if (rope.scaling.kind != RopeScaling::Kind::kYarn) return;
    low_ = PairOf(rope.scaling.beta_fast, rope);
    high_ = PairOf(rope.scaling.beta_slow, rope);
    if (rope.scaling.truncate) {
      low_ = std::floor(low_);
      high_ = std::ceil(high_);
    }
    low_ = std::max(low_, 0.0);
    high_ = std::min(high_, static_cast<double>(rope.rotary_size - 1));
    // The reference's way around a division by zero.
    if (low_ == high_) high_ += 0.001;
  }
  double operator()(int64_t pair, double frequency) const {
    const double slow = std::clamp((static_cast<double>(pair) - low_) / (high_ - low_), 0.0, 1.0);
    return frequency / factor_ * slow + frequency * (1.0 - slow);
  }

 private:
  const double factor_;
  double low_ = 0.0;
  double high_ = 1.0;
};

}  // namespace

RotaryTable MakeRotaryTable(const RotarySpec& rope, bool is_long) {
  using Kind = RopeScaling::Kind;
  const RopeScaling& scaling = rope.scaling;
  const std::vector<double>& divisors = is_long ? scaling.long_factor : scaling.short_factor;
  TESSERA_CHECK(scaling.kind != Kind::kLongRope ||
                static_cast<int64_t>(divisors.size()) == rope.rotary_size / 2)
      << divisors.size() << " factors";
  const YarnBlend yarn(rope);
  RotaryTable table;
  for (int64_t pair = 0; pair < rope.rotary_size / 2; ++pair) {
    double frequency = std::pow(
        rope.theta, -2.0 * static_cast<double>(pair) / static_cast<double>(rope.rotary_size));
    if (scaling.kind == Kind::kLinear) frequency /= scaling.factor;
    if (scaling.kind == Kind::kLlama3) frequency = Llama3Frequency(frequency, scaling);
    if (scaling.kind == Kind::kYarn) frequency = yarn(pair, frequency);
    if (scaling.kind == Kind::kLongRope) frequency /= divisors[pair];
    table.inverse_frequencies.push_back(static_cast<float>(frequency));
  }
  table.attention_factor =
      static_cast<float>(is_long && scaling.kind == Kind::kLongRope ? scaling.long_attention_factor
                                                                    : scaling.attention_factor);
  return table;
}

}  // namespace tessera
