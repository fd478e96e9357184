// Philox4x32-10, the counter-based generator of Salmon et al. (SC'11), and the Gumbel noise that
// the sampler adds to logits. Pure functions: the noise of a token depends on nothing but the
// arguments, so any shard, batch or restarted rank draws the same. Used by every backend's Draw and
// by the tests.

#ifndef TESSERA_KERNELS_PHILOX_H_
#define TESSERA_KERNELS_PHILOX_H_

#include <array>
#include <cmath>
#include <cstdint>

namespace tessera {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

// Ten rounds of the bijection that `key` selects, applied to `counter`.
constexpr PhiloxCounter Philox4x32(PhiloxCounter counter, PhiloxKey key) {
  constexpr uint64_t kMultiply0 = 0xD2511F53u;
  constexpr uint64_t kMultiply1 = 0xCD9E8D57u;
  constexpr uint32_t kBump0 = 0x9E3779B9u;  // golden ratio
  constexpr uint32_t kBump1 = 0xBB67AE85u;  // sqrt(3) - 1
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiply0 * counter[0];
    const uint64_t product1 = kMultiply1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += kBump0;
    key[1] += kBump1;
  }
  return counter;
}

// What a stream of draws is for; the last counter word, so that two purposes never share numbers.
inline constexpr uint32_t kPhiloxSample = 0x53414D50u;  // "SAMP"

// The words of tokens 4 * group .. 4 * group + 3 at this place of this request.
constexpr PhiloxCounter GumbelWords(uint64_t seed, uint32_t position, uint32_t choice,
                                    uint32_t group) {
  return Philox4x32({group, position, choice, kPhiloxSample},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

// 1 - u, where u = (word + 0.5) * 2^-32 lies strictly inside (0, 1). Exact in double.
constexpr double OneMinusUniform(uint32_t word) { return (4294967295.5 - word) * 0x1p-32; }

// Standard Gumbel variate -log(-log(u)).
inline double GumbelFromWord(uint32_t word) {
  return -std::log(-std::log(1.0 - OneMinusUniform(word)));
}

inline double GumbelNoise(uint64_t seed, uint32_t position, uint32_t choice, uint32_t token) {
  return GumbelFromWord(GumbelWords(seed, position, choice, token >> 2)[token & 3]);
}

// Above every value of GumbelFromWord: the largest u is 1 - 2^-33, and -log(-log(1 - 2^-33))
// < 22.8739.
inline constexpr double kGumbelNoiseMax = 22.874;

}  // namespace tessera

#endif  // TESSERA_KERNELS_PHILOX_H_
