// What csrc/cuda/bilstm.cu offers to its binding: plain types, no torch and no CUDA header.
#pragma once

#include <cstdint>

extern "C" {

// All steps of one layer of a bidirectional LSTM, of 1 to 128 hidden units. Every buffer is dense
// unless strides are given, on the current device, owned by the caller, and none overlaps another.
// T is bfloat16 if `bf16`, otherwise float16. Pairs of pointers: first and second direction.
struct SodeepFastBilstmForward {
  int64_t steps;
  int64_t batch;
  int32_t hidden;
  int32_t bf16;
  int32_t scalar;    // whether the input is one feature; otherwise, products of several
  int64_t per_step;  // strides of the input's steps and rows
  int64_t per_row;
  const float* input;  // [steps, batch] scores, or [steps, batch, 2, 4, hidden], what the features
                       // add to the gates, the last three dense
  const float* column[2];  // [4, hidden] weights of the scores; unused if there are products
  const float* weight[2];  // [4, hidden, hidden] recurrent
  const float* bias[2];    // [4, hidden]
  const float* more[2];    // [4, hidden] the second bias
  const float* head;       // [2, hidden], or null
  float* output;           // [steps, batch, 2, hidden] or, with a head, each direction's part of
                           // their products with it, [2, steps, batch]
  void* saved;             // float16 [2, steps, tiles of 8 rows, 5, padded hidden, 8], or null
};

struct SodeepFastBilstmBackward {
  int64_t steps;
  int64_t batch;
  int32_t hidden;
  int32_t bf16;
  const float* head;  // [2, hidden], or null
  const float* grad;  // of the output: [steps, batch, 2, hidden], or with a head [2, steps, batch]
  const void* saved;  // by a forward
  const float* largest;    // [batch] the largest of each row's gradient of the hidden states, or
                           // null: nothing is scaled
  const float* column[2];  // [4, hidden]; unused without `by_scores`
  const float* weight[2];  // [4, hidden, hidden]
  float* by_scores;        // [2, steps, batch] gradient of the scores by direction, or null
  void* gates;             // otherwise, T [steps, batch, 2, 4, hidden]: that of the gates / scale
  float* scale;            // [batch] that scale, written only with `largest`
};

// Put the kernel on `stream` (a cudaStream_t) and return without waiting. Return null, or an error
// message.
const char* sodeep_fast_bilstm_forward(const SodeepFastBilstmForward* call, void* stream);
const char* sodeep_fast_bilstm_backward(const SodeepFastBilstmBackward* call, void* stream);
}
