// One row of the rank counts or of one of their derivatives, as the instruction sets implement it.
#pragma once

#include <cstdint>

#include "cpu/row.h"

namespace sodeep_fast {

enum class Comparison { kSigmoid, kSup, kStep };

// H(x) of x = s_k - s_i; ../sodeep_fast/comparators.py has the equations.
struct Comparator {
  Comparison kind;
  double tau, rho, delta, start, offset, at_zero;
};

// What is asked of a row with scores s, items k, targets i, levels l:
//   kCounts          N[i, l] = sum over k of level l of H(s_k - s_i)
//   kTangent         sum over k of level l of H'(s_k - s_i) (v_k - v_i)
//   kBackward        for an item, the derivative of sum g[i, l] N[i, l]
//   kDoubleBackward  for an item, the derivative of sum g[i, l] tangent[i, l]
enum class CountsPass { kCounts, kTangent, kBackward, kDoubleBackward };

template <class T>
struct RankCountsRow {
  const T* scores;                // [items]
  const T* tangent;               // [items] v, or null
  const uint8_t* levels;          // [items] those of num_levels or more take no part
  const int64_t* targets;         // [num_targets] which items
  const T* grad;                  // [num_targets, num_levels] g, or null
  const Comparator* comparators;  // [3] for k of a lower, the same and a higher level than i
  int64_t items, num_targets, num_levels;
  T* out;  // [num_targets, num_levels] or [items]
};

// Scratch of one thread.
template <class T>
struct RankCountsScratch {
  Buffer<T> grouped;
  Buffer<uint32_t> place;
  Buffer<int64_t> order;

  void trim() { grouped.trim(), place.trim(), order.trim(); }
};

template <class T>
using RankCountsKernel = void (*)(const RankCountsRow<T>& row, RankCountsScratch<T>& scratch);

}  // namespace sodeep_fast
