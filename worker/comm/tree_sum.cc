// The fixed binary tree, one loop per group size so that the compiler vectorizes each of them;
// additions stay inside one element, so vector width does not change a bit.

#include "worker/comm/tree_sum.h"

#include <cstring>

#include "base/check.h"

namespace tessera {
namespace {

void Sum2(float* __restrict out, const float* const* p, size_t n) {
  const float* __restrict a = p[0];
  const float* __restrict b = p[1];
  for (size_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

void Sum4(float* __restrict out, const float* const* p, size_t n) {
  const float* __restrict a = p[0];
  const float* __restrict b = p[1];
  const float* __restrict c = p[2];
  const float* __restrict d = p[3];
  for (size_t i = 0; i < n; ++i) out[i] = (a[i] + b[i]) + (c[i] + d[i]);
}

void Sum8(float* __restrict out, const float* const* p, size_t n) {
  const float* __restrict a = p[0];
  const float* __restrict b = p[1];
  const float* __restrict c = p[2];
  const float* __restrict d = p[3];
  const float* __restrict e = p[4];
  const float* __restrict f = p[5];
  const float* __restrict g = p[6];
  const float* __restrict h = p[7];
  for (size_t i = 0; i < n; ++i) {
    out[i] = ((a[i] + b[i]) + (c[i] + d[i])) + ((e[i] + f[i]) + (g[i] + h[i]));
  }
}

}  // namespace

void TreeSum(float* out, const float* const* parts, int size, size_t n) {
  TESSERA_CHECK(IsCommSize(size)) << "group of " << size;
  if (n == 0) return;
  switch (size) {
    case 1:
      std::memcpy(out, parts[0], n * sizeof(float));
      return;
    case 2:
      return Sum2(out, parts, n);
    case 4:
      return Sum4(out, parts, n);
    default:
      return Sum8(out, parts, n);
  }
}

}  // namespace tessera
