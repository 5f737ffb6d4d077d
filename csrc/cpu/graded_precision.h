// The average precision of one row and its gradient, as the instruction sets implement them.
#pragma once

#include <cstdint>

#include "cpu/counted_row.h"

namespace sodeep_fast {

// The sum over targets i of (rel_i + sum over levels l of M[i, l] min(rel_i, rel_l)) / (1 + sum
// over l of N[i, l]), divided by the sum of the rel_i. N are the rank counts. M is N for targets
// below the level `least`, and counted by `step` for the others.
template <class T>
struct GradedRow : CountedRow<T> {
  int64_t least;
  Comparator step;
  const T* relevances;  // [num_levels] rel_l
  bool is_shared;       // whether rel_l is divided by the number of targets of level l
  bool soft;            // whether M, where it is N, has a gradient too
};

template <class T>
struct GradedScratch : CountedScratch<T> {
  Buffer<int64_t> chosen;
  Buffer<uint8_t> levels;
  Buffer<double> exact, chosen_exact;

  void trim() {
    CountedScratch<T>::trim();
    chosen.trim(), levels.trim(), exact.trim(), chosen_exact.trim();
  }
};

template <class T>
using GradedKernel = void (*)(const GradedRow<T>& row, GradedScratch<T>& scratch);

}  // namespace sodeep_fast
