// One layer of a bidirectional LSTM, as the instruction sets implement it.
//
// Time-major: a step's rows lie next to each other. Gates are in PyTorch's order i, f, g, o.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/row.h"

namespace sodeep_fast {

// The parameters of one direction, in PyTorch's layout.
template <class T>
struct LstmWeights {
  const T* input;      // [4 hidden, features]
  const T* recurrent;  // [4 hidden, hidden]
  const T* biases[2];  // [4 hidden] each
};

// The same, as the kernels of one instruction set read them; isa/bilstm_pack.h has the layouts.
template <class T>
struct PackedLstmWeights {
  T *bias, *input, *recurrent;                 // of the gates
  T *input_transposed, *recurrent_transposed;  // for the backward
};

// A tensor (steps, batch, width) whose last dimension is contiguous.
template <class T>
struct Sequence {
  T* data;
  int64_t step, row;  // strides

  T* at(int64_t t, int64_t r) const { return data + t * step + r * row; }
};

template <class T>
struct LstmLayer {
  int64_t steps, batch, features, hidden;
  PackedLstmWeights<T> weights[2];
};

// What the backward reads per row and step in one direction: i, f, g, o, and the cell state, as
// numbers of type S. Recomputing the state's tanh takes less time than storing another number.
constexpr int64_t kLstmSaved = 5;
// What it can recompute them from, for a segment of steps: the hidden and cell state before it.
constexpr int64_t kLstmState = 2;
using Half = uint16_t;  // the bits of one
struct Bf16 {
  uint16_t bits;
};
// What one layer passes to another: numbers of T or, if products round them, of bfloat16.
template <class T, class S>
using LstmValue = std::conditional_t<std::is_same_v<T, S>, T, Bf16>;

template <class T, class S>
struct LstmForward {
  using Value = LstmValue<T, S>;

  LstmLayer<T> layer;
  Sequence<const T> scores;     // [steps, batch], if that is the input
  Sequence<const Value> input;  // [steps, batch, features], if there are several
  Sequence<Value> output;       // [steps, batch, 2 hidden], or null
  Sequence<T> exact_output;     // the same before it is rounded, or null
  const T* head;                // [2 hidden], or null
  // [steps, batch]: the output of a direction times the head, if not null.
  Sequence<T> projected[2];
  // Each direction takes the steps from `begin` to `end` of its own order.
  int64_t begin, end;
  Sequence<S> saved[2];   // [end - begin, batch, kLstmSaved hidden] by direction, or null
  int64_t segment;        // steps
  Sequence<T> states[2];  // [segments but the first, batch, kLstmState hidden], or null
};

// What the forward has not saved is recomputed, a segment of a tile at a time.
template <class T, class S>
struct LstmBackward {
  using Value = LstmValue<T, S>;

  LstmForward<T, S> forward;
  // Exactly one of these three is not null.
  Sequence<const Value> grad;           // [steps, batch, 2 hidden]
  Sequence<const T> exact_grad;         // the same before it is rounded
  Sequence<const T> projected_grad[2];  // [steps, batch] by direction, if there is a head
  // What each direction adds to the gradient of the input [steps, batch, features], not rounded, or
  // null. With several features, the first direction's may be null, and is then kept as long as a
  // tile needs it; if the second's is null, that direction writes the sum.
  Sequence<T> part_grad[2];
  Sequence<Value> input_grad;  // the sum [steps, batch, features], if there are several, or null
};

// The gradients of one direction's weights.
template <class T>
struct LstmWeightGrads {
  T* input;      // [4 hidden, features]
  T* recurrent;  // [4 hidden, hidden]
  T* bias;       // [4 hidden]
};

// One direction of a few rows; a tile runs through all steps independently of the others.
struct LstmTile {
  int direction;
  int64_t first, rows;
};

// Scratch of one thread.
template <class T, class S>
struct LstmScratch {
  Buffer<T> state, inputs, gradients, first_part;
  Buffer<S> saved;

  void trim() { state.trim(), inputs.trim(), gradients.trim(), first_part.trim(), saved.trim(); }
};

// How an instruction set packs the weights for one pass: pieces may be packed in any order.
template <class T>
struct LstmPacking {
  // Sets where the weights will lie in `memory`, and returns how much of it they take.
  int64_t (*lay_out)(LstmLayer<T>& layer, T* memory);
  int64_t (*pieces)(const LstmLayer<T>& layer);
  void (*pack)(const LstmLayer<T>& layer, const LstmWeights<T> (&weights)[2], int64_t piece);
};

template <class T, class S>
struct LstmKernels {
  int64_t product_rows;  // that are multiplied together
  LstmPacking<T> forward_packing, backward_packing;
  void (*forward)(const LstmForward<T, S>& call, const LstmTile& tile, LstmScratch<T, S>& scratch);
  // Adds to the gradients of the weights, in its own layout, and to the gradient of the direction's
  // part of the head [hidden], unless they are null.
  void (*backward)(const LstmBackward<T, S>& call, const LstmTile& tile, T* weight_grads,
                   T* head_grad, LstmScratch<T, S>& scratch);
  void (*add)(LstmValue<T, S>* sums, const T* a, const T* b, int64_t count);
  void (*add_exactly)(T* sums, const T* a, const T* b, int64_t count);
  int64_t (*weight_grads_size)(const LstmLayer<T>& layer);
  // Sums `count` such gradients of the weights into PyTorch's layout.
  void (*sum_weight_grads)(const LstmLayer<T>& layer, const T* parts, int64_t count,
                           const LstmWeightGrads<T>& sums);
};

}  // namespace sodeep_fast
