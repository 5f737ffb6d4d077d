// How an operator over all pairs of a row finds its sums.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <string>

namespace sodeep_fast {

enum class Method { kAuto, kDirect, kLinear };

inline Method parse_method(const std::string& method) {
  if (method == "direct") return Method::kDirect;
  if (method == "linear") return Method::kLinear;
  STD_TORCH_CHECK(method == "auto", "method must be auto, direct or linear, got ", method);
  return Method::kAuto;
}

}  // namespace sodeep_fast
