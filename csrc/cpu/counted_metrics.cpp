// Recalls and discounted cumulative gains over rank counts and their gradients on the CPU: the
// operators' boundary. They share a file as nearly all of it, once compiled, is the counting.

#include "cpu/counted_metrics.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/counted_call.h"
#include "cpu/flush_to_zero.h"

#define SODEEP_FAST_KERNELS "cpu/isa/counted_metrics_row.h"
#include "cpu/foreach_isa.h"

namespace sodeep_fast {
namespace {

using torch::stable::Tensor;

template <class T>
std::tuple<Tensor, Tensor> recall(const CountedCall& call, const std::vector<double>& cutoffs,
                                  double temperature, bool clip) {
  const auto kernel = pick_isa<RecallKernel<T>>(baseline::recall_row<T>, avx2::recall_row<T>,
                                                avx512::recall_row<T>);
  return call.for_each_row<T, CountedScratch<T>>([&](int64_t, const CountedRow<T>& row,
                                                     CountedScratch<T>& scratch) {
    kernel({row, cutoffs.data(), static_cast<int64_t>(cutoffs.size()), temperature, clip}, scratch);
  });
}

std::tuple<Tensor, Tensor> counted_recall(Tensor scores, Tensor levels, int64_t num_levels,
                                          std::vector<int64_t> kinds,
                                          std::vector<double> parameters, std::string method,
                                          std::vector<double> cutoffs, double temperature,
                                          bool clip, bool wants_gradient) {
  const CountedCall call(scores, levels, num_levels, kinds, parameters, method, wants_gradient);
  STD_TORCH_CHECK(!cutoffs.empty() &&
                      std::all_of(cutoffs.begin(), cutoffs.end(), [](double k) { return k > 0; }),
                  "cutoffs must be positive, and at least one");
  STD_TORCH_CHECK(temperature > 0, "temperature must be positive, got ", temperature);
  return call.is_double() ? recall<double>(call, cutoffs, temperature, clip)
                          : recall<float>(call, cutoffs, temperature, clip);
}

template <class T>
std::tuple<Tensor, Tensor> gain(const CountedCall& call) {
  std::vector<double> discounts(call.items() + 1, 0.0);
  for (int64_t k = 1; k <= call.items(); ++k)
    discounts[k] = discounts[k - 1] + 1 / std::log2(static_cast<double>(k + 1));
  const auto kernel =
      pick_isa<GainKernel<T>>(baseline::gain_row<T>, avx2::gain_row<T>, avx512::gain_row<T>);
  return call.for_each_row<T, CountedScratch<T>>(
      [&](int64_t, const CountedRow<T>& row, CountedScratch<T>& scratch) {
        kernel({row, discounts.data()}, scratch);
      });
}

std::tuple<Tensor, Tensor> counted_ndcg(Tensor scores, Tensor levels, int64_t num_levels,
                                        std::vector<int64_t> kinds, std::vector<double> parameters,
                                        std::string method, bool wants_gradient) {
  const CountedCall call(scores, levels, num_levels, kinds, parameters, method, wants_gradient);
  return call.is_double() ? gain<double>(call) : gain<float>(call);
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CPU, m) {
  m.impl("counted_ndcg", TORCH_BOX(&sodeep_fast::counted_ndcg));
  m.impl("counted_recall", TORCH_BOX(&sodeep_fast::counted_recall));
}
