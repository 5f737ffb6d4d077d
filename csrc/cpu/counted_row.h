// One row's metric of rank counts and its gradient, as the instruction sets implement it.
#pragma once

#include <cstdint>

#include "cpu/rank_counts.h"

namespace sodeep_fast {

// The targets are the items of level 1 and more.
template <class T>
struct CountedRow {
  const T* scores;        // [items]
  const uint8_t* levels;  // [items]; num_levels or more take no part
  int64_t items, num_levels;
  const Comparator* comparators;  // [3]
  Method method;
  T* value;     // NaN if there is no target, or a score is not finite
  T* gradient;  // [items], or null
};

template <class T>
struct CountedScratch {
  RankCountsScratch<T> counts;
  Buffer<int64_t> targets;
  Buffer<double> sums;
  Buffer<T> slopes;

  void trim() { counts.trim(), targets.trim(), sums.trim(), slopes.trim(); }
};

}  // namespace sodeep_fast
