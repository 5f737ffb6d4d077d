// The rank counts and their derivatives on the CPU: the operators' boundary, and threads over rows.

#include "cpu/rank_counts.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "boundary.h"
#include "cpu/far_panels.h"
#include "cpu/flush_to_zero.h"
#include "cpu/rank_counts_options.h"

#define SODEEP_FAST_KERNELS "cpu/isa/rank_counts_row.h"
#include "cpu/foreach_isa.h"

namespace sodeep_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Everything but the floating-point tensors.
struct Call {
  Tensor levels, columns, offsets;
  int64_t num_levels;
  Comparators comparators;
  Method method;
};

void check_columns(const Tensor& columns, int64_t items) {
  const auto* column = static_cast<const int64_t*>(columns.const_data_ptr());
  std::atomic<bool> valid{true};
  constexpr int64_t kPerTask = 1 << 15;
  torch::stable::parallel_for(0, columns.numel(), kPerTask, [&](int64_t begin, int64_t end) {
    bool inside = true;
    for (int64_t k = begin; k < end; ++k) inside &= column[k] >= 0 && column[k] < items;
    if (!inside) valid = false;
  });
  STD_TORCH_CHECK(valid, "columns must be between 0 and the number of items");
}

Call make_call(const Tensor& scores, const Tensor& levels, const Tensor& columns,
               const Tensor& offsets, int64_t num_levels, const std::vector<int64_t>& kinds,
               const std::vector<double>& parameters, const std::string& method) {
  STD_TORCH_CHECK(scores.dim() == 2, "scores must have two dimensions, got ", scores.dim());
  const int64_t rows = scores.size(0), items = scores.size(1);
  STD_TORCH_CHECK(items < std::numeric_limits<int32_t>::max() / 2, "rows of more than 2^30 items");
  STD_TORCH_CHECK(levels.scalar_type() == ScalarType::Byte && levels.numel() == rows * items,
                  "levels must be uint8, of the size of scores");
  STD_TORCH_CHECK(columns.scalar_type() == ScalarType::Long &&
                      offsets.scalar_type() == ScalarType::Long && offsets.numel() == rows + 1,
                  "columns and offsets must be int64, with an offset for every row and one more");
  STD_TORCH_CHECK(num_levels >= 1 && num_levels <= 255, "between 1 and 255 levels, got ",
                  num_levels);
  Call call{torch::stable::contiguous(levels),    torch::stable::contiguous(columns),
            torch::stable::contiguous(offsets),   num_levels,
            parse_comparators(kinds, parameters), parse_method(method)};

  const auto* offset = static_cast<const int64_t*>(call.offsets.const_data_ptr());
  STD_TORCH_CHECK(offset[0] == 0 && offset[rows] == columns.numel() &&
                      std::is_sorted(offset, offset + rows + 1),
                  "offsets must rise from 0 to the number of targets");
  check_columns(call.columns, items);
  return call;
}

template <class T, CountsPass pass>
class Run {
 public:
  Run(const Tensor* grad, const Tensor* tangent, const Tensor& scores, const Call& call)
      : call_(call),
        comparators_(for_derivatives<T>(call.comparators, call.method, derivative_of(pass),
                                        derivative_of(pass))),
        rows_(scores.size(0)),
        items_(scores.size(1)),
        width_(to_items(pass) ? 1 : call.num_levels),
        scores_(dense(scores, compute_type(scores))),
        is_shared_(grad && grad->dim() == 2 && grad->size(1) == call.num_levels &&
                   grad->stride(1) == 0),
        grad_(grad ? dense(is_shared_ ? first_level(*grad) : *grad, compute_type(scores))
                   : Tensor()),
        tangent_(tangent ? dense(*tangent, compute_type(scores)) : Tensor()),
        offsets_(static_cast<const int64_t*>(call.offsets.const_data_ptr())) {
    const int64_t total = call.columns.numel();
    STD_TORCH_CHECK(!grad || grad->numel() == total * call.num_levels, "gradient of another size");
    STD_TORCH_CHECK(!tangent || tangent->numel() == rows_ * items_, "tangent of another size");
    out_ = to_items(pass) ? torch::stable::empty_like(scores_)
                          : torch::stable::new_empty(scores_, {total, call.num_levels});
  }

  Tensor operator()() {
    const int64_t parts = parts_of_a_row();
    if (parts > 1) {
      for (int64_t r = 0; r < rows_; ++r) in_parts(r, parts);
    } else {
      constexpr int64_t kPairsPerTask = 1 << 16;
      const int64_t pairs = items_ * (4 + call_.columns.numel() / std::max<int64_t>(rows_, 1));
      const int64_t grain = kPairsPerTask / std::max<int64_t>(pairs, 1);
      torch::stable::parallel_for(0, rows_, std::max<int64_t>(1, grain),
                                  [&](int64_t begin, int64_t end) {
                                    thread_local RankCountsScratch<T> scratch;
                                    for (int64_t r = begin; r < end; ++r) whole(r, scratch);
                                    scratch.trim();
                                  });
    }
    return out_;
  }

 private:
  static Tensor first_level(Tensor grad) { return torch::stable::narrow(grad, 1, 0, 1); }

  int64_t targets_of(int64_t r) const { return offsets_[r + 1] - offsets_[r]; }

  // Where rows are few and long, the threads share the items of each.
  int64_t parts_of_a_row() const {
    constexpr int64_t kItemsPerPart = 1 << 14, kPairsPerPart = 1 << 20;
    const auto threads = static_cast<int64_t>(torch::stable::get_num_threads());
    if (rows_ == 0 || rows_ >= threads) return 1;
    const int64_t pairs = items_ * (call_.columns.numel() / rows_);
    return std::min(threads,
                    std::max(items_ / kItemsPerPart, std::min(items_ / 64, pairs / kPairsPerPart)));
  }

  RankCountsRow<T> row_of(int64_t r, int64_t begin, int64_t end, double* sums) const {
    RankCountsRow<T> row{};
    row.scores = static_cast<const T*>(scores_.const_data_ptr()) + r * items_;
    row.levels = static_cast<const uint8_t*>(call_.levels.const_data_ptr()) + r * items_;
    row.targets = static_cast<const int64_t*>(call_.columns.const_data_ptr()) + offsets_[r];
    row.comparators = comparators_.data();
    row.begin = begin;
    row.end = end;
    row.num_targets = targets_of(r);
    row.num_levels = call_.num_levels;
    row.method = call_.method;
    row.sums = sums;
    if (has_tangent(pass))
      row.tangent = static_cast<const T*>(tangent_.const_data_ptr()) + r * items_;
    if (to_items(pass)) {
      row.grad_strides[0] = is_shared_ ? 1 : call_.num_levels;
      row.grad_strides[1] = is_shared_ ? 0 : 1;
      row.grad = static_cast<const T*>(grad_.const_data_ptr()) + offsets_[r] * row.grad_strides[0];
      row.gradient = out() + r * items_;
    }
    return row;
  }

  void whole(int64_t r, RankCountsScratch<T>& scratch) const {
    double* sums = scratch.sums.reserve(targets_of(r) * width_);
    const RankCountsRow<T> row = row_of(r, 0, items_, sums);
    finish(row, kernel(row, scratch), 1);
  }

  void in_parts(int64_t r, int64_t parts) const {
    const int64_t size = targets_of(r) * width_, part = divide_up(items_, parts);
    std::vector<double> sums(parts * size);
    std::vector<char> finite(parts, true);
    torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
      thread_local RankCountsScratch<T> scratch;
      for (int64_t k = first; k < last; ++k)
        finite[k] = kernel(row_of(r, std::min(k * part, items_), std::min((k + 1) * part, items_),
                                  sums.data() + k * size),
                           scratch);
      scratch.trim();
    });
    const bool all = std::all_of(finite.begin(), finite.end(), [](char is) { return is; });
    finish(row_of(r, 0, items_, sums.data()), all, parts);
  }

  // Adds up the sums of all parts, which follow one another, and writes the result.
  void finish(const RankCountsRow<T>& row, bool finite, int64_t parts) const {
    constexpr T nan = std::numeric_limits<T>::quiet_NaN();
    const int64_t size = row.num_targets * width_;
    for (int64_t k = 0; finite && k < size; ++k)
      for (int64_t part = 1; part < parts; ++part) row.sums[k] += row.sums[part * size + k];
    if constexpr (to_items(pass)) {
      for (int64_t k = 0; !finite && k < items_; ++k)
        row.gradient[k] = row.levels[k] < row.num_levels ? nan : T(0);
      for (int64_t t = 0; finite && t < size; ++t)
        row.gradient[row.targets[t]] -= static_cast<T>(row.sums[t]);
      if (finite && pass == CountsPass::kBackward)
        clear_negligible(row.comparators, largest_grad(row), row.gradient, items_);
    } else {
      const auto* columns = static_cast<const int64_t*>(call_.columns.const_data_ptr());
      T* to = out() + (row.targets - columns) * width_;
      for (int64_t t = 0; t < row.num_targets; ++t)
        for (int64_t l = 0; l < width_; ++l)
          *to++ = finite ? static_cast<T>(row.sum_of(t, l)) : nan;
    }
  }

  double largest_grad(const RankCountsRow<T>& row) const {
    double largest = 0;
    for (int64_t t = 0; t < row.num_targets; ++t)
      for (int64_t l = 0; l < (is_shared_ ? 1 : row.num_levels); ++l)
        largest = std::max(largest, std::abs(static_cast<double>(row.grad_of(t, l))));
    return largest;
  }

  static bool kernel(const RankCountsRow<T>& row, RankCountsScratch<T>& scratch) {
    static const RankCountsKernel<T> picked = pick_isa<RankCountsKernel<T>>(
        baseline::rank_counts_row<T, pass>, avx2::rank_counts_row<T, pass>,
        avx512::rank_counts_row<T, pass>);
    return picked(row, scratch);
  }

  T* out() const { return static_cast<T*>(out_.mutable_data_ptr()); }

  const Call& call_;
  Comparators comparators_;
  int64_t rows_, items_, width_;
  Tensor scores_;
  bool is_shared_;  // the gradient, one number for all levels of a target
  Tensor grad_, tangent_, out_;
  const int64_t* offsets_;
};

template <CountsPass pass>
Tensor dispatch(const Tensor* grad, const Tensor* tangent, const Tensor& scores, const Call& call) {
  if (compute_type(scores) == ScalarType::Double)
    return Run<double, pass>(grad, tangent, scores, call)();
  return Run<float, pass>(grad, tangent, scores, call)();
}

Tensor rank_counts(Tensor scores, Tensor levels, Tensor columns, Tensor offsets, int64_t num_levels,
                   std::vector<int64_t> kinds, std::vector<double> parameters, std::string method) {
  return dispatch<CountsPass::kCounts>(
      nullptr, nullptr, scores,
      make_call(scores, levels, columns, offsets, num_levels, kinds, parameters, method));
}

Tensor rank_counts_tangent(Tensor tangent, Tensor scores, Tensor levels, Tensor columns,
                           Tensor offsets, int64_t num_levels, std::vector<int64_t> kinds,
                           std::vector<double> parameters, std::string method) {
  return dispatch<CountsPass::kTangent>(
      nullptr, &tangent, scores,
      make_call(scores, levels, columns, offsets, num_levels, kinds, parameters, method));
}

Tensor rank_counts_backward(Tensor grad, Tensor scores, Tensor levels, Tensor columns,
                            Tensor offsets, int64_t num_levels, std::vector<int64_t> kinds,
                            std::vector<double> parameters, std::string method) {
  const Call call =
      make_call(scores, levels, columns, offsets, num_levels, kinds, parameters, method);
  return as_type(dispatch<CountsPass::kBackward>(&grad, nullptr, scores, call),
                 scores.scalar_type());
}

Tensor rank_counts_double_backward(Tensor tangent, Tensor grad, Tensor scores, Tensor levels,
                                   Tensor columns, Tensor offsets, int64_t num_levels,
                                   std::vector<int64_t> kinds, std::vector<double> parameters,
                                   std::string method) {
  const Call call =
      make_call(scores, levels, columns, offsets, num_levels, kinds, parameters, method);
  return as_type(dispatch<CountsPass::kDoubleBackward>(&grad, &tangent, scores, call),
                 scores.scalar_type());
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CPU, m) {
  m.impl("rank_counts", TORCH_BOX(&sodeep_fast::rank_counts));
  m.impl("rank_counts_tangent", TORCH_BOX(&sodeep_fast::rank_counts_tangent));
  m.impl("rank_counts_backward", TORCH_BOX(&sodeep_fast::rank_counts_backward));
  m.impl("rank_counts_double_backward", TORCH_BOX(&sodeep_fast::rank_counts_double_backward));
}
