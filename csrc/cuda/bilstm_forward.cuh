// The forward of csrc/cuda/bilstm.cu.
#pragma once

#include "cuda/bilstm.h"
#include "cuda/bilstm_cell.cuh"
#include "cuda/bilstm_tile.cuh"

namespace sodeep_fast {

// Input to the gates of a thread's cells at a step, besides the hidden states: the scores of its
// rows, or the products of their features with the weights.
template <bool kIsScalar>
struct Entering {
  float x[2];

  __device__ void load(const float* at, int64_t per_row, const Cells& own, int, bool) {
    for (int r = 0; r < 2; ++r) x[r] = own.units[r] > 0 ? at[r * per_row] : 0.0f;
  }

  __device__ float operator()(int, int, int r, float column) const { return x[r] * column; }
};

template <>
struct Entering<false> {
  float2 products[4][2];

  __device__ void load(const float* at, int64_t per_row, const Cells& own, int hidden,
                       bool paired) {
    visit_pairs(paired, [&](bool both) {
      for (int r = 0; r < 2; ++r)
        for (int gate = 0; gate < 4; ++gate)
          products[gate][r] = load_pair(at + r * per_row + gate * hidden, own.units[r], both);
    });
  }

  __device__ float operator()(int gate, int u, int r, float) const {
    return u == 0 ? products[gate][r].x : products[gate][r].y;
  }
};

template <class T, int kHidden, bool kIsScalar>
__global__ void __launch_bounds__(2 * kHidden)
    bilstm_forward_kernel(const SodeepFastBilstmForward call) {
  constexpr int kProducts = kHidden / 16;                     // of 16 units each
  constexpr int kPadded = (kHidden < 32 ? 32 : kHidden) + 8;  // rows begin in different banks
  alignas(16) __shared__ uint16_t states[2][kTileRows][kPadded];
  __shared__ float parts[2][RowSums<kHidden>::kWarps][kTileRows];
  RowSums<kHidden> sums_of_rows = {parts};
  const Cells own(call.batch, call.hidden);
  const int lane = threadIdx.x % kWarp, hidden = call.hidden;

  // Gates i and f of the even units, then g and o; then those of the odd units. A branch for every
  // product makes the assembler round its weights before it loads others, so that it spills none.
  uint32_t weights[4][kProducts][4] = {};
  const Recurrent recurrent = {own.of_direction(call.weight), hidden};
#pragma unroll
  for (int k = 0; k < kProducts; ++k)
    if (16 * k < hidden)
#pragma unroll
      for (int part = 0; part < 16; ++part) {
        const int gate = part / 4 % 2 * 2 + part % 2, to = own.unit + part / 8;
        const int from = 16 * k + part / 2 % 2 * 8 + 2 * own.pair;
        weights[part / 4][k][part % 4] =
            T::pack_finite(recurrent(gate, to, from), recurrent(gate, to, from + 1));
      }
  float bias[4][2], more[4][2], column[4][2] = {}, head[2] = {};
  load_units(bias, own.of_direction(call.bias), hidden, own.unit);
  load_units(more, own.of_direction(call.more), hidden, own.unit);
  for (int gate = 0; gate < 4; ++gate)
    for (int u = 0; u < 2; ++u) bias[gate][u] += more[gate][u];
  if (kIsScalar) load_units(column, own.of_direction(call.column), hidden, own.unit);
  const bool projects = call.head != nullptr;
  if (projects) load_units(head, call.head + own.direction * hidden, hidden, own.unit);

  const int64_t first = own.direction == 0 ? 0 : call.steps - 1;
  const float* input = call.input + first * call.per_step + own.row * call.per_row;
  if (!kIsScalar) input += 4 * own.direction * hidden + own.unit;
  int64_t outputs = projects ? call.batch : call.batch * 2 * hidden;
  float* output =
      call.output + first * outputs +
      (projects ? RowSums<kHidden>::offset(own, call.steps, call.batch) : own.offset(hidden));
  const int rows = RowSums<kHidden>::rows(own, call.batch);
  int64_t numbers = Saved<kHidden>::per_step(call.batch);
  uint2* saved = nullptr;
  if (call.saved != nullptr)
    saved = static_cast<uint2*>(call.saved) + first * numbers +
            Saved<kHidden>::offset(own, call.steps, call.batch);
  // From here on, the strides from step to step in the direction's order.
  int64_t inputs = call.per_step;
  for (int64_t* stride : {&inputs, &outputs, &numbers}) {
    if (own.direction == 1) *stride = -*stride;
    hide(*stride);
  }
  const bool paired_input = in_pairs(call.input, hidden) && (call.per_step | call.per_row) % 2 == 0;
  const bool paired_output = in_pairs(call.output, hidden);

  for (int at = threadIdx.x; at < kTileRows * kPadded; at += blockDim.x)
    states[0][at / kPadded][at % kPadded] = 0;
  __syncthreads();

  float c[2][2] = {};
  Entering<kIsScalar> entering;
  entering.load(input, call.per_row, own, hidden, paired_input);
  for (int64_t k = 0; k < call.steps; ++k) {
    // Prefetches what the next step reads while this one computes.
    Entering<kIsScalar> next = entering;
    input += inputs;
    if (k + 1 < call.steps) next.load(input, call.per_row, own, hidden, paired_input);

    float sums[4][4];
#pragma unroll
    for (int block = 0; block < 4; ++block)
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const int gate = block % 2 * 2 + part / 2, u = block / 2;
        sums[block][part] = entering(gate, u, part % 2, column[gate][u]) + bias[gate][u];
      }
    const int now = k % 2;
#pragma unroll
    for (int j = 0; j < kProducts; j += 2) {
      uint32_t h[4];
      load_matrices(h, &states[now][lane % 8][16 * j + lane / 8 * 8]);
#pragma unroll
      for (int block = 0; block < 4; ++block) T::mma(sums[block], weights[block][j], h[0], h[1]);
      if (j + 1 < kProducts)
#pragma unroll
        for (int block = 0; block < 4; ++block)
          T::mma(sums[block], weights[block][j + 1], h[2], h[3]);
    }

    Gates gates[2][2];
    float y[2][2];
#pragma unroll
    for (int u = 0; u < 2; ++u)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float (&i_f)[4] = sums[2 * u], (&g_o)[4] = sums[2 * u + 1];
        const Gates own_gates = gates_of({i_f[r], i_f[2 + r], g_o[r], g_o[2 + r]});
        c[u][r] = own_gates.f * c[u][r] + own_gates.i * own_gates.g;
        y[u][r] = own_gates.o * hyperbolic_tangent(c[u][r]);
        gates[u][r] = own_gates;
      }
    for (int r = 0; r < 2; ++r)
      *reinterpret_cast<uint32_t*>(&states[1 - now][2 * own.pair + r][own.unit]) =
          T::pack(y[0][r], y[1][r]);
    if (projects)
      sums_of_rows.add(
          now, own, {y[0][0] * head[0] + y[1][0] * head[1], y[0][1] * head[0] + y[1][1] * head[1]});
    // The next step reads what this one wrote, and writes where no thread reads any more.
    __syncthreads();

    if (projects)
      sums_of_rows.store(now, output, rows);
    else
      for (int r = 0; r < 2; ++r)
        store_pair(output + r * 2 * hidden, {y[0][r], y[1][r]}, own.units[r], paired_output);
    output += outputs;
    if (saved != nullptr) {
      const auto keep = [&](int number, auto value) {
        saved[number * Saved<kHidden>::kThreads] = {Float16::pack_finite(value(0, 0), value(0, 1)),
                                                    Float16::pack_finite(value(1, 0), value(1, 1))};
      };
      keep(0, [&](int u, int r) { return gates[u][r].i; });
      keep(1, [&](int u, int r) { return gates[u][r].f; });
      keep(2, [&](int u, int r) { return gates[u][r].g; });
      keep(3, [&](int u, int r) { return gates[u][r].o; });
      keep(4, [&](int u, int r) { return c[u][r]; });
      saved += numbers;
    }
    entering = next;
  }
}

}  // namespace sodeep_fast
