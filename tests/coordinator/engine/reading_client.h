// A client of engine tests: takes the updates of one request as they come, on its own thread, and
// compares every token with the undisturbed answer.

#ifndef TESSERA_TESTS_COORDINATOR_ENGINE_READING_CLIENT_H_
#define TESSERA_TESTS_COORDINATOR_ENGINE_READING_CLIENT_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/engine/request_stream.h"
#include "tests/coordinator/sched/symbolic_model.h"

namespace tessera::testing {

class ReadingClient {
 public:
  static constexpr std::chrono::seconds kPatience{60};  // never reached unless something hangs

  ReadingClient(std::shared_ptr<const Request> request, int64_t context_max)
      : stream_(std::make_shared<RequestStream>([this] { Wake(); })), request_(std::move(request)) {
    for (uint32_t choice = 0; choice < request_->sampling.num_choices; ++choice) {
      choices_.push_back({.expected = ExpectedAnswer(*request_, context_max, choice)});
    }
  }

  struct Choice {
    Answer expected;
    std::vector<int32_t> tokens = {};
    bool ended = false;
  };

  const std::shared_ptr<RequestStream>& stream() const { return stream_; }
  const Request& request() const { return *request_; }
  const Choice& choice(uint32_t index) const { return choices_.at(index); }
  const std::optional<RequestUpdate>& end() const { return end_; }
  const std::vector<std::string>& violations() const { return violations_; }

  // Waits for more and takes it; false when nothing came in time.
  bool ReadMore() {
    {
      std::unique_lock lock(mutex_);
      if (!changed_.wait_for(lock, kPatience, [this] { return woken_; })) return false;
      woken_ = false;
    }
    TakeAll();
    return true;
  }
  bool ReadToEnd() {
    while (!end_.has_value()) {
      if (!ReadMore()) return false;
    }
    return true;
  }
  // What is there now.
  void TakeAll() {
    for (const RequestUpdate& update : stream_->Take()) Take(update);
  }

 private:
  void Wake() {
    // Notified under the lock: the client may be gone right after.
    std::lock_guard lock(mutex_);
    woken_ = true;
    changed_.notify_one();
  }
  void Violate(const std::string& what) {
    violations_.push_back(absl::StrCat("request ", request_->id, ": ", what));
  }
  void Take(const RequestUpdate& update) {
    if (end_.has_value()) Violate("an update after the terminal one");
    if (update.request != request_->id) Violate("an update of another request");
    Choice& choice = choices_.at(update.choice);
    if (choice.ended && (!update.tokens().empty() || update.ended)) Violate("more after an end");
    for (const int32_t token : update.tokens()) {
      const size_t index = choice.tokens.size();
      if (index >= choice.expected.tokens.size() || choice.expected.tokens[index] != token) {
        Violate(absl::StrCat("choice ", update.choice, " token ", index, " differs"));
      }
      choice.tokens.push_back(token);
    }
    if (update.ended) {
      choice.ended = true;
      // A stop string may end it anywhere.
      const bool complete = choice.tokens == choice.expected.tokens;
      if (!complete && !request_->sampling.has_stop_strings) Violate("ended too early");
    }
    if (update.finished) end_ = update;
  }

  const std::shared_ptr<RequestStream> stream_;
  const std::shared_ptr<const Request> request_;
  std::vector<Choice> choices_;
  std::optional<RequestUpdate> end_;
  std::vector<std::string> violations_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool woken_ = false;
};

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_COORDINATOR_ENGINE_READING_CLIENT_H_
