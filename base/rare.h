// A value that is seldom there: one pointer wide, on the heap when it is made, copied and moved
// with its owner. For the cold part of a struct of which there are many.

#ifndef TESSERA_BASE_RARE_H_
#define TESSERA_BASE_RARE_H_

#include <memory>
#include <utility>

namespace tessera {

template <typename T>
class Rare {
 public:
  Rare() = default;
  Rare(const Rare& other)
      : value_(other.has_value() ? std::make_unique<T>(*other.value_) : nullptr) {}
  Rare(Rare&&) noexcept = default;
  Rare& operator=(Rare other) noexcept {
    value_ = std::move(other.value_);
    return *this;
  }

  bool has_value() const { return value_ != nullptr; }
  // Made with its defaults when it is not there yet.
  T& Make() {
    if (value_ == nullptr) value_ = std::make_unique<T>();
    return *value_;
  }
  // There must be one.
  T& operator*() { return *value_; }
  const T& operator*() const { return *value_; }
  T* operator->() { return value_.get(); }
  const T* operator->() const { return value_.get(); }

 private:
  std::unique_ptr<T> value_;
};

}  // namespace tessera

#endif  // TESSERA_BASE_RARE_H_
