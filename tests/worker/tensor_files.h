// Damage to the tensors of a model directory, for the tests that must notice it. Works on copies;
// nothing of the loader is used but the header's reader.

#ifndef TESSERA_TESTS_WORKER_TENSOR_FILES_H_
#define TESSERA_TESTS_WORKER_TENSOR_FILES_H_

#include <functional>
#include <string>

#include "absl/types/span.h"
#include "models/checkpoint.h"

namespace tessera {

// Calls edit for every tensor of every file in `dir` with the bytes that are stored.
void EditTensors(const std::string& dir,
                 const std::function<void(const TensorEntry&, absl::Span<char>)>& edit);

// Adds a float32 tensor to dir/model.safetensors.
void AddTensor(const std::string& dir, const std::string& name, absl::Span<const int64_t> shape,
               absl::Span<const float> values);

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_TENSOR_FILES_H_
