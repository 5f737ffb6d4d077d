// One row of exact ranks, as the instruction sets implement it.
#pragma once

#include <cstdint>

#include "cpu/row.h"

namespace sodeep_fast {

enum class Ties { kAverage, kMin, kMax, kOrdinal };

template <class T>
struct HardRankRow {
  const T* scores;   // [n]
  const bool* mask;  // [n] true where valid, or null
  int64_t n;
  bool normalize;  // divide by the number of valid entries
  Ties ties;
  T* out;  // [n]
};

template <class T>
struct HardRankScratch {
  Buffer<T> compact;
  Buffer<uint32_t> valid, order;
  Buffer<char> keys;

  void trim() { compact.trim(), valid.trim(), order.trim(), keys.trim(); }
};

template <class T>
using HardRankKernel = void (*)(const HardRankRow<T>& row, HardRankScratch<T>& scratch);

}  // namespace sodeep_fast
