// The occupied panels of math/sigmoid_panels.h on a row, and a row's scores in their order.
#pragma once

#include <cstdint>

#include "cpu/row.h"

namespace sodeep_fast {

struct Panel {
  double anchor, index;  // centre = anchor + (index + 1/2) / lam
  int64_t place;         // position along the row in panels; far apart where saturated
  int64_t begin, end;    // its items
};

// Consecutive items of one panel: a unit of work.
struct Piece {
  int64_t panel, begin, end;
};

template <class T>
struct OrderedRow {
  T* scores;         // [n] by panel, or by block and then by panel
  uint32_t* origin;  // [n] where each was in the row
  Panel* panels;     // [panel_count] by place
  int64_t panel_count;
};

template <class T>
struct OrderScratch {
  Buffer<T> sorted;
  Buffer<uint32_t> origin, counts;
  Buffer<char> panels, keys;

  void trim() { sorted.trim(), origin.trim(), counts.trim(), panels.trim(), keys.trim(); }
};

// The most occupied panels that a row can have.
inline int64_t panel_limit(double range, int64_t n) {
  return range < static_cast<double>(n) ? std::min<int64_t>(n, static_cast<int64_t>(range) + 1) : n;
}

// Memory for the order of n scores over a range in units of 1 / lam.
template <class T>
OrderedRow<T> reserve_order(int64_t n, double range, OrderScratch<T>& scratch) {
  const int64_t bytes = panel_limit(range, n) * static_cast<int64_t>(sizeof(Panel));
  return {scratch.sorted.reserve(n), scratch.origin.reserve(n),
          reinterpret_cast<Panel*>(scratch.panels.reserve(bytes)), 0};
}

}  // namespace sodeep_fast
