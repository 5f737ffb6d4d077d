// The recall and the discounted cumulative gain of one row, as the instruction sets implement them.
#pragma once

#include <cstdint>

#include "cpu/counted_row.h"

namespace sodeep_fast {

// The mean over the cutoffs k of the sum over targets i of sigmoid((k - rank_i) / temperature), at
// most k if `clip`, divided by min(k, number of targets).
template <class T>
struct RecallRow : CountedRow<T> {
  const double* cutoffs;  // [num_cutoffs]
  int64_t num_cutoffs;
  double temperature;
  bool clip;
};

// The sum over targets i of gain_i / log2(1 + rank_i), divided by that of the best order. The gain
// of level l is 2^l - 1.
template <class T>
struct GainRow : CountedRow<T> {
  const double* discounts;  // [items + 1] the sums of the first 1 / log2(1 + rank)
};

template <class T>
using RecallKernel = void (*)(const RecallRow<T>& row, CountedScratch<T>& scratch);
template <class T>
using GainKernel = void (*)(const GainRow<T>& row, CountedScratch<T>& scratch);

}  // namespace sodeep_fast
