// TensorView: a non-owning look at memory of some device. Buffer: the owner. Neither knows what the
// numbers mean. Views are passed by value; the memory must outlive every op that uses it.

#ifndef TESSERA_KERNELS_TENSOR_H_
#define TESSERA_KERNELS_TENSOR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>

#include "base/check.h"
#include "base/dtype.h"

namespace tessera {

// Up to four dimensions, inner ones contiguous. Only the outermost may be strided, so a view can
// name a range of columns of a wider matrix: rows are `stride` elements apart.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int rank = 0;
  std::array<int64_t, 4> dims = {1, 1, 1, 1};
  int64_t stride = 0;  // elements between consecutive entries of dims[0]

  TensorView() = default;
  TensorView(void* data_in, DType dtype_in, std::initializer_list<int64_t> dims_in)
      : data(data_in), dtype(dtype_in), rank(static_cast<int>(dims_in.size())) {
    TESSERA_CHECK(rank <= 4) << "rank " << rank;
    int i = 0;
    for (int64_t d : dims_in) dims[i++] = d;
    stride = dims[1] * dims[2] * dims[3];
  }

  bool empty() const { return data == nullptr; }
  int64_t size() const { return dims[0] * dims[1] * dims[2] * dims[3]; }
  size_t bytes() const { return static_cast<size_t>(size()) * DTypeSize(dtype); }
  bool contiguous() const { return dims[0] <= 1 || stride == dims[1] * dims[2] * dims[3]; }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  // The first `n` entries of dims[0].
  TensorView Rows(int64_t n) const { return Rows(0, n); }
  TensorView Rows(int64_t begin, int64_t n) const {
    TESSERA_CHECK(begin >= 0 && n >= 0 && begin + n <= dims[0])
        << begin << "+" << n << " of " << dims[0];
    TensorView view = *this;
    view.data = static_cast<char*>(data) + begin * stride * static_cast<int64_t>(DTypeSize(dtype));
    view.dims[0] = n;
    return view;
  }
  // Columns [begin, begin + n) of a matrix.
  TensorView Columns(int64_t begin, int64_t n) const {
    TESSERA_CHECK(rank == 2 && begin >= 0 && begin + n <= dims[1])
        << begin << "+" << n << " of " << dims[1];
    TensorView view = *this;
    view.data = static_cast<char*>(data) + begin * static_cast<int64_t>(DTypeSize(dtype));
    view.dims[1] = n;
    return view;
  }
};

// Owns device memory; freed by the deleter of the Ops that made it.
class Buffer {
 public:
  using Deleter = std::function<void(void*)>;
  Buffer() : data_(nullptr, [](void*) {}), bytes_(0) {}
  Buffer(void* data, size_t bytes, Deleter deleter)
      : data_(data, std::move(deleter)), bytes_(bytes) {}

  void* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }
  TensorView View(DType dtype, std::initializer_list<int64_t> dims) const {
    TensorView view(data_.get(), dtype, dims);
    TESSERA_CHECK(view.bytes() <= bytes_) << view.bytes() << " bytes viewed of " << bytes_;
    return view;
  }

 private:
  std::unique_ptr<void, Deleter> data_;
  size_t bytes_;
};

}  // namespace tessera

#endif  // TESSERA_KERNELS_TENSOR_H_
