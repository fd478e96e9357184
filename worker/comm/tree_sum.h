// The sum over ranks, in the one order that every rank and every transport uses. Plain function,
// any thread.

#ifndef TESSERA_WORKER_COMM_TREE_SUM_H_
#define TESSERA_WORKER_COMM_TREE_SUM_H_

#include <cstddef>

namespace tessera {

inline constexpr int kCommRanksMax = 8;

// Group sizes for which the tree is complete.
constexpr bool IsCommSize(int size) { return size == 1 || size == 2 || size == 4 || size == 8; }

// out[i] = ((p0[i] + p1[i]) + (p2[i] + p3[i])) + ((p4[i] + p5[i]) + (p6[i] + p7[i])), cut to `size`
// parts. `out` and the parts are n floats each and do not overlap.
void TreeSum(float* out, const float* const* parts, int size, size_t n);

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_TREE_SUM_H_
