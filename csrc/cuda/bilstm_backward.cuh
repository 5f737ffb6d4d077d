// The backward of csrc/cuda/bilstm.cu.
#pragma once

#include "cuda/bilstm.h"
#include "cuda/bilstm_cell.cuh"
#include "cuda/bilstm_tile.cuh"

namespace sodeep_fast {

// Before rounding to float16, a row's gradients are scaled so that the largest is 1 / kTop to
// 2 / kTop: the backward may grow it by 2^19 before it overflows, and rounds small values to 2^-20
// of it.
constexpr float kTop = 16.0f;

// The power of two at or below |x|, clamped to 2^-100 and 2^100.
__device__ inline float power_below(float x) {
  const unsigned bits = __float_as_uint(x) & 0x7F800000u;
  const unsigned least = 27u << 23, most = 227u << 23;
  return __uint_as_float(bits < least ? least : bits > most ? most : bits);
}

// What a thread reads for its cells at a step: the gradient of their output, and what the forward
// saved.
template <int kHidden>
struct Given {
  float2 grad[2];  // of both rows
  uint2 numbers[Saved<kHidden>::kNumbers];

  // With a head, one gradient a row, for all units.
  __device__ void load(const float* grads, const uint2* saved, const Cells& own, int hidden,
                       bool projected, bool paired) {
    for (int r = 0; r < 2; ++r) {
      if (projected)
        grad[r].x = grad[r].y = own.units[r] > 0 ? grads[r] : 0.0f;
      else
        grad[r] = load_pair(grads + r * 2 * hidden, own.units[r], paired);
    }
    for (int k = 0; k < Saved<kHidden>::kNumbers; ++k)
      numbers[k] = saved[k * Saved<kHidden>::kThreads];
  }

  __device__ float number(int k, int u, int r) const {
    const float2 both = Float16::unpack(u == 0 ? numbers[k].x : numbers[k].y);
    return r == 0 ? both.x : both.y;
  }
};

template <class T, int kHidden, bool kIsToScores>
__global__ void __launch_bounds__(2 * kHidden)
    bilstm_backward_kernel(const SodeepFastBilstmBackward call) {
  constexpr int kProducts = kHidden / 4;    // of the four gates of 4 units each
  constexpr int kChains = 4;                // of sums: a product need not wait for the one before
  constexpr int kPadded = 4 * kHidden + 8;  // rows begin in different banks
  // For every two neighbouring units: both gradients of i, then of f, of g and of o.
  alignas(16) __shared__ uint16_t grads[2][kTileRows][kPadded];
  __shared__ float parts[2][RowSums<kHidden>::kWarps][kTileRows];
  RowSums<kHidden> sums_of_rows = {parts};
  const Cells own(call.batch, call.hidden);
  const int lane = threadIdx.x % kWarp, hidden = call.hidden;

  // Transposed: units along the rows, the even ones first. A branch for every few products makes
  // the assembler round their weights before it loads others, so that it spills none.
  uint32_t weights[kProducts][4] = {};
  const Recurrent recurrent = {own.of_direction(call.weight), hidden};
#pragma unroll
  for (int k = 0; k < kProducts; k += 4)
    if (4 * k < hidden)
#pragma unroll
      for (int part = 0; part < 16; ++part) {
        const int to = 4 * k + part / 2 * 2, from = own.unit + part % 2;
        weights[k + part / 4][part % 4] =
            T::pack_finite(recurrent(own.pair, to, from), recurrent(own.pair, to + 1, from));
      }
  float column[4][2] = {}, head[2] = {1.0f, 1.0f};
  if (kIsToScores) load_units(column, own.of_direction(call.column), hidden, own.unit);
  const bool projected = call.head != nullptr;
  if (projected) load_units(head, call.head + own.direction * hidden, hidden, own.unit);

  float scale[2] = {1.0f, 1.0f};
  for (int r = 0; r < 2; ++r)
    if (call.largest != nullptr && own.row + r < call.batch) {
      scale[r] = kTop * power_below(call.largest[own.row + r]);
      if (own.direction == 0 && own.unit == 0) call.scale[own.row + r] = scale[r];
    }
  float factors[2][2];  // of the gradients of the cells
  for (int u = 0; u < 2; ++u)
    for (int r = 0; r < 2; ++r) factors[u][r] = head[u] / scale[r];

  const int64_t first = own.direction == 0 ? call.steps - 1 : 0;
  const int64_t outputs = call.batch * 2 * hidden;
  int64_t grads_apart = projected ? call.batch : outputs;
  const float* grad =
      call.grad + first * grads_apart +
      (projected ? own.direction * call.steps * call.batch + own.row : own.offset(hidden));
  int64_t numbers = Saved<kHidden>::per_step(call.batch);
  const uint2* saved = static_cast<const uint2*>(call.saved) + first * numbers +
                       Saved<kHidden>::offset(own, call.steps, call.batch);
  const bool paired_grad = in_pairs(call.grad, hidden);
  uint16_t* gates = nullptr;  // those of the first row
  float* by_scores = nullptr;
  if (kIsToScores)
    by_scores =
        call.by_scores + first * call.batch + RowSums<kHidden>::offset(own, call.steps, call.batch);
  else
    gates = static_cast<uint16_t*>(call.gates) + first * 4 * outputs + own.offset(4 * hidden);
  const int rows = RowSums<kHidden>::rows(own, call.batch);
  const bool paired_gates = in_pairs(static_cast<const uint16_t*>(call.gates), hidden);

  // From here on, the strides from step to step in the backward's order.
  int64_t gates_apart = 4 * outputs, scores_apart = call.batch;
  for (int64_t* apart : {&grads_apart, &numbers, &gates_apart, &scores_apart}) {
    if (own.direction == 0) *apart = -*apart;
    hide(*apart);
  }

  float grad_h[2][2] = {}, grad_c[2][2] = {};
  Given<kHidden> given;
  given.load(grad, saved, own, hidden, projected, paired_grad);
  for (int64_t k = 0; k < call.steps; ++k) {
    // Prefetches what the next step reads while this one computes.
    Given<kHidden> next = given;
    grad += grads_apart;
    saved += numbers;
    if (k + 1 < call.steps) next.load(grad, saved, own, hidden, projected, paired_grad);

    Gates found[2][2];
    float by_row[2] = {};
#pragma unroll
    for (int u = 0; u < 2; ++u)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        grad_h[u][r] += (u == 0 ? given.grad[r].x : given.grad[r].y) * factors[u][r];
        const Gates saved_gates = {given.number(0, u, r), given.number(1, u, r),
                                   given.number(2, u, r), given.number(3, u, r)};
        const Gates own_grads =
            gate_gradients(saved_gates, given.number(4, u, r), grad_h[u][r], grad_c[u][r]);
        if (kIsToScores)
          by_row[r] += own_grads.i * column[0][u] + own_grads.f * column[1][u] +
                       own_grads.g * column[2][u] + own_grads.o * column[3][u];
        found[u][r] = own_grads;
      }
    const int now = k % 2;
    uint4 rounded[2];
    for (int r = 0; r < 2; ++r) {
      rounded[r] = {T::pack(found[0][r].i, found[1][r].i), T::pack(found[0][r].f, found[1][r].f),
                    T::pack(found[0][r].g, found[1][r].g), T::pack(found[0][r].o, found[1][r].o)};
      *reinterpret_cast<uint4*>(&grads[now][2 * own.pair + r][4 * own.unit]) = rounded[r];
    }
    if (!kIsToScores)
      visit_pairs(paired_gates, [&](bool both) {
        for (int r = 0; r < 2; ++r) {
          uint16_t* at = gates + r * 8 * hidden;
          store_pair(at, rounded[r].x, own.units[r], both);
          store_pair(at + hidden, rounded[r].y, own.units[r], both);
          store_pair(at + 2 * hidden, rounded[r].z, own.units[r], both);
          store_pair(at + 3 * hidden, rounded[r].w, own.units[r], both);
        }
      });
    if (kIsToScores) sums_of_rows.add(now, own, {by_row[0] * scale[0], by_row[1] * scale[1]});
    // After this barrier, threads read what this step wrote; the next step writes elsewhere.
    __syncthreads();

    if (kIsToScores) {
      sums_of_rows.store(now, by_scores, rows);
      by_scores += scores_apart;
    } else
      gates += gates_apart;

    float sums[kChains][4] = {};
#pragma unroll
    for (int j = 0; j < kProducts; j += 2) {
      uint32_t a[4];
      load_matrices(a, &grads[now][lane % 8][16 * j + lane / 8 * 8]);
      T::mma(sums[j % kChains], weights[j], a[0], a[1]);
      T::mma(sums[(j + 1) % kChains], weights[j + 1], a[2], a[3]);
    }
#pragma unroll
    for (int part = 0; part < 4; ++part)
      grad_h[part / 2][part % 2] =
          (sums[0][part] + sums[1][part]) + (sums[2][part] + sums[3][part]);
    given = next;
  }
}

}  // namespace sodeep_fast
