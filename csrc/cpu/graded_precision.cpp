// Average precisions over rank counts and their gradients on the CPU: the operator's boundary, and
// threads over rows.

#include "cpu/graded_precision.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "boundary.h"
#include "cpu/flush_to_zero.h"
#include "cpu/rank_counts_options.h"
#include "math/sigmoid_panels.h"

#define SODEEP_FAST_KERNELS "cpu/graded_precision_row.h"
#include "cpu/foreach_isa.h"

namespace sodeep_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct GradedCall {
  Tensor scores, levels;
  int64_t num_levels;
  Comparators comparators;
  CountsMethod method;
  std::optional<Tensor> missing, missing_rows;
  int64_t least;
  std::optional<Tensor> relevances;
  double alpha;
  bool soft, wants_gradient;
};

template <class T>
std::tuple<Tensor, Tensor> run(const GradedCall& call) {
  const ScalarType type = compute_type(call.scores);
  const Tensor scores = dense(call.scores, type), levels = torch::stable::contiguous(call.levels);
  const Tensor missing = call.missing ? dense(*call.missing, type) : Tensor();
  const Tensor missing_rows =
      call.missing ? torch::stable::contiguous(*call.missing_rows) : Tensor();
  const Tensor relevances = call.relevances ? dense(*call.relevances, type) : Tensor();
  const auto numbers = [](const Tensor& tensor) {
    return static_cast<const T*>(tensor.const_data_ptr());
  };
  const int64_t queries = scores.size(0), items = scores.size(1), L = call.num_levels;
  std::vector<T> powers(L);
  for (int64_t l = 0; l < L; ++l)
    powers[l] = static_cast<T>(std::pow(static_cast<double>(l), call.alpha));
  const bool by_row = call.relevances && relevances.dim() == 2;
  const auto comparators = for_derivative<T>(call.comparators, call.method, 0),
             slopes = for_derivative<T>(call.comparators, call.method, 1);
  Tensor values = torch::stable::new_empty(scores, {queries});
  Tensor gradient = torch::stable::new_empty(scores, {call.wants_gradient ? queries : 0, items});
  auto* value = static_cast<T*>(values.mutable_data_ptr());
  auto* to = static_cast<T*>(gradient.mutable_data_ptr());

  const auto* rows =
      call.missing ? static_cast<const int64_t*>(missing_rows.const_data_ptr()) : nullptr;
  const int64_t missing_count = call.missing ? missing.size(0) : 0;
  STD_TORCH_CHECK(std::is_sorted(rows, rows + missing_count) &&
                      (missing_count == 0 || (rows[0] >= 0 && rows[missing_count - 1] < queries)),
                  "missing_rows must be rows, in order");
  const auto first_missing = [=](int64_t r) {
    return std::lower_bound(rows, rows + missing_count, r) - rows;
  };
  const auto kernel =
      pick_isa<GradedKernel<T>>(baseline::graded_precision_row<T>, avx2::graded_precision_row<T>,
                                avx512::graded_precision_row<T>);
  constexpr int64_t kItemsPerTask = 1 << 13;
  std::atomic<bool> valid{true};
  const auto work = [&](int64_t begin, int64_t end) {
    thread_local GradedScratch<T> scratch;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t first = first_missing(r);
      const GradedRow<T> row{
          numbers(scores) + r * items,
          static_cast<const uint8_t*>(levels.const_data_ptr()) + r * items,
          items,
          L,
          comparators.data(),
          slopes.data(),
          call.method,
          call.missing ? call.least : L,
          call.missing ? numbers(missing) + first * L : nullptr,
          first_missing(r + 1) - first,
          call.relevances ? numbers(relevances) + (by_row ? r * L : 0) : powers.data(),
          !call.relevances,
          call.soft,
          value + r,
          call.wants_gradient ? to + r * items : nullptr,
      };
      if (!kernel(row, scratch)) valid = false;
    }
    scratch.trim();
  };
  const int64_t grain = std::max<int64_t>(1, kItemsPerTask / std::max<int64_t>(items, 1));
  torch::stable::parallel_for(0, queries, grain, work);
  STD_TORCH_CHECK(valid, "missing must be of the targets of level >= least");
  return {values, gradient};
}

std::tuple<Tensor, Tensor> graded_precision(Tensor scores, Tensor levels, int64_t num_levels,
                                            std::vector<int64_t> kinds,
                                            std::vector<double> parameters, std::string method,
                                            std::optional<Tensor> missing,
                                            std::optional<Tensor> missing_rows, int64_t least,
                                            std::optional<Tensor> relevances, double alpha,
                                            bool soft, bool wants_gradient) {
  STD_TORCH_CHECK(scores.dim() == 2 && scores.size(1) < std::numeric_limits<int32_t>::max() / 2,
                  "scores must be a matrix, with rows of at most 2^30 items");
  STD_TORCH_CHECK(levels.dim() == 2 && levels.scalar_type() == ScalarType::Byte &&
                      levels.size(0) == scores.size(0) && levels.size(1) == scores.size(1),
                  "levels must be a uint8 matrix of the size of scores");
  STD_TORCH_CHECK(num_levels >= 1 && num_levels <= 255, "between 1 and 255 levels, got ",
                  num_levels);
  STD_TORCH_CHECK(!missing || (missing->dim() == 2 && missing->size(1) == num_levels &&
                               missing_rows && missing_rows->scalar_type() == ScalarType::Long &&
                               missing_rows->numel() == missing->size(0)),
                  "missing must have num_levels columns, and missing_rows a row for each of it");
  STD_TORCH_CHECK(!relevances || relevances->numel() ==
                                     (relevances->dim() == 1 ? 1 : scores.size(0)) * num_levels,
                  "relevances must be (L) or (B, L)");
  const GradedCall call{scores,
                        levels,
                        num_levels,
                        parse_comparators(kinds, parameters),
                        parse_method(method),
                        missing,
                        missing_rows,
                        least,
                        relevances,
                        alpha,
                        soft,
                        wants_gradient};
  return compute_type(scores) == ScalarType::Double ? run<double>(call) : run<float>(call);
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CPU, m) {
  m.impl("graded_precision", TORCH_BOX(&sodeep_fast::graded_precision));
}
