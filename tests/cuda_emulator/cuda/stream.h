// csrc/cuda/stream.h for the emulator, which takes tensors of the CPU.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace sodeep_fast {

struct DeviceStream {
  explicit DeviceStream(const torch::stable::Tensor&) {}

  void* stream = nullptr;
};

}  // namespace sodeep_fast

// The bindings, which include this last, register for the CPU.
#define CUDA CPU
