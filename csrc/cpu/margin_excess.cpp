// The calibration of scores on the CPU: the operators' boundary, and threads over rows.

#include "cpu/margin_excess.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "boundary.h"

#define SODEEP_FAST_KERNELS "cpu/isa/margin_excess_row.h"
#include "cpu/foreach_isa.h"

namespace sodeep_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The rows of scores (B, M), with their positives and mask.
template <class T>
class MarginRows {
 public:
  MarginRows(const Tensor& scores, const Tensor& positives, const std::optional<Tensor>& mask,
             double pos_margin, double neg_margin)
      : scores_(dense(scores, compute_type(scores))),
        positives_(torch::stable::contiguous(positives)),
        mask_(mask ? torch::stable::contiguous(*mask) : Tensor()),
        first_{static_cast<const T*>(scores_.const_data_ptr()),
               static_cast<const uint8_t*>(positives_.const_data_ptr()),
               mask ? static_cast<const uint8_t*>(mask_.const_data_ptr()) : nullptr,
               scores.size(1),
               static_cast<T>(pos_margin),
               static_cast<T>(neg_margin)} {}

  Tensor like_scores() const { return torch::stable::empty_like(scores_); }

  // Calls visit(row number, row).
  template <class Visit>
  void for_each(const Visit& visit) const {
    constexpr int64_t kItemsPerTask = 1 << 15;
    const int64_t grain = kItemsPerTask / std::max<int64_t>(first_.n, 1);
    torch::stable::parallel_for(0, scores_.size(0), std::max<int64_t>(1, grain),
                                [&](int64_t begin, int64_t end) {
                                  for (int64_t r = begin; r < end; ++r) visit(r, at(r));
                                });
  }

 private:
  MarginRow<T> at(int64_t r) const {
    MarginRow<T> row = first_;
    row.scores += r * row.n;
    row.positives += r * row.n;
    if (row.mask != nullptr) row.mask += r * row.n;
    return row;
  }

  Tensor scores_, positives_, mask_;
  MarginRow<T> first_;
};

void check(const Tensor& scores, const Tensor& positives, const std::optional<Tensor>& mask) {
  STD_TORCH_CHECK(scores.dim() == 2, "scores must have two dimensions, got ", scores.dim());
  const auto fits = [&](const Tensor& bytes) {
    return bytes.element_size() == 1 && bytes.numel() == scores.numel();
  };
  STD_TORCH_CHECK(fits(positives) && (!mask || fits(*mask)),
                  "positives and mask must be bytes, of the size of scores");
}

template <class T>
std::tuple<Tensor, Tensor> sums(const Tensor& scores, const Tensor& positives,
                                const std::optional<Tensor>& mask, double pos_margin,
                                double neg_margin) {
  const MarginRows<T> rows(scores, positives, mask, pos_margin, neg_margin);
  const auto kernel = pick_isa<MarginSumsKernel<T>>(baseline::margin_sums<T>, avx2::margin_sums<T>,
                                                    avx512::margin_sums<T>);
  std::vector<MarginSums> by_row(scores.size(0));
  rows.for_each([&](int64_t r, const MarginRow<T>& row) { by_row[r] = kernel(row); });
  MarginSums total{};
  for (const MarginSums& row : by_row)
    for (int kind = 0; kind < 2; ++kind) {
      total.excess[kind] += row.excess[kind];
      total.active[kind] += row.active[kind];
    }
  Tensor excess = torch::stable::new_empty(scores, {2}, compute_type(scores));
  Tensor active = torch::stable::new_empty(scores, {2}, ScalarType::Long);
  std::transform(total.excess, total.excess + 2, static_cast<T*>(excess.mutable_data_ptr()),
                 [](double sum) { return static_cast<T>(sum); });
  std::copy(total.active, total.active + 2, static_cast<int64_t*>(active.mutable_data_ptr()));
  return {excess, active};
}

template <class T>
Tensor slopes(const Tensor& grad, const Tensor& scores, const Tensor& positives,
              const std::optional<Tensor>& mask, double pos_margin, double neg_margin) {
  const MarginRows<T> rows(scores, positives, mask, pos_margin, neg_margin);
  const auto kernel = pick_isa<MarginSlopesKernel<T>>(
      baseline::margin_slopes<T>, avx2::margin_slopes<T>, avx512::margin_slopes<T>);
  STD_TORCH_CHECK(grad.numel() == 2, "gradient of another size");
  const Tensor dense_grad = dense(grad, compute_type(scores));
  const auto* slope = static_cast<const T*>(dense_grad.const_data_ptr());
  Tensor out = rows.like_scores();
  auto* data = static_cast<T*>(out.mutable_data_ptr());
  rows.for_each([&](int64_t r, const MarginRow<T>& row) {
    kernel(row, -slope[0], slope[1], data + r * row.n);
  });
  return out;
}

std::tuple<Tensor, Tensor> margin_excess(Tensor scores, Tensor positives,
                                         std::optional<Tensor> mask, double pos_margin,
                                         double neg_margin) {
  check(scores, positives, mask);
  const bool is_double = compute_type(scores) == ScalarType::Double;
  return (is_double ? sums<double> : sums<float>)(scores, positives, mask, pos_margin, neg_margin);
}

Tensor margin_excess_backward(Tensor grad, Tensor scores, Tensor positives,
                              std::optional<Tensor> mask, double pos_margin, double neg_margin) {
  check(scores, positives, mask);
  const auto call = compute_type(scores) == ScalarType::Double ? slopes<double> : slopes<float>;
  return as_type(call(grad, scores, positives, mask, pos_margin, neg_margin), scores.scalar_type());
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CPU, m) {
  m.impl("margin_excess", TORCH_BOX(&sodeep_fast::margin_excess));
  m.impl("margin_excess_backward", TORCH_BOX(&sodeep_fast::margin_excess_backward));
}
