// The soft rank and its derivatives on the CPU: the operators' boundary, and threads over rows.

#include "cpu/soft_rank.h"

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <optional>
#include <string>

#include "boundary.h"
#include "cpu/far_panels.h"
#include "cpu/flush_to_zero.h"
#include "cpu/wide_panels.h"

#define SODEEP_FAST_KERNELS "cpu/isa/soft_rank_row.h"
#include "cpu/foreach_isa.h"

namespace sodeep_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T, int kDerivative>
Tensor run(const Tensor& scores, const Tensor* const (&weights)[2],
           const std::optional<Tensor>& mask, double lam, bool normalize, Method method) {
  check_lam(lam);
  const Rows size(scores);
  if (mask) size.check_mask(*mask);
  for (int k = 0; k < kDerivative; ++k) size.check_same(*weights[k], "gradient");
  const ScalarType dtype = compute_type(scores);
  const Tensor dense_scores = dense(scores, dtype);
  const Tensor dense_mask = mask ? torch::stable::contiguous(*mask) : Tensor();
  const Tensor dense_weights[2] = {kDerivative > 0 ? dense(*weights[0], dtype) : Tensor(),
                                   kDerivative > 1 ? dense(*weights[1], dtype) : Tensor()};
  Tensor out = torch::stable::empty_like(dense_scores);
  if (size.rows == 0) return out;
  const int64_t n = size.n;

  SoftRankRow<T> first{};
  first.scores = static_cast<const T*>(dense_scores.const_data_ptr());
  for (int k = 0; k < kDerivative; ++k)
    first.weights[k] = static_cast<const T*>(dense_weights[k].const_data_ptr());
  if (mask) first.mask = static_cast<const bool*>(dense_mask.const_data_ptr());
  first.n = n;
  first.lam = lam;
  first.normalize = normalize;
  first.method = method;
  first.out = static_cast<T*>(out.mutable_data_ptr());

  const SoftRankKernel<T> kernel = pick_isa<SoftRankKernel<T>>(
      baseline::soft_rank_row<T, kDerivative>, avx2::soft_rank_row<T, kDerivative>,
      avx512::soft_rank_row<T, kDerivative>);
  // Where rows are few and long, the threads work inside each.
  constexpr int64_t kLongRow = 16384;
  const auto threads = static_cast<int64_t>(torch::stable::get_num_threads());
  const bool threads_inside = size.rows < 2 * threads && n >= kLongRow;
  size.for_each_range(threads_inside, [&](int64_t begin, int64_t end) {
    thread_local SoftRankScratch<T> scratch;
    for (int64_t r = begin; r < end; ++r) {
      SoftRankRow<T> row = first;
      row.scores += r * n;
      row.out += r * n;
      for (int k = 0; k < kDerivative; ++k) row.weights[k] += r * n;
      if (row.mask != nullptr) row.mask += r * n;
      kernel(row, scratch);
    }
    scratch.trim();
  });
  return out;
}

template <int kDerivative>
Tensor dispatch(const Tensor& scores, const Tensor* const (&weights)[2],
                const std::optional<Tensor>& mask, double lam, bool normalize,
                const std::string& method) {
  const auto call = compute_type(scores) == ScalarType::Double ? run<double, kDerivative>
                                                               : run<float, kDerivative>;
  return call(scores, weights, mask, lam, normalize, parse_method(method));
}

Tensor soft_rank(Tensor scores, std::optional<Tensor> mask, double lam, bool normalize,
                 std::string method) {
  return dispatch<0>(scores, {nullptr, nullptr}, mask, lam, normalize, method);
}

Tensor soft_rank_backward(Tensor grad, Tensor scores, std::optional<Tensor> mask, double lam,
                          bool normalize, std::string method) {
  // Ranks keep the precision that they are computed in; gradients are converted to the scores'
  // dtype.
  return as_type(dispatch<1>(scores, {&grad, nullptr}, mask, lam, normalize, method),
                 scores.scalar_type());
}

Tensor soft_rank_double_backward(Tensor grad_grad, Tensor grad, Tensor scores,
                                 std::optional<Tensor> mask, double lam, bool normalize,
                                 std::string method) {
  return as_type(dispatch<2>(scores, {&grad, &grad_grad}, mask, lam, normalize, method),
                 scores.scalar_type());
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CPU, m) {
  m.impl("soft_rank", TORCH_BOX(&sodeep_fast::soft_rank));
  m.impl("soft_rank_backward", TORCH_BOX(&sodeep_fast::soft_rank_backward));
  m.impl("soft_rank_double_backward", TORCH_BOX(&sodeep_fast::soft_rank_double_backward));
}
