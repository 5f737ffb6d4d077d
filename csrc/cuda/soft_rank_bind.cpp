// The CUDA implementation of soft_rank's operators: calls the plain launchers with torch's tensors.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "boundary.h"
#include "cuda/soft_rank.h"
#include "cuda/stream.h"

namespace sodeep_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Ranks keep the precision that they are computed in; gradients are converted to the scores' dtype.
Tensor run(int derivative, const Tensor& scores, const Tensor* grad, const Tensor* grad_grad,
           const std::optional<Tensor>& mask, double lam, bool normalize,
           const std::string& method) {
  STD_TORCH_CHECK(method == "auto" || method == "direct" || method == "linear",
                  "method must be auto, direct or linear, got ", method);
  check_lam(lam);
  STD_TORCH_CHECK(!mask || is_bool(*mask), "mask must be bool");
  const int64_t n = row_length(scores);
  const int32_t device = scores.get_device_index();
  const DeviceStream on(scores);
  const ScalarType dtype = compute_type(scores);

  const Tensor dense_scores = dense(scores, dtype);
  const Tensor dense_grad = grad ? dense(*grad, dtype) : Tensor();
  const Tensor dense_grad_grad = grad_grad ? dense(*grad_grad, dtype) : Tensor();
  const Tensor dense_mask = mask ? torch::stable::contiguous(*mask) : Tensor();
  Tensor out = torch::stable::empty_like(dense_scores);
  if (scores.numel() == 0) return out;

  SodeepFastSoftRank call{};
  call.n = n;
  call.rows = scores.numel() / call.n;
  STD_TORCH_CHECK(call.n <= std::numeric_limits<int32_t>::max(),
                  "rows of more than 2^31 - 1 scores");
  call.lam = lam;
  call.derivative = derivative;
  call.is_double = dtype == ScalarType::Double;
  call.linear = method == "linear";  // "auto" is resolved where the backend is chosen
  call.normalize = normalize;
  const auto data = [&](const Tensor& tensor) {
    STD_TORCH_CHECK(tensor.numel() == scores.numel() && tensor.get_device_index() == device,
                    "scores, mask and gradients must have one size and one device");
    return tensor.const_data_ptr();
  };
  call.scores = data(dense_scores);
  if (mask) call.mask = static_cast<const uint8_t*>(data(dense_mask));
  if (grad) call.grad = data(dense_grad);
  if (grad_grad) call.grad_grad = data(dense_grad_grad);
  call.out = out.mutable_data_ptr();

  // Scratch from torch's allocator: freed when we return, it is reused only after the stream's
  // work.
  Tensor workspace;
  const auto bytes = static_cast<int64_t>(sodeep_fast_soft_rank_workspace(&call));
  if (bytes > 0) {
    workspace = torch::stable::new_empty(dense_scores, {bytes}, ScalarType::Byte);
    call.workspace = workspace.mutable_data_ptr();
  }
  const char* error = sodeep_fast_soft_rank(&call, on.stream);
  STD_TORCH_CHECK(error == nullptr, "soft_rank: ", error == nullptr ? "" : error);
  return derivative == 0 ? out : as_type(out, scores.scalar_type());
}

Tensor soft_rank(Tensor scores, std::optional<Tensor> mask, double lam, bool normalize,
                 std::string method) {
  return run(0, scores, nullptr, nullptr, mask, lam, normalize, method);
}

Tensor soft_rank_backward(Tensor grad, Tensor scores, std::optional<Tensor> mask, double lam,
                          bool normalize, std::string method) {
  return run(1, scores, &grad, nullptr, mask, lam, normalize, method);
}

Tensor soft_rank_double_backward(Tensor grad_grad, Tensor grad, Tensor scores,
                                 std::optional<Tensor> mask, double lam, bool normalize,
                                 std::string method) {
  return run(2, scores, &grad, &grad_grad, mask, lam, normalize, method);
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CUDA, m) {
  m.impl("soft_rank", TORCH_BOX(&sodeep_fast::soft_rank));
  m.impl("soft_rank_backward", TORCH_BOX(&sodeep_fast::soft_rank_backward));
  m.impl("soft_rank_double_backward", TORCH_BOX(&sodeep_fast::soft_rank_double_backward));
}
