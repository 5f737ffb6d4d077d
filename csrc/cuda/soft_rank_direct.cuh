// All pairs, one launch:
//   rank_i = 1/2 + sum_j sigmoid(lam (s_j - s_i))
//   grad_k = lam   sum_j sigmoid'(lam (s_j - s_k)) (g_j - g_k)
//   h_m    = lam^2 sum_j sigmoid''(lam (s_j - s_m)) (g_j - g_m) (v_j - v_m)
// over the valid j. Every thread of a group owns one target of a row; the group walks over the
// row's sources in shared memory. Two terms share one division, the slowest instruction of a pair.
// If a row is narrow, exp(x) is a product of one exponential per target and one per source.
//
// Expected on an H200 in float32 (3.3e13 thread instructions a second on 132 multiprocessors at
// 1.98 GHz; memory traffic is negligible), from the instructions per pair counted in the code for
// sm_90:
//
//                     narrow   wide   (512, 100): 7e6 pairs   (8, 100000): 8e10 pairs
//   ranks                8      16          2 to 3 us              20 to 37 ms
//   gradient            12      20          2 to 4 us              28 to 48 ms
//   second                      26              5 us                   62 ms
//
// A launch and the scan of the row before the sums add 2 to 4 us. None of this is measured.
#pragma once

#include "cuda/soft_rank_rows.cuh"

namespace sodeep_fast {

constexpr int kDirectBlock = 128;
// Exponents of a narrow row are at most half of this many powers of two, with relative errors of
// eps / 2. So a product of two exponentials has a relative error of at most 16 eps, and its sigmoid
// an error of 4 eps: n of them stay within the 4 eps n that they are allowed.
constexpr int kNarrow = 46;
// Sources between compensated additions: the length of a plain sum.
constexpr int kFlush = 32;
// Sources of an unrolled step: four divisions in flight, or two if a value takes two registers.
template <class T>
constexpr int kStep = sizeof(T) == 4 ? 8 : 4;
static_assert(kWarp % kFlush == 0 && kFlush % kStep<float> == 0, "a tile is whole steps");

// What a pair needs of its source: `x` is half the score or, in a narrow row, the exponential.
template <class T, int kDerivative>
struct Source;
template <class T>
struct alignas(2 * sizeof(T)) Source<T, 0> {
  T x, weight;
};
template <class T>
struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) Source<T, 1> {
  T x, inverse, g, weight;
};
template <class T>
struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) Source<T, 2> {
  T x, g, v, weight;
};

template <class T>
struct Target {
  T x, inverse, g, v, rate;
};

template <class T, int kDerivative, bool kIsNarrow>
__device__ __forceinline__ Fraction<T> pair_term(const Source<T, kDerivative>& source,
                                                 const Target<T>& target) {
  Fraction<T> term;
  if constexpr (kIsNarrow && kDerivative == 0) {
    term = {T(1), T(1) + target.x * source.x};
  } else if constexpr (kIsNarrow && kDerivative == 1) {
    term = {T(1), target.x * source.x + (target.inverse * source.inverse + T(2))};
  } else {
    term = sigmoid_fraction<T, kDerivative>(target.rate * (target.x - source.x));
  }
  term.numerator *= source.weight;
  if constexpr (kDerivative >= 1) term.numerator *= source.g - target.g;
  if constexpr (kDerivative == 2) term.numerator *= source.v - target.v;
  return term;
}

// Adds the terms of at least `count` sources of a tile to a target's sum; the others have weight 0.
template <class T, int kDerivative, bool kIsNarrow>
__device__ __forceinline__ void add_tile(const Source<T, kDerivative>* tile, int count,
                                         const Target<T>& target, Compensated<T>& sum) {
  for (int begin = 0; begin < count; begin += kFlush) {
    T plain = 0;
    for (int step = begin; step < begin + kFlush && step < count; step += kStep<T>) {
#pragma unroll
      for (int j = step; j < step + kStep<T>; j += 2) {
        const auto a = pair_term<T, kDerivative, kIsNarrow>(tile[j], target);
        const auto b = pair_term<T, kDerivative, kIsNarrow>(tile[j + 1], target);
        plain += quotient(a.numerator * b.denominator + b.numerator * a.denominator,
                          a.denominator * b.denominator);
      }
    }
    sum.add(plain);
  }
}

// kGroup threads work on one row; a block holds kDirectBlock / kGroup rows.
template <class T, int kDerivative, int kGroup>
__global__ void __launch_bounds__(kDirectBlock, 4) soft_rank_direct_kernel(Rows<T> call) {
  constexpr int kRowsPerBlock = kDirectBlock / kGroup;
  __shared__ Source<T, kDerivative> sources[kRowsPerBlock][kGroup];
  __shared__ T partial[kDirectBlock / kWarp];
  __shared__ int64_t partial_count[kDirectBlock / kWarp];

  const int lane = threadIdx.x % kGroup, slot = threadIdx.x / kGroup;
  const int64_t n = call.n, blocks_per_row = ceil_div(n, kGroup);
  const int64_t row = blockIdx.x / blocks_per_row * kRowsPerBlock + slot;
  const int64_t own = blockIdx.x % blocks_per_row * kGroup + lane;
  const bool row_exists = row < call.rows;
  const int64_t offset = row_exists ? row * n : 0;

  T low = kLargest<T>, high = -kLargest<T>;
  int64_t counts = 0;  // valid in the low bits, non-finite in the high ones: n is below 2^31
  for (int64_t j = lane; j < n && row_exists; j += kGroup) {
    if (!call.valid(offset + j)) continue;
    const T score = call.half_score(offset + j);
    const bool finite = fabs(score) <= kLargest<T>;
    counts += finite ? 1 : 1 + (int64_t(1) << 32);
    low = finite ? Min()(low, score) : low;
    high = finite ? Max()(high, score) : high;
  }
  low = reduce<kGroup, kDirectBlock>(low, partial, Min());
  high = reduce<kGroup, kDirectBlock>(high, partial, Max());
  counts = reduce<kGroup, kDirectBlock>(counts, partial_count, Add());
  const int64_t count = counts & 0xffffffff;
  if (low > high) low = high = 0;

  const T middle = (low + high) / 2;
  const T rate = call.rate();
  const bool narrow = kDerivative < 2 && (high - low) * rate <= T(kNarrow);

  const bool exists = row_exists && own < n;
  const bool valid = exists && call.valid(offset + own);
  const T score = valid ? call.half_score(offset + own) : middle;
  Target<T> target = {score, T(1), T(0), T(0), rate};
  if (kDerivative >= 1 && valid) target.g = call.grad[offset + own];
  if (kDerivative == 2 && valid) target.v = call.grad_grad[offset + own];
  if (narrow) {
    target.x = power_of_two(rate * (score - middle));
    target.inverse = power_of_two(rate * (middle - score));
  }

  Compensated<T> sum;
  for (int64_t start = 0; start < n; start += kGroup) {
    const int64_t at = start + lane;
    const bool used = row_exists && at < n && call.valid(offset + at);
    const T other = used ? call.half_score(offset + at) : middle;
    Source<T, kDerivative> source = {};
    source.weight = used ? T(1) : T(0);
    source.x = narrow ? power_of_two(rate * (middle - other)) : other;
    if constexpr (kDerivative == 1)
      source.inverse = narrow ? power_of_two(rate * (other - middle)) : T(0);
    if constexpr (kDerivative >= 1) source.g = used ? call.grad[offset + at] : T(0);
    if constexpr (kDerivative == 2) source.v = used ? call.grad_grad[offset + at] : T(0);
    __syncthreads();
    sources[slot][lane] = source;
    __syncthreads();
    const int left = static_cast<int>(n - start < kGroup ? n - start : kGroup);
    if (narrow)
      add_tile<T, kDerivative, true>(sources[slot], left, target, sum);
    else
      add_tile<T, kDerivative, false>(sources[slot], left, target, sum);
  }

  if (!exists) return;
  T value = 0;
  if (valid) {
    const T half = kDerivative == 0 ? T(0.5) : T(0);  // an item outranks itself by one half
    value = static_cast<T>(call.template scale<kDerivative>(count) *
                           static_cast<double>(sum.total + (sum.error + half)));
    if (counts != count) value = kNaN<T>;
  }
  call.out[offset + own] = value;
}

template <class T, int kDerivative, int kGroup>
cudaError_t launch_direct_groups(Rows<T> call, cudaStream_t stream) {
  constexpr int64_t kRowsPerBlock = kDirectBlock / kGroup;
  const int64_t blocks_per_row = ceil_div(call.n, kGroup);
  const int64_t most_rows = kMaxGrid / blocks_per_row * kRowsPerBlock;
  for (int64_t first = 0; first < call.rows; first += most_rows) {
    const Rows<T> slice = call.slice(first, most_rows);
    const int64_t grid = ceil_div(slice.rows, kRowsPerBlock) * blocks_per_row;
    const cudaError_t error =
        launch(soft_rank_direct_kernel<T, kDerivative, kGroup>, grid, kDirectBlock, stream, slice);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

// Rows of half a block or less share blocks, a warp each: no lane waits for a longer row.
template <class T, int kDerivative>
cudaError_t launch_direct(Rows<T> call, cudaStream_t stream) {
  if (call.n <= kDirectBlock / 2) return launch_direct_groups<T, kDerivative, kWarp>(call, stream);
  return launch_direct_groups<T, kDerivative, kDirectBlock>(call, stream);
}

}  // namespace sodeep_fast
