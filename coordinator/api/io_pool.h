// The I/O threads that all front doors share, and serial executors on them. A SerialExecutor keeps
// the queue alive, so that a wake from the engine after the server's end goes nowhere instead of
// wrong.

#ifndef TESSERA_COORDINATOR_API_IO_POOL_H_
#define TESSERA_COORDINATOR_API_IO_POOL_H_

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/time/time.h"

namespace tessera::api {

inline constexpr int kIoThreadsMax = 256;

using IoContext = boost::asio::io_context;
using IoStrand = boost::asio::strand<IoContext::executor_type>;

// Runs what is posted one after the other, on any of the pool's threads. Cheap to copy; any thread.
class SerialExecutor {
 public:
  SerialExecutor(std::shared_ptr<IoContext> io, IoStrand strand)
      : io_(std::move(io)), strand_(std::move(strand)) {}
  void Post(std::function<void()> work) const;
  const IoStrand& strand() const { return strand_; }

 private:
  std::shared_ptr<IoContext> io_;  // before strand_: outlives it
  IoStrand strand_;
};

class IoPool {
 public:
  explicit IoPool(int threads);
  ~IoPool();
  IoPool(const IoPool&) = delete;
  IoPool& operator=(const IoPool&) = delete;

  void Start();
  // No new work is awaited from here on: returns when everything posted is done, at latest after
  // `limit`.
  void Drain(absl::Duration limit);
  // Ends the threads. What is posted and has not run yet runs here, on the caller. Idempotent.
  void Stop();

  IoContext& io() { return *io_; }
  SerialExecutor MakeSerial() const;
  SerialExecutor SerialOn(IoStrand strand) const { return SerialExecutor(io_, std::move(strand)); }

 private:
  const int num_threads_;
  const std::shared_ptr<IoContext> io_;
  std::optional<boost::asio::executor_work_guard<IoContext::executor_type>> work_;
  std::vector<std::thread> threads_;
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_IO_POOL_H_
