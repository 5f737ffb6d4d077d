// Average precisions over rank counts and their gradients on the CPU: the operator's boundary.

#include "cpu/graded_precision.h"

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/counted_call.h"
#include "cpu/flush_to_zero.h"

#define SODEEP_FAST_KERNELS "cpu/isa/graded_precision_row.h"
#include "cpu/foreach_isa.h"

namespace sodeep_fast {
namespace {

using torch::stable::Tensor;

struct GradedOptions {
  int64_t num_levels, least;
  double at_zero;
  std::optional<Tensor> relevances;
  double alpha;
  bool soft;
};

template <class T>
std::tuple<Tensor, Tensor> run(const CountedCall& call, const GradedOptions& options) {
  const int64_t L = options.num_levels;
  std::vector<T> powers(L);
  for (int64_t l = 0; l < L; ++l)
    powers[l] = static_cast<T>(std::pow(static_cast<double>(l), options.alpha));
  const bool is_given = options.relevances.has_value();
  const Tensor given = is_given ? dense(*options.relevances, call.compute_type()) : Tensor();
  const T* relevances = is_given ? static_cast<const T*>(given.const_data_ptr()) : powers.data();
  const int64_t stride = is_given && given.dim() == 2 ? L : 0;
  const Comparator step{Comparison::kStep, 1, 0, 0, 0, 0, options.at_zero, 0, 0, 0, {}};
  const auto kernel =
      pick_isa<GradedKernel<T>>(baseline::graded_precision_row<T>, avx2::graded_precision_row<T>,
                                avx512::graded_precision_row<T>);
  return call.for_each_row<T, GradedScratch<T>>([&](int64_t r, const CountedRow<T>& row,
                                                    GradedScratch<T>& scratch) {
    kernel({row, options.least, step, relevances + r * stride, !is_given, options.soft}, scratch);
  });
}

std::tuple<Tensor, Tensor> graded_precision(Tensor scores, Tensor levels, int64_t num_levels,
                                            std::vector<int64_t> kinds,
                                            std::vector<double> parameters, std::string method,
                                            int64_t least, double at_zero,
                                            std::optional<Tensor> relevances, double alpha,
                                            bool soft, bool wants_gradient) {
  const CountedCall call(scores, levels, num_levels, kinds, parameters, method, wants_gradient);
  STD_TORCH_CHECK(least >= 1, "least must be at least 1, got ", least);
  STD_TORCH_CHECK(!relevances || relevances->numel() ==
                                     (relevances->dim() == 1 ? 1 : scores.size(0)) * num_levels,
                  "relevances must be (L) or (B, L)");
  const GradedOptions options{num_levels, least, at_zero, relevances, alpha, soft};
  return call.is_double() ? run<double>(call, options) : run<float>(call, options);
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CPU, m) {
  m.impl("graded_precision", TORCH_BOX(&sodeep_fast::graded_precision));
}
