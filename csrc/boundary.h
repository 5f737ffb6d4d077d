// From tensors to kernel arguments: shared by the entry points of all operators on every device.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <cstdint>

namespace sodeep_fast {

// n of (..., n) scores.
inline int64_t row_length(const torch::stable::Tensor& scores) {
  STD_TORCH_CHECK(scores.dim() > 0, "scores must have a dimension");
  return scores.size(scores.dim() - 1);
}

// Kernels read bytes as bool; only in a bool tensor are these guaranteed to be 0 or 1.
inline bool is_bool(const torch::stable::Tensor& tensor) {
  return tensor.scalar_type() == torch::headeronly::ScalarType::Bool;
}

inline void check_lam(double lam) {
  STD_TORCH_CHECK(lam > 0 && std::isfinite(lam), "lam must be positive and finite, got ", lam);
}

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

}  // namespace sodeep_fast
