// The soft histogram and its derivatives on the CPU: the operators' boundary, and threads over
// rows, or over the slices of a row where there are few.

#include "cpu/soft_histogram.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "boundary.h"

#define SODEEP_FAST_KERNELS "cpu/isa/soft_histogram_row.h"
#include "cpu/foreach_isa.h"

namespace sodeep_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Items summed at a time, whatever the number of threads: results must not depend on it. Some 20 us
// of work, many times what it costs to wake a thread.
constexpr int64_t kSliceItems = 1 << 15;

// Everything but the floating-point tensors.
struct Call {
  Tensor levels;
  bool has_levels;
  int64_t num_levels, bins;
  double low, high;
};

Call make_call(const Tensor& scores, const std::optional<Tensor>& levels, int64_t num_levels,
               int64_t bins, double low, double high) {
  STD_TORCH_CHECK(num_levels >= 1 && num_levels <= 255, "between 1 and 255 levels, got ",
                  num_levels);
  STD_TORCH_CHECK(bins >= 1 && bins <= 1 << 20, "between 1 and 2^20 bins, got ", bins);
  STD_TORCH_CHECK(std::isfinite(high - low) && low < high, "low must be below high, got ", low,
                  " and ", high);
  STD_TORCH_CHECK(
      !levels || (levels->scalar_type() == ScalarType::Byte && levels->numel() == scores.numel()),
      "levels must be uint8, of the size of scores");
  return {levels ? torch::stable::contiguous(*levels) : Tensor(),
          levels.has_value(),
          num_levels,
          bins,
          low,
          high};
}

template <class T>
T limited(double value) {
  const double most = std::numeric_limits<T>::max();
  return static_cast<T>(std::clamp(value, -most, most));
}

template <class T>
SoftHistogramSlice<T> first_row(const Tensor& scores, const Call& call) {
  SoftHistogramSlice<T> row{};
  row.scores = static_cast<const T*>(scores.const_data_ptr());
  if (call.has_levels) row.levels = static_cast<const uint8_t*>(call.levels.const_data_ptr());
  row.num_levels = call.num_levels;
  row.items = scores.size(scores.dim() - 1);
  row.axis = {limited<T>(call.low),
              limited<T>(static_cast<double>(call.bins - 1) / (call.high - call.low)),
              static_cast<T>(call.bins - 1), std::max<int64_t>(call.bins - 1, 1)};
  return row;
}

template <class T>
SoftHistogramSlice<T> advance(SoftHistogramSlice<T> slice, int64_t by, int64_t items) {
  slice.scores += by;
  if (slice.tangent != nullptr) slice.tangent += by;
  if (slice.levels != nullptr) slice.levels += by;
  slice.items = items;
  return slice;
}

// Calls work(s, first, count) for slice s of a row, the items [first, first + count).
template <class F>
void for_each_slice(int64_t items, bool threads, F&& work) {
  const auto range = [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      work(s, s * kSliceItems, std::min(kSliceItems, items - s * kSliceItems));
  };
  const int64_t slices = divide_up(items, kSliceItems);
  if (threads)
    torch::stable::parallel_for(0, slices, 1, range);
  else
    range(0, slices);
}

bool threads_inside(const Rows& size) {
  return size.n > kSliceItems &&
         size.rows < 2 * static_cast<int64_t>(torch::stable::get_num_threads());
}

// What the bins [num_levels, bins] of a row receive from its cells.
template <class T, bool kTangent>
void fill_bins(const CellSums* sums, const Call& call, const HistogramAxis<T>& axis, T* out) {
  const int64_t intervals = axis.intervals;
  const bool has_nan = sums[call.num_levels * intervals + 1][0] != 0;
  for (int64_t level = 0; level < call.num_levels; ++level, sums += intervals)
    for (int64_t bin = 0; bin < call.bins; ++bin) {
      double value = bin > 0 ? sums[bin - 1][1] : 0;
      if (bin < intervals) value += (kTangent ? 0 : sums[bin][0]) - sums[bin][1];
      if (kTangent) value *= axis.scale;
      *out++ = has_nan ? std::numeric_limits<T>::quiet_NaN() : static_cast<T>(value);
    }
}

// The histogram, or its derivative along a tangent.
template <class T, bool kTangent>
Tensor accumulate(const Tensor* tangent, const Tensor& scores, const Call& call) {
  const ScalarType dtype = compute_type(scores);
  const Tensor dense_scores = dense(scores, dtype);
  const Tensor dense_tangent = kTangent ? dense(*tangent, dtype) : Tensor();
  std::vector<int64_t> shape;
  for (int64_t d = 0; d + 1 < scores.dim(); ++d) shape.push_back(scores.size(d));
  shape.insert(shape.end(), {call.num_levels, call.bins});
  Tensor out = torch::stable::new_zeros(dense_scores, shape);

  const Rows size(scores);
  if (kTangent) size.check_same(dense_tangent, "tangent");
  if (size.rows == 0) return out;
  SoftHistogramSlice<T> first = first_row<T>(dense_scores, call);
  if (kTangent) first.tangent = static_cast<const T*>(dense_tangent.const_data_ptr());
  auto* out_data = static_cast<T*>(out.mutable_data_ptr());
  const int64_t cells = first.cells(), bins = call.num_levels * call.bins;

  const AddSliceKernel<T> kernel =
      pick_isa<AddSliceKernel<T>>(baseline::add_slice<T, kTangent>, avx2::add_slice<T, kTangent>,
                                  avx512::add_slice<T, kTangent>);
  // If threads share a row, each of its slices has its own sums.
  const bool threads = threads_inside(size) && cells <= kSliceItems;
  const int64_t parts = threads ? divide_up(size.n, kSliceItems) : 1;
  size.for_each_range(threads, [&](int64_t begin, int64_t end) {
    thread_local Buffer<CellSums> memory;
    CellSums* sums = memory.reserve(parts * cells);
    for (int64_t r = begin; r < end; ++r) {
      std::fill(sums, sums + parts * cells, CellSums{});
      for_each_slice(size.n, threads, [&](int64_t s, int64_t at, int64_t count) {
        thread_local Buffer<CellSums> scratch;
        kernel(advance(first, r * size.n + at, count), scratch, sums + (threads ? s * cells : 0));
        scratch.trim();
      });
      for (int64_t k = cells; k < parts * cells; ++k) sums[k % cells] += sums[k];
      fill_bins<T, kTangent>(sums, call, first.axis, out_data + r * bins);
    }
    memory.trim();
  });
  return out;
}

// The slopes of a row's cells: the derivative along the axis, from the gradient of the bins.
template <class T>
void fill_slopes(const T* grad, const Call& call, const HistogramAxis<T>& axis, T* slopes) {
  for (int64_t level = 0; level < call.num_levels; ++level, grad += call.bins)
    for (int64_t k = 0; k < axis.intervals; ++k)
      *slopes++ = call.bins == 1 ? 0 : (grad[k + 1] - grad[k]) * axis.scale;
  slopes[0] = 0;
  slopes[1] = std::numeric_limits<T>::quiet_NaN();
}

template <class T>
Tensor spread(const Tensor& grad, const Tensor& scores, const Call& call) {
  const ScalarType dtype = compute_type(scores);
  const Tensor dense_scores = dense(scores, dtype), dense_grad = dense(grad, dtype);
  Tensor out = torch::stable::empty_like(dense_scores);
  const Rows size(scores);
  const int64_t bins = call.num_levels * call.bins;
  if (size.rows == 0) return out;
  STD_TORCH_CHECK(grad.numel() == size.rows * bins, "gradient of another size");
  const SoftHistogramSlice<T> first = first_row<T>(dense_scores, call);
  const auto* grad_data = static_cast<const T*>(dense_grad.const_data_ptr());
  auto* out_data = static_cast<T*>(out.mutable_data_ptr());

  const SpreadSliceKernel<T> kernel = pick_isa<SpreadSliceKernel<T>>(
      baseline::spread_slice<T>, avx2::spread_slice<T>, avx512::spread_slice<T>);
  const bool threads = threads_inside(size);
  size.for_each_range(threads, [&](int64_t begin, int64_t end) {
    thread_local Buffer<T> memory;
    T* slopes = memory.reserve(first.cells());
    for (int64_t r = begin; r < end; ++r) {
      fill_slopes(grad_data + r * bins, call, first.axis, slopes);
      for_each_slice(size.n, threads, [&](int64_t, int64_t at, int64_t count) {
        kernel(advance(first, r * size.n + at, count), slopes, out_data + r * size.n + at);
      });
    }
    memory.trim();
  });
  return out;
}

bool is_double(const Tensor& scores) { return compute_type(scores) == ScalarType::Double; }

Tensor soft_histogram(Tensor scores, std::optional<Tensor> levels, int64_t num_levels, int64_t bins,
                      double low, double high) {
  const auto run = is_double(scores) ? accumulate<double, false> : accumulate<float, false>;
  return run(nullptr, scores, make_call(scores, levels, num_levels, bins, low, high));
}

Tensor soft_histogram_backward(Tensor grad, Tensor scores, std::optional<Tensor> levels,
                               int64_t num_levels, int64_t bins, double low, double high) {
  const auto run = is_double(scores) ? spread<double> : spread<float>;
  return as_type(run(grad, scores, make_call(scores, levels, num_levels, bins, low, high)),
                 scores.scalar_type());
}

Tensor soft_histogram_tangent(Tensor tangent, Tensor scores, std::optional<Tensor> levels,
                              int64_t num_levels, int64_t bins, double low, double high) {
  const auto run = is_double(scores) ? accumulate<double, true> : accumulate<float, true>;
  return run(&tangent, scores, make_call(scores, levels, num_levels, bins, low, high));
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CPU, m) {
  m.impl("soft_histogram", TORCH_BOX(&sodeep_fast::soft_histogram));
  m.impl("soft_histogram_backward", TORCH_BOX(&sodeep_fast::soft_histogram_backward));
  m.impl("soft_histogram_tangent", TORCH_BOX(&sodeep_fast::soft_histogram_tangent));
}
