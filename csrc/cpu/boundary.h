// From tensors to rows and back: what every operator's entry does alike.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

namespace sodeep_fast {

// float64 is computed in float64, everything else in float32.
inline torch::headeronly::ScalarType compute_type(const torch::stable::Tensor& scores) {
  using torch::headeronly::ScalarType;
  return scores.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline torch::stable::Tensor as_type(const torch::stable::Tensor& tensor,
                                     torch::headeronly::ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

inline torch::stable::Tensor dense(const torch::stable::Tensor& tensor,
                                   torch::headeronly::ScalarType dtype) {
  return torch::stable::contiguous(as_type(tensor, dtype));
}

// The sizes of (..., n) scores as a matrix; no rows where there is nothing in them.
struct Rows {
  int64_t rows, n;

  explicit Rows(const torch::stable::Tensor& scores) : n(scores.size(scores.dim() - 1)) {
    STD_TORCH_CHECK(n <= std::numeric_limits<int32_t>::max(), "rows of more than 2^31 - 1 scores");
    rows = n == 0 ? 0 : scores.numel() / n;
  }

  void check_same(const torch::stable::Tensor& other, const char* name) const {
    STD_TORCH_CHECK(other.numel() == rows * n, name, " and scores differ in size");
  }

  // Calls work(begin, end) over ranges of rows, in threads unless the rows themselves use them.
  template <class F>
  void for_each_range(bool threads_inside, F&& work) const {
    constexpr int64_t kItemsPerTask = 2048;
    if (threads_inside)
      work(int64_t(0), rows);
    else
      torch::stable::parallel_for(0, rows, std::max<int64_t>(1, kItemsPerTask / n),
                                  std::forward<F>(work));
  }
};

}  // namespace sodeep_fast
