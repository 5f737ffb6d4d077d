// What a layer of the LSTM keeps of its forward for its backward.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/bilstm.h"

namespace sodeep_fast {

template <class T>
constexpr torch::headeronly::ScalarType dtype_of() {
  return std::is_same_v<T, Bf16> ? torch::headeronly::ScalarType::BFloat16
         : sizeof(T) == 8        ? torch::headeronly::ScalarType::Double
         : sizeof(T) == 4        ? torch::headeronly::ScalarType::Float
                                 : torch::headeronly::ScalarType::Half;
}

// If `count` is the number of steps, all that the backward reads of every step. Otherwise `count`
// states between equal segments of the steps, from which the backward recomputes that.
struct LstmKept {
  int64_t count;
  bool all_steps;

  LstmKept(int64_t wanted, int64_t steps)
      : count(std::min(wanted, steps)), all_steps(count == steps) {}

  int64_t segment(int64_t steps) const { return divide_up(steps, count + 1); }

  // [2, count, batch, kLstmSaved or kLstmState, hidden]
  template <class T, class S>
  torch::stable::Tensor make(const torch::stable::Tensor& like, const LstmLayer<T>& layer) const {
    const int64_t row = all_steps ? kLstmSaved : kLstmState;
    const auto dtype = all_steps ? dtype_of<S>() : dtype_of<T>();
    torch::stable::Tensor values =
        torch::stable::new_empty(like, {2, count, layer.batch, row, layer.hidden}, dtype);
    // If the steps make fewer segments, nothing is written to some states.
    if (!all_steps && (layer.steps - 1) / segment(layer.steps) < count)
      torch::stable::zero_(values);
    return values;
  }

  template <class T, class S>
  void set(LstmForward<T, S>& call, void* data) const {
    const auto directions = [&](auto* memory, int64_t parts, auto& sequences) {
      const int64_t row = parts * call.layer.hidden, step = call.layer.batch * row;
      for (int d = 0; d < 2; ++d) sequences[d] = {memory + d * count * step, step, row};
    };
    if (count == 0) return;
    call.segment = segment(call.layer.steps);
    if (all_steps)
      directions(static_cast<S*>(data), kLstmSaved, call.saved);
    else
      directions(static_cast<T*>(data), kLstmState, call.states);
  }
};

}  // namespace sodeep_fast
