// The order of logits as unsigned integers: a < b exactly when LogitKey(a) < LogitKey(b), and
// -0 equals +0. Ops::MassHistogram counts keys digit by digit; the sampler turns the digits
// back into a threshold.

#ifndef TESSERA_KERNELS_LOGIT_KEY_H_
#define TESSERA_KERNELS_LOGIT_KEY_H_

#include <bit>
#include <cstdint>

namespace tessera {

// Not for NaN, which has no place in the order.
constexpr uint32_t LogitKey(float logit) {
  const uint32_t bits = std::bit_cast<uint32_t>(logit + 0.0f);  // -0 becomes +0
  return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}

constexpr float LogitFromKey(uint32_t key) {
  return std::bit_cast<float>((key & 0x80000000u) ? key & 0x7fffffffu : ~key);
}

// Byte of `key` at `digit`; digit 3 is the top byte.
constexpr uint32_t LogitKeyDigit(uint32_t key, int digit) { return (key >> (8 * digit)) & 0xffu; }

// True when `key` agrees with `prefix` above `digit`.
constexpr bool LogitKeyMatches(uint32_t key, uint32_t prefix, int digit) {
  return digit == 3 || ((key ^ prefix) >> (8 * (digit + 1))) == 0;
}

}  // namespace tessera

#endif  // TESSERA_KERNELS_LOGIT_KEY_H_
