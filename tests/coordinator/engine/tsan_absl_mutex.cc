// Tells ThreadSanitizer about absl::Mutex. The packaged Abseil is not instrumented, so that without
// this every field under an absl::Mutex looks like a race. Linked into tests by the tsan build
// only: each definition here takes the library's place, calls it, and reports the lock to the
// sanitizer.
//
// A condition is evaluated inside the library, on whichever thread hands the lock over; its reads
// are ordered by that lock and ignored here.

#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <string>

#include "absl/base/options.h"
#include "absl/synchronization/mutex.h"
#include "base/check.h"

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
}

#define TESSERA_STRING_INNER(x) #x
#define TESSERA_STRING(x) TESSERA_STRING_INNER(x)

namespace {

// The library's own function; `prefix` and `suffix` surround Abseil's inline namespace in its
// mangled name.
template <typename Function>
Function Next(const std::string& prefix, const std::string& suffix) {
  const std::string inline_namespace = TESSERA_STRING(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string name =
      prefix + std::to_string(inline_namespace.size()) + inline_namespace + suffix;
  void* symbol = dlsym(RTLD_NEXT, name.c_str());
  TESSERA_CHECK(symbol != nullptr) << name << " is not in the packaged Abseil";
  return reinterpret_cast<Function>(symbol);
}

}  // namespace

// In the supported ABIs a member function takes `this` as its first argument.
namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static const auto next = Next<void (*)(Mutex*)>("_ZN4absl", "5Mutex4LockEv");
  next(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  static const auto next = Next<void (*)(Mutex*)>("_ZN4absl", "5Mutex6UnlockEv");
  __tsan_release(this);
  next(this);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, absl::Duration timeout) {
  using Function = bool (*)(Mutex*, const Condition&, absl::Duration);
  static const auto next =
      Next<Function>("_ZN4absl", "5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  __tsan_release(this);
  const bool met = next(this, condition, timeout);
  __tsan_acquire(this);
  return met;
}

bool Condition::Eval() const {
  static const auto next = Next<bool (*)(const Condition*)>("_ZNK4absl", "9Condition4EvalEv");
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  const bool met = next(this);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  return met;
}

ABSL_NAMESPACE_END
}  // namespace absl
