// The CUDA implementation of bilstm's steps: checks torch's tensors and calls the plain launchers.

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

// Raises unless a tensor is dense and has this type, size and device: kernels only get its address.
void check_dense(const char* name, const Tensor& tensor, ScalarType type, int64_t numel,
                 int32_t device) {
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, " is of another type");
  STD_TORCH_CHECK(tensor.numel() == numel, name, " must have ", numel, " numbers, got ",
                  tensor.numel());
  STD_TORCH_CHECK(tensor.is_contiguous(), name, " must be contiguous");
  STD_TORCH_CHECK(tensor.get_device_index() == device, name, " is on another device");
}

// A layer's parameters in PyTorch's order, of one direction and then of the other, as float32.
struct Weights {
  std::vector<Tensor> tensors;

  explicit Weights(const std::vector<Tensor>& given) {
    STD_TORCH_CHECK(given.size() == 8, "weights must be 8, got ", given.size());
    for (const Tensor& weight : given) tensors.push_back(dense(weight, ScalarType::Float));
    STD_TORCH_CHECK(tensors[1].dim() == 2 && hidden() >= 1 && hidden() <= 128,
                    "a layer must have 1 to 128 hidden units");
  }

  // Raises unless they are on the device and have a layer's sizes; if `scalar`, that of one
  // feature.
  void check(int32_t device, bool scalar) const {
    for (int k = 0; k < 8; ++k) {
      const int64_t columns = k % 4 == 0   ? (scalar ? 1 : tensors[k].numel() / (4 * hidden()))
                              : k % 4 == 1 ? hidden()
                                           : 1;
      check_dense("weights", tensors[k], ScalarType::Float, 4 * hidden() * columns, device);
    }
  }

  int64_t hidden() const { return tensors[1].size(1); }

  // Points to one of a direction's four, for both directions.
  void point(const float* (&both)[2], int which) const {
    for (int direction = 0; direction < 2; ++direction)
      both[direction] = static_cast<const float*>(tensors[4 * direction + which].const_data_ptr());
  }
};

// The head's weights of both directions, as float32, if there is one.
struct Head {
  Tensor tensor;
  const float* data = nullptr;

  Head(const std::optional<Tensor>& given, int64_t hidden, int32_t device) {
    if (!given) return;
    tensor = dense(*given, ScalarType::Float);
    check_dense("head", tensor, ScalarType::Float, 2 * hidden, device);
    data = static_cast<const float*>(tensor.const_data_ptr());
  }
};

// What the forward saves of each step: 5 numbers for each unit that the kernels compute.
int64_t saved_numel(int64_t steps, int64_t batch, int64_t hidden) {
  int64_t padded = 16;
  while (padded < hidden) padded *= 2;
  return 2 * steps * ((batch + 7) / 8) * 5 * padded * 8;
}

// A grid has fewer than 2^31 blocks, two for every 8 rows.
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
  const int32_t device = entering.get_device_index();
  STD_TORCH_CHECK(entering.dim() == 3 && entering.scalar_type() == ScalarType::Float,
                  "entering must be float32 of three dimensions");
  SodeepFastBilstmForward call{};
  call.steps = entering.size(0);
  call.batch = entering.size(1);
  check_rows(call.batch);
  call.hidden = static_cast<int32_t>(weights.hidden());
  call.bf16 = bf16;
  call.scalar = entering.size(2) == 1;
  weights.check(device, call.scalar);
  STD_TORCH_CHECK(call.scalar || (entering.size(2) == 8 * call.hidden && entering.stride(2) == 1),
                  "entering must be scores, or products for each gate that lie side by side");
  const int64_t results = 2 * call.steps * call.batch;
  check_dense("output", output, ScalarType::Float, head ? results : results * call.hidden, device);
  call.input = static_cast<const float*>(entering.const_data_ptr());
  call.per_step = entering.stride(0);
  call.per_row = entering.stride(1);
  weights.point(call.column, 0);
  weights.point(call.weight, 1);
  weights.point(call.bias, 2);
  weights.point(call.more, 3);
  const Head of_both(head, call.hidden, device);
  call.head = of_both.data;
  call.output = static_cast<float*>(output.mutable_data_ptr());
  if (saved) {
    const int64_t numel = saved_numel(call.steps, call.batch, call.hidden);
    check_dense("saved", *saved, ScalarType::Half, numel, device);
    call.saved = saved->mutable_data_ptr();
  }
  check(sodeep_fast_bilstm_forward(&call, on.stream));
}

void steps_backward(Tensor grad, std::vector<Tensor> given, std::optional<Tensor> head,
                    Tensor saved, std::optional<Tensor> largest, std::optional<Tensor> by_scores,
                    std::optional<Tensor> gates, std::optional<Tensor> scale, bool bf16) {
  const DeviceStream on(grad);
  const Weights weights(given);
  const int32_t device = grad.get_device_index();
  STD_TORCH_CHECK(grad.dim() == 3, "grad must have three dimensions");
  SodeepFastBilstmBackward call{};
  call.steps = grad.size(head ? 1 : 0);
  call.batch = grad.size(head ? 2 : 1);
  check_rows(call.batch);
  call.hidden = static_cast<int32_t>(weights.hidden());
  call.bf16 = bf16;
  weights.check(device, by_scores.has_value());
  const int64_t results = 2 * call.steps * call.batch;
  check_dense("grad", grad, ScalarType::Float, head ? results : results * call.hidden, device);
  check_dense("saved", saved, ScalarType::Half, saved_numel(call.steps, call.batch, call.hidden),
              device);
  const Head of_both(head, call.hidden, device);
  call.head = of_both.data;
  call.grad = static_cast<const float*>(grad.const_data_ptr());
  call.saved = saved.const_data_ptr();
  weights.point(call.column, 0);
  weights.point(call.weight, 1);
  STD_TORCH_CHECK(by_scores.has_value() != gates.has_value(),
                  "the result must be by_scores or gates");
  if (by_scores) {
    check_dense("by_scores", *by_scores, ScalarType::Float, results, device);
    call.by_scores = static_cast<float*>(by_scores->mutable_data_ptr());
  } else {
    const ScalarType type = bf16 ? ScalarType::BFloat16 : ScalarType::Half;
    check_dense("gates", *gates, type, 4 * results * call.hidden, device);
    call.gates = gates->mutable_data_ptr();
  }
  STD_TORCH_CHECK(largest.has_value() == scale.has_value(), "largest and scale go together");
  if (largest) {
    check_dense("largest", *largest, ScalarType::Float, call.batch, device);
    check_dense("scale", *scale, ScalarType::Float, call.batch, device);
    call.largest = static_cast<const float*>(largest->const_data_ptr());
    call.scale = static_cast<float*>(scale->mutable_data_ptr());
  }
  check(sodeep_fast_bilstm_backward(&call, on.stream));
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CUDA, m) {
  m.impl("cuda_bilstm_steps", TORCH_BOX(&sodeep_fast::steps));
  m.impl("cuda_bilstm_steps_backward", TORCH_BOX(&sodeep_fast::steps_backward));
}
