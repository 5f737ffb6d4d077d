// One row of the rank counts or of one of their derivatives, as the instruction sets implement it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cpu/method.h"
#include "cpu/panels.h"
#include "cpu/saturating_sigmoid.h"

namespace sodeep_fast {

enum class Comparison { kSigmoid, kSup, kStep, kRamp };

// H(x) of x = s_k - s_i; sodeep_fast/comparators.py has the equations.
struct Comparator {
  Comparison kind;
  double tau, rho, delta, start, offset, at_zero;
  double leak, beta, gamma;  // kRamp
  // kSup, linear method: the derivatives of the sigmoid from delta / tau on, as far as needed.
  SaturatingSigmoid beyond[3];

  bool has_sigmoid() const { return kind == Comparison::kSigmoid || kind == Comparison::kSup; }
  // Where a ramp ends.
  double end() const { return (1 - gamma) / beta; }
  // Whether its derivative of this order is not 0 everywhere.
  bool has_derivative(int order) const {
    return order == 0 || has_sigmoid() || (order == 1 && kind == Comparison::kRamp);
  }

  bool operator==(const Comparator& other) const {
    return kind == other.kind && tau == other.tau && rho == other.rho && delta == other.delta &&
           start == other.start && offset == other.offset && at_zero == other.at_zero &&
           leak == other.leak && beta == other.beta && gamma == other.gamma;
  }
};

// The first comparator that equals number `which`.
inline int first_alike(const Comparator* comparators, int which) {
  int first = 0;
  while (!(comparators[first] == comparators[which])) ++first;
  return first;
}

// Clears gradients that are negligible beside `weight` times the steepest slope. Scores that are
// far apart have such. Times an embedding they are subnormal numbers, whose products take a hundred
// times as long.
template <class T>
void clear_negligible(const Comparator* comparators, double weight, T* gradient, int64_t n) {
  double steepest = 0;
  for (int c = 0; c < 3; ++c)
    if (comparators[c].has_sigmoid())
      steepest = std::max({steepest, 0.25 / comparators[c].tau, comparators[c].rho});
  const double least = 1e-30 * weight * steepest;
  if (sizeof(T) == sizeof(double) || !std::isfinite(least)) return;
  const auto smallest = static_cast<T>(least);
  for (int64_t k = 0; k < n; ++k)
    gradient[k] = std::abs(gradient[k]) < smallest ? T(0) : gradient[k];
}

// Which comparisons of a row go through sums instead of pairs, by comparator (the first of equal
// ones) and by level of the items.
struct CountsPlan {
  bool any = false;
  bool by_sums[3][256] = {};
};

// What is computed for a row with scores s, items k, targets i, levels l:
//   kCounts          N[i, l] = sum over k of level l of H(s_k - s_i)
//   kTangent         sum over k of level l of H'(s_k - s_i) (v_k - v_i)
//   kBackward        for an item, the derivative of sum g[i, l] N[i, l]
//   kDoubleBackward  for an item, the derivative of sum g[i, l] tangent[i, l]
// The linear method can compute two of them at once, the direct one cannot:
//   kCountsAndSlopes  kCounts and the sum over k of level l of H'(s_k - s_i), which saves kBackward
//                     half of its sums
enum class CountsPass { kCounts, kTangent, kBackward, kDoubleBackward, kCountsAndSlopes };

constexpr bool has_tangent(CountsPass pass) {
  return pass == CountsPass::kTangent || pass == CountsPass::kDoubleBackward;
}
constexpr bool to_items(CountsPass pass) {
  return pass == CountsPass::kBackward || pass == CountsPass::kDoubleBackward;
}
// The first and the last derivative of H that a pass sums.
constexpr int derivative_of(CountsPass pass) {
  const bool is_value = pass == CountsPass::kCounts || pass == CountsPass::kCountsAndSlopes;
  return is_value ? 0 : pass == CountsPass::kDoubleBackward ? 2 : 1;
}
constexpr int last_derivative_of(CountsPass pass) {
  return pass == CountsPass::kCountsAndSlopes ? 1 : derivative_of(pass);
}

// A row, or the part of its items that one thread takes; every part has all targets.
template <class T>
struct RankCountsRow {
  const T* scores;                // of the row
  const T* tangent;               // of the row, v, or null
  const uint8_t* levels;          // of the row; items of num_levels or more take no part
  const int64_t* targets;         // [num_targets] which items
  const T* grad;                  // [num_targets, num_levels] g, or null
  int64_t grad_strides[2];        // its strides
  const Comparator* comparators;  // [3] for k of a lower, the same and a higher level than i
  int64_t begin, end;             // the items
  int64_t num_targets, num_levels;
  Method method;
  double* sums;    // [num_levels, num_targets]; backward: [num_targets] to subtract from targets
  double* slopes;  // [num_levels, num_targets] of kCountsAndSlopes, or null
  T* gradient;     // of the row, or null

  double& sum_of(int64_t t, int64_t l) const { return sums[l * num_targets + t]; }
  double& slope_of(int64_t t, int64_t l) const { return slopes[l * num_targets + t]; }
  T grad_of(int64_t t, int64_t l) const { return grad[t * grad_strides[0] + l * grad_strides[1]]; }
};

// Scratch of one thread.
template <class T>
struct RankCountsScratch {
  Buffer<T> grouped, split, chosen, compared;
  Buffer<uint32_t> place, slots, chosen_slots, cuts, cut;
  Buffer<uint8_t> classes, target_levels;
  Buffer<int64_t> order;
  Buffer<Panel> runs;
  Buffer<double> sums, moments, beyond;
  OrderScratch<T> ordered;

  void trim() {
    grouped.trim(), split.trim(), chosen.trim(), compared.trim();
    place.trim(), slots.trim(), chosen_slots.trim(), cuts.trim(), cut.trim(), classes.trim(),
        target_levels.trim(), order.trim(), runs.trim();
    sums.trim(), moments.trim(), beyond.trim(), ordered.trim();
  }
};

// False if a score is not finite; then nothing has been written.
template <class T>
using RankCountsKernel = bool (*)(const RankCountsRow<T>& row, RankCountsScratch<T>& scratch);

}  // namespace sodeep_fast
