// The average precision of one row and its gradient, as the instruction sets implement them.
#pragma once

#include <cstdint>

#include "cpu/rank_counts.h"

namespace sodeep_fast {

// The sum over targets i, all of level >= 1, of (rel_i + sum over levels l of M[i, l] min(rel_i,
// rel_l)) / (1 + sum over l of N[i, l]), divided by the sum of the rel_i. N are the rank counts. M
// is N for targets below the level `least`, and counted by `step` for the others.
template <class T>
struct GradedRow {
  const T* scores;        // [items]
  const uint8_t* levels;  // [items]; num_levels or more take no part
  int64_t items, num_levels;
  const Comparator* comparators;  // [3] of N
  Method method;
  int64_t least;
  Comparator step;
  const T* relevances;  // [num_levels] rel_l
  bool is_shared;       // whether rel_l is divided by the number of targets of level l
  bool soft;            // whether M, where it is N, has a gradient too
  T* value;             // NaN if there is no target, or a score is not finite
  T* gradient;          // [items], or null
};

template <class T>
struct GradedScratch {
  RankCountsScratch<T> counts;
  Buffer<int64_t> targets, chosen;
  Buffer<uint8_t> levels;
  Buffer<double> sums, exact;
  Buffer<T> slopes;

  void trim() {
    counts.trim(), targets.trim(), chosen.trim(), levels.trim(), sums.trim(), exact.trim(),
        slopes.trim();
  }
};

template <class T>
using GradedKernel = void (*)(const GradedRow<T>& row, GradedScratch<T>& scratch);

}  // namespace sodeep_fast
