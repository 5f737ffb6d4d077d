// One row of the soft rank or of one of its derivatives, as the instruction sets implement it.
#pragma once

#include <cstdint>

#include "cpu/method.h"
#include "cpu/panels.h"

namespace sodeep_fast {

// The value of item i, with sums over j != i:
//   derivative 0, no weights:    1 + sum_j sigmoid(lam (s_j - s_i))
//   derivative 1, weights g:     lam sum_j sigmoid' (g_j - g_i)
//   derivative 2, weights g, v:  lam^2 sum_j sigmoid'' (g_j - g_i) (v_j - v_i)
template <class T>
struct SoftRankRow {
  const T* scores;      // [n]
  const T* weights[2];  // [n] g and v, as many as the order of the derivative
  const bool* mask;     // [n] true where valid, or null
  int64_t n;
  double lam;
  bool normalize;  // divide by the number of valid entries
  Method method;
  T* out;  // [n]
};

// Scratch of one thread. Rows may use several threads inside; then only one row runs at a time.
template <class T>
struct SoftRankScratch {
  Buffer<T> compact, direct;
  Buffer<uint32_t> valid;
  Buffer<double> moments;
  OrderScratch<T> order;

  void trim() { compact.trim(), direct.trim(), valid.trim(), moments.trim(), order.trim(); }
};

template <class T>
using SoftRankKernel = void (*)(const SoftRankRow<T>& row, SoftRankScratch<T>& scratch);

}  // namespace sodeep_fast
