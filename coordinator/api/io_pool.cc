// The I/O threads, see io_pool.h.

#include "coordinator/api/io_pool.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "absl/time/clock.h"

namespace tessera::api {

void SerialExecutor::Post(std::function<void()> work) const {
  boost::asio::post(strand_, std::move(work));
}

IoPool::IoPool(int threads)
    : num_threads_(std::clamp(threads, 1, kIoThreadsMax)),
      io_(std::make_shared<IoContext>(num_threads_)),
      work_(boost::asio::make_work_guard(*io_)) {}

IoPool::~IoPool() { Stop(); }

void IoPool::Start() {
  for (int i = 0; i < num_threads_; ++i) {
    threads_.emplace_back([io = io_] { io->run(); });
  }
}

void IoPool::Drain(absl::Duration limit) {
  if (threads_.empty()) return;
  work_.reset();
  const absl::Time end = absl::Now() + limit;
  while (!io_->stopped() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(2));
}

void IoPool::Stop() {
  if (threads_.empty()) return;
  io_->stop();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  // What was posted and not run yet still lets go of what it owns, here and not at some later time.
  io_->restart();
  io_->poll();
}

SerialExecutor IoPool::MakeSerial() const {
  return SerialExecutor(io_, boost::asio::make_strand(*io_));
}

}  // namespace tessera::api
