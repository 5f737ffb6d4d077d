// How the operators over rank counts receive comparators and method.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "cpu/rank_counts.h"

namespace sodeep_fast {

// For items of a lower, the same and a higher level than the target.
using Comparators = std::array<Comparator, 3>;

inline Comparators parse_comparators(const std::vector<int64_t>& kinds,
                                     const std::vector<double>& parameters) {
  constexpr size_t kParameters = 5;
  STD_TORCH_CHECK(kinds.size() == 3 && parameters.size() == 3 * kParameters,
                  "three comparators of five parameters, got ", kinds.size(), " and ",
                  parameters.size(), " parameters");
  Comparators comparators{};
  for (size_t c = 0; c < 3; ++c) {
    const double* p = parameters.data() + c * kParameters;
    STD_TORCH_CHECK(std::all_of(p, p + kParameters, [](double x) { return std::isfinite(x); }),
                    "parameters of comparators must be finite");
    switch (kinds[c]) {
      case 0:
        comparators[c] = {Comparison::kSigmoid, p[0], 0, 0, 0, 0, 0, 0, 0, 0, {}};
        break;
      case 1:
        comparators[c] = {Comparison::kSup, p[0], p[1], p[2], p[3], p[4], 0, 0, 0, 0, {}};
        break;
      case 2:
        comparators[c] = {Comparison::kStep, 1, 0, 0, 0, 0, p[0], 0, 0, 0, {}};
        break;
      default:
        STD_TORCH_CHECK(kinds[c] == 3, "unknown kind of comparator ", kinds[c]);
        comparators[c] = {Comparison::kRamp, 1, 0, 0, 0, 0, 0, p[0], p[1], p[2], {}};
    }
    const Comparator& made = comparators[c];
    STD_TORCH_CHECK(made.tau > 0 && made.delta >= 0,
                    "tau must be positive, and delta not negative");
    STD_TORCH_CHECK(made.kind != Comparison::kRamp || (made.beta > 0 && made.gamma <= 1),
                    "a ramp must rise, from 1 at most");
  }
  return comparators;
}

// Adds what the sums of derivatives `first` to `last` need.
template <class T>
Comparators for_derivatives(Comparators comparators, Method method, int first, int last) {
  for (Comparator& c : comparators)
    for (int m = first; m <= last; ++m)
      if (c.kind == Comparison::kSup && method != Method::kDirect)
        c.beyond[m] = saturating_sigmoid<T>(c.delta / c.tau, m);
  return comparators;
}

}  // namespace sodeep_fast
