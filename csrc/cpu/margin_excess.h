// One row of the calibration of scores, as the instruction sets implement it.
#pragma once

#include <cstdint>

#include "cpu/row.h"

namespace sodeep_fast {

// Positives should reach one margin, negatives not exceed another.
template <class T>
struct MarginRow {
  const T* scores;           // [n]
  const uint8_t* positives;  // [n] not 0 for a positive
  const uint8_t* mask;       // [n] not 0 for what takes part, or null: all do
  int64_t n;
  T pos_margin, neg_margin;
};

// By how much positives, and negatives, are on the wrong side of their margin, and how many are.
struct MarginSums {
  double excess[2];
  int64_t active[2];
};

template <class T>
using MarginSumsKernel = MarginSums (*)(const MarginRow<T>& row);

// Writes to out [n] the slope of a positive or a negative where it is active, and 0 elsewhere.
template <class T>
using MarginSlopesKernel = void (*)(const MarginRow<T>& row, T pos_slope, T neg_slope, T* out);

}  // namespace sodeep_fast
