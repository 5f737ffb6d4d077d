// One layer of a bidirectional LSTM, forward and backward: the equations of kernels/bilstm.py, all
// steps of both directions in one launch. This file has the entry points, which choose the kernel.
//
// A block has 8 rows of one direction and runs all the steps; blocks never wait for one another.
// Its threads hold the recurrent weights in registers, as the left factors of tensor core products.
// So a step only reads what the step before left in shared memory for all 8 warps: 2 KB of hidden
// states, or 8 KB of the gates' gradients. It has one barrier. State, sums and scores are float32;
// the two factors of a product are rounded to float16 or bfloat16.
//
// Expected on an H200 for (512, 100) scores, 128 hidden units and one layer, in float16: 128
// blocks, one per multiprocessor. The cycles of a step, as compiled for sm_90, are
//
//                                              bilstm_forward   bilstm_backward
//   256 products, at 62 % of the peak               413               413
//   shared memory, 128 bytes a cycle                128               512
//   special functions, 16 results a cycle           448               128
//   300 or 355 instructions of 8 warps, 4 a cycle   600               710
//
// With full overlap, a step takes 0.30 us at 1.98 GHz and 0.36 us backwards; with none, 0.80 us and
// 0.89 us. Reading the weights takes about 3 us before the first step.
//
//   pass                      GFLOP   MB moved      expected
//   inference                  13.4    53, 12 us    30 to 80 us
//   forward that saves         13.4   184, 43 us    43 to 80 us
//   backward to the scores     13.4   237, 55 us    69 to 103 us: 12 the row maxima, 2 the sum of
//                                                   both directions
//
// With a head, hidden states and their gradients are not written to memory: 53 MB less in each
// pass, and PyTorch makes no pass over them.
//
// None of this is measured.

#include <type_traits>

#include "cuda/bilstm.h"
#include "cuda/bilstm_backward.cuh"
#include "cuda/bilstm_forward.cuh"

namespace sodeep_fast {
namespace {

// Calls visit(T(), std::integral_constant<int, padded>()) for a call's type and hidden units.
template <class Call, class Visit>
cudaError_t dispatch(const Call& call, Visit visit) {
  const auto with_type = [&](auto type) {
    if (call.hidden <= 16) return visit(type, std::integral_constant<int, 16>());
    if (call.hidden <= 32) return visit(type, std::integral_constant<int, 32>());
    if (call.hidden <= 64) return visit(type, std::integral_constant<int, 64>());
    return visit(type, std::integral_constant<int, 128>());
  };
  return call.bf16 ? with_type(Bfloat16()) : with_type(Float16());
}

// Launches a block for every tile of rows in each direction.
template <class Call>
cudaError_t launch_tiles(void (*kernel)(Call), const Call& call, int padded, void* stream) {
  const int64_t tiles = ceil_div(call.batch, kTileRows);
  if (tiles == 0 || call.steps == 0) return cudaSuccess;
  return launch(kernel, 2 * tiles, 2 * padded, static_cast<cudaStream_t>(stream), call);
}

const char* message(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace
}  // namespace sodeep_fast

const char* sodeep_fast_bilstm_forward(const SodeepFastBilstmForward* call, void* stream) {
  using namespace sodeep_fast;
  return message(dispatch(*call, [&](auto type, auto padded) {
    auto* kernel = call->scalar ? &bilstm_forward_kernel<decltype(type), padded(), true>
                                : &bilstm_forward_kernel<decltype(type), padded(), false>;
    return launch_tiles(kernel, *call, padded(), stream);
  }));
}

const char* sodeep_fast_bilstm_backward(const SodeepFastBilstmBackward* call, void* stream) {
  using namespace sodeep_fast;
  return message(dispatch(*call, [&](auto type, auto padded) {
    auto* kernel = call->by_scores ? &bilstm_backward_kernel<decltype(type), padded(), true>
                                   : &bilstm_backward_kernel<decltype(type), padded(), false>;
    return launch_tiles(kernel, *call, padded(), stream);
  }));
}
