// The stream for an operator's kernels. tests/cuda_emulator has the same for CPU tensors.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace sodeep_fast {
namespace {  // like torch's types that it has as members, which are hidden in every library

// Makes the device of a tensor the current one for as long as it lives, and has its stream.
struct DeviceStream {
  explicit DeviceStream(const torch::stable::Tensor& tensor) : guard(tensor.get_device_index()) {
    const int32_t device = tensor.get_device_index();
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == 0,
                    "torch gave no CUDA stream for device ", device);
  }

  torch::stable::accelerator::DeviceGuard guard;
  void* stream = nullptr;
};

}  // namespace
}  // namespace sodeep_fast
