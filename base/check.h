// Invariants. TESSERA_CHECK(condition) << "context" ends the process with file, line and the text
// when the condition is false, in every build type. It is for broken invariants of our own code
// only: input from outside (requests, files, peers, flags) is answered with absl::Status instead.

#ifndef TESSERA_BASE_CHECK_H_
#define TESSERA_BASE_CHECK_H_

#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace tessera {

// Collects the message of a failed check and aborts when it goes out of scope.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition) {
    stream_ << file << ":" << line << ": check failed: " << condition << " ";
  }
  CheckFailure(const CheckFailure&) = delete;
  CheckFailure& operator=(const CheckFailure&) = delete;
  [[noreturn]] ~CheckFailure() {
    std::fprintf(stderr, "%s\n", stream_.str().c_str());
    std::fflush(stderr);
    std::abort();
  }
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

// Gives both arms of the conditional in TESSERA_CHECK the type void; & binds weaker than <<.
struct CheckVoidify {
  void operator&(std::ostream&) const {}
};

}  // namespace tessera

#define TESSERA_CHECK(condition)            \
  (condition) ? static_cast<void>(0)        \
              : ::tessera::CheckVoidify() & \
                    ::tessera::CheckFailure(__FILE__, __LINE__, #condition).stream()

#endif  // TESSERA_BASE_CHECK_H_
