// Stands in for base/check.h in the mutation build: a broken invariant is thrown, so that the
// simulation goes on to look for what an observer would have seen.

#ifndef TESSERA_TESTS_SIMULATION_MUTANTS_INCLUDE_BASE_CHECK_H_
#define TESSERA_TESTS_SIMULATION_MUTANTS_INCLUDE_BASE_CHECK_H_

#include <sstream>
#include <stdexcept>
#include <string>

namespace tessera {

struct CheckFailed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition) {
    stream_ << file << ":" << line << ": check failed: " << condition << " ";
  }
  [[noreturn]] ~CheckFailure() noexcept(false) { throw CheckFailed(stream_.str()); }
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

struct CheckVoidify {
  void operator&(std::ostream&) const {}
};

}  // namespace tessera

#define TESSERA_CHECK(condition)            \
  (condition) ? static_cast<void>(0)        \
              : ::tessera::CheckVoidify() & \
                    ::tessera::CheckFailure(__FILE__, __LINE__, #condition).stream()

#endif  // TESSERA_TESTS_SIMULATION_MUTANTS_INCLUDE_BASE_CHECK_H_
