// How the operators that make a metric of every row's rank counts receive their arguments, and
// threads over rows.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "boundary.h"
#include "cpu/counted_row.h"
#include "cpu/far_panels.h"
#include "cpu/rank_counts_options.h"

namespace sodeep_fast {

class CountedCall {
 public:
  using Tensor = torch::stable::Tensor;

  CountedCall(Tensor scores, Tensor levels, int64_t num_levels, const std::vector<int64_t>& kinds,
              const std::vector<double>& parameters, const std::string& method, bool wants_gradient)
      : scores_(scores),
        levels_(levels),
        num_levels_(num_levels),
        comparators_(parse_comparators(kinds, parameters)),
        method_(parse_method(method)),
        wants_gradient_(wants_gradient) {
    STD_TORCH_CHECK(scores.dim() == 2 && scores.size(1) < std::numeric_limits<int32_t>::max() / 2,
                    "scores must be a matrix, with rows of at most 2^30 items");
    STD_TORCH_CHECK(levels.dim() == 2 &&
                        levels.scalar_type() == torch::headeronly::ScalarType::Byte &&
                        levels.size(0) == scores.size(0) && levels.size(1) == scores.size(1),
                    "levels must be a uint8 matrix of the size of scores");
    STD_TORCH_CHECK(num_levels >= 1 && num_levels <= 255, "between 1 and 255 levels, got ",
                    num_levels);
  }

  torch::headeronly::ScalarType compute_type() const { return sodeep_fast::compute_type(scores_); }
  bool is_double() const { return compute_type() == torch::headeronly::ScalarType::Double; }
  int64_t items() const { return scores_.size(1); }

  // Calls visit(row number, CountedRow<T>, Scratch) for all rows. Returns what they write: values
  // (rows) and gradients (rows, items), the latter empty if not wanted.
  template <class T, class Scratch, class Visit>
  std::tuple<Tensor, Tensor> for_each_row(const Visit& visit) const {
    const Tensor scores = dense(scores_, compute_type());
    const Tensor levels = torch::stable::contiguous(levels_);
    const int64_t rows = scores.size(0), items = scores.size(1);
    const auto comparators = for_derivatives<T>(comparators_, method_, 0, wants_gradient_ ? 1 : 0);
    Tensor values = torch::stable::new_empty(scores, {rows});
    Tensor gradient = torch::stable::new_empty(scores, {wants_gradient_ ? rows : 0, items});
    const CountedRow<T> first{static_cast<const T*>(scores.const_data_ptr()),
                              static_cast<const uint8_t*>(levels.const_data_ptr()),
                              items,
                              num_levels_,
                              comparators.data(),
                              method_,
                              static_cast<T*>(values.mutable_data_ptr()),
                              static_cast<T*>(gradient.mutable_data_ptr())};
    constexpr int64_t kItemsPerTask = 1 << 13;
    const int64_t grain = std::max<int64_t>(1, kItemsPerTask / std::max<int64_t>(items, 1));
    torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
      thread_local Scratch scratch;
      for (int64_t r = begin; r < end; ++r) {
        CountedRow<T> row = first;
        row.scores += r * items, row.levels += r * items, row.value += r;
        row.gradient = wants_gradient_ ? first.gradient + r * items : nullptr;
        visit(r, row, scratch);
      }
      scratch.trim();
    });
    return {values, gradient};
  }

 private:
  Tensor scores_, levels_;
  int64_t num_levels_;
  Comparators comparators_;
  Method method_;
  bool wants_gradient_;
};

}  // namespace sodeep_fast
