// The tensor core and copy instructions that the kernels use, one function each. Fragments of
// mma.m16n8k16, with g = lane / 4 and t = lane % 4: a0 (row g, k 2t..), a1 (row g + 8), a2 (row g,
// k 2t + 8..), a3; b0 (k 2t.., column g), b1 (k 2t + 8..); c0, c1 (row g, columns 2t, 2t + 1),
// c2, c3 (row g + 8).

#ifndef TESSERA_KERNELS_CUDA_MMA_H_
#define TESSERA_KERNELS_CUDA_MMA_H_

#include <cstdint>

namespace tessera::cuda {

// c += a . b, bfloat16 products, float32 sums.
__device__ inline void MmaBf16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                               uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Four float8 numbers as two pairs of bfloat16, exactly: their bits are those of bfloat16 numbers
// that are 2^120 times smaller.
__device__ inline void WidenFloat8(uint32_t four, uint32_t& low, uint32_t& high) {
  const uint32_t first = __byte_perm(four, 0, 0x1404);   // bytes 0 and 1 on top of their halves
  const uint32_t second = __byte_perm(four, 0, 0x3424);  // bytes 2 and 3
  const uint32_t a = (first & 0x80008000u) | ((first & 0x7f007f00u) >> 4);
  const uint32_t b = (second & 0x80008000u) | ((second & 0x7f007f00u) >> 4);
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(low) : "r"(a), "r"(0x7b807b80u));
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(high) : "r"(b), "r"(0x7b807b80u));
}

// Sixteen bytes that are read once: not kept in the first-level cache.
__device__ inline uint4 LoadStreaming(const void* p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p));
  return v;
}

__device__ inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Sixteen bytes from global to shared memory; zeros when `exists` is false.
__device__ inline void CopyAsync16(uint32_t to, const void* from, bool exists) {
  const int bytes = exists ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Until at most kPending of this thread's groups are under way.
template <int kPending>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

__device__ inline void LoadMatrix4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ inline void LoadMatrix4Transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ inline uint4 LoadShared16(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_MMA_H_
