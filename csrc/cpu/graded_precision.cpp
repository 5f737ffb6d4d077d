// Average precisions over rank counts and their gradients on the CPU: the operator's boundary, and
// threads over rows.

#include "cpu/graded_precision.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "boundary.h"
#include "cpu/far_panels.h"
#include "cpu/flush_to_zero.h"
#include "cpu/rank_counts_options.h"

#define SODEEP_FAST_KERNELS "cpu/isa/graded_precision_row.h"
#include "cpu/foreach_isa.h"

namespace sodeep_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct GradedCall {
  Tensor scores, levels;
  int64_t num_levels;
  Comparators comparators;
  Method method;
  int64_t least;
  double at_zero;
  std::optional<Tensor> relevances;
  double alpha;
  bool soft, wants_gradient;
};

template <class T>
std::tuple<Tensor, Tensor> run(const GradedCall& call) {
  const ScalarType type = compute_type(call.scores);
  const Tensor scores = dense(call.scores, type), levels = torch::stable::contiguous(call.levels);
  const Tensor relevances = call.relevances ? dense(*call.relevances, type) : Tensor();
  const auto numbers = [](const Tensor& tensor) {
    return static_cast<const T*>(tensor.const_data_ptr());
  };
  const int64_t queries = scores.size(0), items = scores.size(1), L = call.num_levels;
  std::vector<T> powers(L);
  for (int64_t l = 0; l < L; ++l)
    powers[l] = static_cast<T>(std::pow(static_cast<double>(l), call.alpha));
  const bool by_row = call.relevances && relevances.dim() == 2;
  const auto comparators =
      for_derivatives<T>(call.comparators, call.method, 0, call.wants_gradient ? 1 : 0);
  const Comparator step{Comparison::kStep, 1, 0, 0, 0, 0, call.at_zero, 0, 0, 0, {}};
  Tensor values = torch::stable::new_empty(scores, {queries});
  Tensor gradient = torch::stable::new_empty(scores, {call.wants_gradient ? queries : 0, items});
  auto* value = static_cast<T*>(values.mutable_data_ptr());
  auto* to = static_cast<T*>(gradient.mutable_data_ptr());

  const auto kernel =
      pick_isa<GradedKernel<T>>(baseline::graded_precision_row<T>, avx2::graded_precision_row<T>,
                                avx512::graded_precision_row<T>);
  constexpr int64_t kItemsPerTask = 1 << 13;
  const auto work = [&](int64_t begin, int64_t end) {
    thread_local GradedScratch<T> scratch;
    for (int64_t r = begin; r < end; ++r) {
      const GradedRow<T> row{
          numbers(scores) + r * items,
          static_cast<const uint8_t*>(levels.const_data_ptr()) + r * items,
          items,
          L,
          comparators.data(),
          call.method,
          call.least,
          step,
          call.relevances ? numbers(relevances) + (by_row ? r * L : 0) : powers.data(),
          !call.relevances,
          call.soft,
          value + r,
          call.wants_gradient ? to + r * items : nullptr,
      };
      kernel(row, scratch);
    }
    scratch.trim();
  };
  const int64_t grain = std::max<int64_t>(1, kItemsPerTask / std::max<int64_t>(items, 1));
  torch::stable::parallel_for(0, queries, grain, work);
  return {values, gradient};
}

std::tuple<Tensor, Tensor> graded_precision(Tensor scores, Tensor levels, int64_t num_levels,
                                            std::vector<int64_t> kinds,
                                            std::vector<double> parameters, std::string method,
                                            int64_t least, double at_zero,
                                            std::optional<Tensor> relevances, double alpha,
                                            bool soft, bool wants_gradient) {
  STD_TORCH_CHECK(scores.dim() == 2 && scores.size(1) < std::numeric_limits<int32_t>::max() / 2,
                  "scores must be a matrix, with rows of at most 2^30 items");
  STD_TORCH_CHECK(levels.dim() == 2 && levels.scalar_type() == ScalarType::Byte &&
                      levels.size(0) == scores.size(0) && levels.size(1) == scores.size(1),
                  "levels must be a uint8 matrix of the size of scores");
  STD_TORCH_CHECK(num_levels >= 1 && num_levels <= 255, "between 1 and 255 levels, got ",
                  num_levels);
  STD_TORCH_CHECK(least >= 1, "least must be at least 1, got ", least);
  STD_TORCH_CHECK(!relevances || relevances->numel() ==
                                     (relevances->dim() == 1 ? 1 : scores.size(0)) * num_levels,
                  "relevances must be (L) or (B, L)");
  const GradedCall call{scores,
                        levels,
                        num_levels,
                        parse_comparators(kinds, parameters),
                        parse_method(method),
                        least,
                        at_zero,
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
