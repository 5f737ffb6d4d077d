// Hardware instructions of the LSTM's kernels, in PTX: tensor core products, and half types.
// tests/cuda_emulator has the same functions for the CPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace sodeep_fast {

// The type of a product's factors, two to a register, the first in its lower half.
struct Float16 {
  static __device__ uint32_t pack(float first, float second) {
    const __half2 both = __floats2half2_rn(first, second);
    return reinterpret_cast<const uint32_t&>(both);
  }

  // Clamps larger numbers to the largest half of their sign; NaN stays NaN.
  static __device__ uint32_t pack_finite(float first, float second) {
    uint32_t both;
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
  }

  static __device__ float2 unpack(uint32_t both) {
    return __half22float2(reinterpret_cast<const __half2&>(both));
  }

  static __device__ void mma(float (&sums)[4], const uint32_t (&a)[4], uint32_t b, uint32_t b_8) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(b_8));
  }
};

struct Bfloat16 {
  static __device__ uint32_t pack(float first, float second) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
    return reinterpret_cast<const uint32_t&>(both);
  }

  static __device__ uint32_t pack_finite(float first, float second) {
    uint32_t both;
    asm("cvt.rn.satfinite.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
  }

  static __device__ void mma(float (&sums)[4], const uint32_t (&a)[4], uint32_t b, uint32_t b_8) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(b_8));
  }
};

// Loads four matrices of 8 by 8 halves from shared memory. Eight lanes point to the rows, of 16
// bytes, of each matrix; a lane gets two neighbouring halves of row lane / 4 of each.
__device__ inline void load_matrices(uint32_t (&matrices)[4], const void* row) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(at)
               : "memory");
}

// 2^x and 1 / x, each in one instruction and good to float32's last few bits.
__device__ inline float exponential_2(float x) {
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
__device__ inline float reciprocal(float x) {
  asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}

// Hides where a number comes from, as the compiler would otherwise recompute it at every step.
__device__ inline void hide(int& x) { asm("" : "+r"(x)); }
__device__ inline void hide(int64_t& x) { asm("" : "+l"(x)); }

// NaN where either is.
__device__ inline float smaller(float x, float y) {
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(y));
  return x;
}
}  // namespace sodeep_fast
