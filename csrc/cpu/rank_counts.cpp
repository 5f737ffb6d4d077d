// The rank counts and their derivatives on the CPU: the operators' boundary, and threads over rows.

#include "cpu/rank_counts.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "boundary.h"

#define SODEEP_FAST_KERNELS "cpu/rank_counts_row.h"
#include "cpu/foreach_isa.h"

namespace sodeep_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Comparators = std::array<Comparator, 3>;

Comparators parse_comparators(const std::vector<int64_t>& kinds,
                              const std::vector<double>& parameters) {
  constexpr size_t kParameters = 5;
  STD_TORCH_CHECK(kinds.size() == 3 && parameters.size() == 3 * kParameters,
                  "three comparators of five parameters, got ", kinds.size(), " and ",
                  parameters.size(), " parameters");
  Comparators comparators{};
  for (size_t c = 0; c < 3; ++c) {
    const double* p = parameters.data() + c * kParameters;
    switch (kinds[c]) {
      case 0:
        comparators[c] = {Comparison::kSigmoid, p[0], 0, 0, 0, 0, 0};
        break;
      case 1:
        comparators[c] = {Comparison::kSup, p[0], p[1], p[2], p[3], p[4], 0};
        break;
      default:
        STD_TORCH_CHECK(kinds[c] == 2, "unknown kind of comparator ", kinds[c]);
        comparators[c] = {Comparison::kStep, 1, 0, 0, 0, 0, p[0]};
    }
  }
  return comparators;
}

// Everything but the floating-point tensors.
struct Call {
  Tensor levels, columns, offsets;
  int64_t num_levels;
  Comparators comparators;
};

Call make_call(const Tensor& scores, const Tensor& levels, const Tensor& columns,
               const Tensor& offsets, int64_t num_levels, const std::vector<int64_t>& kinds,
               const std::vector<double>& parameters) {
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
  Call call{torch::stable::contiguous(levels), torch::stable::contiguous(columns),
            torch::stable::contiguous(offsets), num_levels, parse_comparators(kinds, parameters)};

  const auto* offset = static_cast<const int64_t*>(call.offsets.const_data_ptr());
  const auto* column = static_cast<const int64_t*>(call.columns.const_data_ptr());
  STD_TORCH_CHECK(offset[0] == 0 && offset[rows] == columns.numel() &&
                      std::is_sorted(offset, offset + rows + 1),
                  "offsets must rise from 0 to the number of targets");
  STD_TORCH_CHECK(
      std::all_of(column, column + columns.numel(), [&](int64_t k) { return k >= 0 && k < items; }),
      "columns must be between 0 and the number of items");
  return call;
}

template <class T, CountsPass pass>
Tensor run(const Tensor* grad, const Tensor* tangent, const Tensor& scores, const Call& call) {
  constexpr bool to_items = pass == CountsPass::kBackward || pass == CountsPass::kDoubleBackward;
  const ScalarType dtype = compute_type(scores);
  const Tensor dense_scores = dense(scores, dtype);
  const Tensor dense_grad = grad ? dense(*grad, dtype) : Tensor();
  const Tensor dense_tangent = tangent ? dense(*tangent, dtype) : Tensor();
  const int64_t rows = scores.size(0), items = scores.size(1), total = call.columns.numel();
  STD_TORCH_CHECK(!grad || grad->numel() == total * call.num_levels, "gradient of another size");
  STD_TORCH_CHECK(!tangent || tangent->numel() == rows * items, "tangent of another size");
  Tensor out = to_items ? torch::stable::empty_like(dense_scores)
                        : torch::stable::new_empty(dense_scores, {total, call.num_levels});

  RankCountsRow<T> first{};
  first.scores = static_cast<const T*>(dense_scores.const_data_ptr());
  if (tangent) first.tangent = static_cast<const T*>(dense_tangent.const_data_ptr());
  if (grad) first.grad = static_cast<const T*>(dense_grad.const_data_ptr());
  first.levels = static_cast<const uint8_t*>(call.levels.const_data_ptr());
  first.targets = static_cast<const int64_t*>(call.columns.const_data_ptr());
  first.comparators = call.comparators.data();
  first.items = items;
  first.num_levels = call.num_levels;
  first.out = static_cast<T*>(out.mutable_data_ptr());
  const auto* offsets = static_cast<const int64_t*>(call.offsets.const_data_ptr());

  const RankCountsKernel<T> kernel = pick_isa<RankCountsKernel<T>>(
      baseline::rank_counts_row<T, pass>, avx2::rank_counts_row<T, pass>,
      avx512::rank_counts_row<T, pass>);
  const auto work = [&](int64_t begin, int64_t end) {
    thread_local RankCountsScratch<T> scratch;
    for (int64_t r = begin; r < end; ++r) {
      RankCountsRow<T> row = first;
      row.scores += r * items;
      row.levels += r * items;
      row.targets += offsets[r];
      row.num_targets = offsets[r + 1] - offsets[r];
      if (tangent) row.tangent += r * items;
      if (grad) row.grad += offsets[r] * call.num_levels;
      row.out += to_items ? r * items : offsets[r] * call.num_levels;
      kernel(row, scratch);
    }
    scratch.trim();
  };
  constexpr int64_t kPairsPerTask = 1 << 16;
  const int64_t pairs = items * (4 + total / std::max<int64_t>(rows, 1));
  torch::stable::parallel_for(
      0, rows, std::max<int64_t>(1, kPairsPerTask / std::max<int64_t>(pairs, 1)), work);
  return out;
}

template <CountsPass pass>
Tensor dispatch(const Tensor* grad, const Tensor* tangent, const Tensor& scores, const Call& call) {
  const auto run_as =
      compute_type(scores) == ScalarType::Double ? run<double, pass> : run<float, pass>;
  return run_as(grad, tangent, scores, call);
}

Tensor rank_counts(Tensor scores, Tensor levels, Tensor columns, Tensor offsets, int64_t num_levels,
                   std::vector<int64_t> kinds, std::vector<double> parameters) {
  return dispatch<CountsPass::kCounts>(
      nullptr, nullptr, scores,
      make_call(scores, levels, columns, offsets, num_levels, kinds, parameters));
}

Tensor rank_counts_tangent(Tensor tangent, Tensor scores, Tensor levels, Tensor columns,
                           Tensor offsets, int64_t num_levels, std::vector<int64_t> kinds,
                           std::vector<double> parameters) {
  return dispatch<CountsPass::kTangent>(
      nullptr, &tangent, scores,
      make_call(scores, levels, columns, offsets, num_levels, kinds, parameters));
}

Tensor rank_counts_backward(Tensor grad, Tensor scores, Tensor levels, Tensor columns,
                            Tensor offsets, int64_t num_levels, std::vector<int64_t> kinds,
                            std::vector<double> parameters) {
  const Call call = make_call(scores, levels, columns, offsets, num_levels, kinds, parameters);
  return as_type(dispatch<CountsPass::kBackward>(&grad, nullptr, scores, call),
                 scores.scalar_type());
}

Tensor rank_counts_double_backward(Tensor tangent, Tensor grad, Tensor scores, Tensor levels,
                                   Tensor columns, Tensor offsets, int64_t num_levels,
                                   std::vector<int64_t> kinds, std::vector<double> parameters) {
  const Call call = make_call(scores, levels, columns, offsets, num_levels, kinds, parameters);
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
