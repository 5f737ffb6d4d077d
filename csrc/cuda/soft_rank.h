// What csrc/cuda/soft_rank.cu offers to its binding: plain types, no torch and no CUDA header.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// One call of the soft rank or of one of its derivatives. Every buffer is dense, on the current
// device, owned by the caller, and none overlaps another. T is double if `is_double`, otherwise
// float.
struct SodeepFastSoftRank {
  int64_t rows;
  int64_t n;
  double lam;          // positive and finite
  int32_t derivative;  // 0: ranks; 1: gradient of the scores; 2: second gradient of the scores
  int32_t is_double;
  int32_t linear;         // the method: all pairs, or panels and moments
  int32_t normalize;      // divide by the number of valid entries
  const void* scores;     // scores: T [rows, n]
  const uint8_t* mask;    // mask: [rows, n] 1 where valid, 0 elsewhere; null: all valid
  const void* grad;       // grad: T [rows, n] gradient of the ranks; derivative >= 1
  const void* grad_grad;  // grad_grad: T [rows, n] gradient of the scores' gradient; derivative 2
  void* out;              // out: T [rows, n] every element is written, 0 where masked
  void* workspace;        // workspace: [sodeep_fast_soft_rank_workspace] scratch, aligned to 256
};

// Bytes of scratch that a call needs; it need not be initialized, and holds nothing afterwards.
size_t sodeep_fast_soft_rank_workspace(const SodeepFastSoftRank* call);

// Puts the kernels on `stream` (a cudaStream_t) and returns without waiting. Returns null, or an
// error message.
const char* sodeep_fast_soft_rank(const SodeepFastSoftRank* call, void* stream);
}
