// What every operator does with its tensors at the boundary.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace sodeep_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Half inputs are computed in float.
inline ScalarType compute_type(const Tensor& scores) {
  return scores.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor prepare(const Tensor& tensor, ScalarType dtype) {
  return torch::stable::contiguous(
      tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype));
}

// Ranks keep the precision that they were computed in; gradients take that of the scores.
inline Tensor like_scores(const Tensor& grad, const Tensor& scores) {
  return grad.scalar_type() == scores.scalar_type() ? grad
                                                    : torch::stable::to(grad, scores.scalar_type());
}

}  // namespace sodeep_fast
