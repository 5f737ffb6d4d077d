// A slice of a row of the soft histogram or of a derivative, as the instruction sets implement it.
//
// A score lies in an interval between two neighbouring bin centres, and its level and interval are
// its cell. The sums over a cell's items determine what its two bins receive, so an item touches
// only one cell. After the cells of all levels come two more: one for items that take no part, and
// one for NaNs.
#pragma once

#include <cstdint>

#include "cpu/row.h"

namespace sodeep_fast {

// The position of a score is (s - low) * scale; that of bin b is b, that of the last bin `last`.
template <class T>
struct HistogramAxis {
  T low, scale, last;
  int64_t intervals;  // one less than the bins, but at least one
};

// How many items, and the sum of their fractions of the interval or of their tangents.
typedef double CellSums __attribute__((vector_size(16)));

template <class T>
struct SoftHistogramSlice {
  const T* scores;        // [items]
  const T* tangent;       // [items] or null
  const uint8_t* levels;  // [items] those of num_levels or more take no part; null: all are 0
  int64_t items, num_levels;
  HistogramAxis<T> axis;

  int64_t cells() const { return num_levels * axis.intervals + 2; }
};

// Adds a slice's items to sums [cells]: their fractions, which are 0 or 1 beyond the axis; or, if
// there are tangents, the tangents of items within the axis.
template <class T>
using AddSliceKernel = void (*)(const SoftHistogramSlice<T>& slice, Buffer<CellSums>& scratch,
                                CellSums* sums);

// Writes to out [items] the slope, of slopes [cells], of every item's cell; 0 beyond the axis.
template <class T>
using SpreadSliceKernel = void (*)(const SoftHistogramSlice<T>& slice, const T* slopes, T* out);

}  // namespace sodeep_fast
