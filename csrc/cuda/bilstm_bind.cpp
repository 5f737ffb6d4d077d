// The CUDA implementation of bilstm's steps: torch's tensors in, plain launchers called.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "boundary.h"
#include "cuda/bilstm.h"
#include "cuda/stream.h"

namespace sodeep_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A layer's parameters in PyTorch's order, of one direction and then of the other, as float32.
struct Weights {
  std::vector<Tensor> tensors;

  explicit Weights(const std::vector<Tensor>& given) {
    STD_TORCH_CHECK(given.size() == 8, "weights must be 8, got ", given.size());
    for (const Tensor& weight : given) tensors.push_back(dense(weight, ScalarType::Float));
    STD_TORCH_CHECK(hidden() >= 1 && hidden() <= 128, "a layer must have 1 to 128 hidden units");
  }

  int64_t hidden() const { return tensors[1].size(1); }

  // One of the four, of both directions.
  void point(const float* (&both)[2], int which) const {
    for (int direction = 0; direction < 2; ++direction)
      both[direction] = static_cast<const float*>(tensors[4 * direction + which].const_data_ptr());
  }
};

void* optional_data(std::optional<Tensor>& tensor) {
  return tensor ? tensor->mutable_data_ptr() : nullptr;
}

// A grid has so many blocks at most, two for every 8 rows.
void check_rows(int64_t batch) {
  STD_TORCH_CHECK(batch < (int64_t{1} << 33) - 8, "a layer of 2^33 rows");
}

void check(const char* error) {
  STD_TORCH_CHECK(error == nullptr, "bilstm: ", error == nullptr ? "" : error);
}

void steps(Tensor entering, std::vector<Tensor> given, std::optional<Tensor> head, Tensor output,
           std::optional<Tensor> saved, bool bf16) {
  const DeviceStream on(entering);
  const Weights weights(given);
  SodeepFastBilstmForward call{};
  call.steps = entering.size(0);
  call.batch = entering.size(1);
  check_rows(call.batch);
  call.hidden = static_cast<int32_t>(weights.hidden());
  call.bf16 = bf16;
  call.input = static_cast<const float*>(entering.const_data_ptr());
  call.per_step = entering.stride(0);
  call.per_row = entering.stride(1);
  call.scalar = entering.size(2) == 1;
  weights.point(call.column, 0);
  weights.point(call.weight, 1);
  weights.point(call.bias, 2);
  weights.point(call.more, 3);
  const Tensor dense_head = head ? dense(*head, ScalarType::Float) : Tensor();
  if (head) call.head = static_cast<const float*>(dense_head.const_data_ptr());
  call.output = static_cast<float*>(output.mutable_data_ptr());
  call.saved = optional_data(saved);
  check(sodeep_fast_bilstm_forward(&call, on.stream));
}

void steps_backward(Tensor grad, std::vector<Tensor> given, std::optional<Tensor> head,
                    Tensor saved, std::optional<Tensor> largest, std::optional<Tensor> by_scores,
                    std::optional<Tensor> gates, std::optional<Tensor> scale, bool bf16) {
  const DeviceStream on(grad);
  const Weights weights(given);
  SodeepFastBilstmBackward call{};
  call.steps = grad.size(head ? 1 : 0);
  call.batch = grad.size(head ? 2 : 1);
  check_rows(call.batch);
  call.hidden = static_cast<int32_t>(weights.hidden());
  call.bf16 = bf16;
  const Tensor dense_head = head ? dense(*head, ScalarType::Float) : Tensor();
  if (head) call.head = static_cast<const float*>(dense_head.const_data_ptr());
  call.grad = static_cast<const float*>(grad.const_data_ptr());
  call.saved = saved.const_data_ptr();
  if (largest) call.largest = static_cast<const float*>(largest->const_data_ptr());
  weights.point(call.column, 0);
  weights.point(call.weight, 1);
  call.by_scores = static_cast<float*>(optional_data(by_scores));
  call.gates = optional_data(gates);
  call.scale = static_cast<float*>(optional_data(scale));
  check(sodeep_fast_bilstm_backward(&call, on.stream));
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CUDA, m) {
  m.impl("cuda_bilstm_steps", TORCH_BOX(&sodeep_fast::steps));
  m.impl("cuda_bilstm_steps_backward", TORCH_BOX(&sodeep_fast::steps_backward));
}
