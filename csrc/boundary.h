// From tensors to what kernels take: what every operator's entry does alike on every device.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

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

}  // namespace sodeep_fast
