// Where drawn seeds and public ids come from: one generator per process, seeded once. Any thread.

#ifndef TESSERA_COORDINATOR_API_RANDOM_SOURCE_H_
#define TESSERA_COORDINATOR_API_RANDOM_SOURCE_H_

#include <cstdint>
#include <optional>
#include <random>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace tessera::api {

class RandomSource {
 public:
  // Without a seed the operating system gives one.
  explicit RandomSource(std::optional<uint64_t> seed)
      : generator_(seed.has_value() ? *seed : FromSystem()) {}

  uint64_t Next() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return generator_();
  }
  // "chatcmpl-0123456789abcdef01234567"
  std::string NextId(const std::string& prefix) {
    return absl::StrCat(prefix, absl::Hex(Next(), absl::kZeroPad16),
                        absl::Hex(Next() >> 32, absl::kZeroPad8));
  }

 private:
  static uint64_t FromSystem() {
    std::random_device device;
    return (uint64_t{device()} << 32) | device();
  }

  absl::Mutex mutex_;
  std::mt19937_64 generator_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_RANDOM_SOURCE_H_
