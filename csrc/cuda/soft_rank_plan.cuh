// Places the panels of a row, for the linear method: the first two of its kernels, and what all of
// them share. csrc/cuda/soft_rank_linear.cuh has the whole picture, and the time that each kernel
// should take on an H200.
#pragma once

#include "cuda/soft_rank_rows.cuh"
#include "math/sigmoid_panels.h"

namespace sodeep_fast {

constexpr int kLinearBlock = 256;
constexpr int64_t kChunk = 4096;      // items of a block of survey, accumulate and evaluate
constexpr int kSharedEntries = 5120;  // two words each: 40 KiB, so that five blocks fit
constexpr int kSample = 1024;         // items whose median says where the panels should be
constexpr int kCountedPanels = 256;   // panels whose items are counted together
constexpr int64_t kPlanBlocks = 8;    // blocks that clear one row's table

// What a chunk of a row holds. Ranges are of the finite valid values; low > high if there are none.
template <class T>
struct ChunkSurvey {
  int64_t count;
  int32_t bad;  // nonzero where a valid score, g or v is not finite
  T low, high, weight_low[2], weight_high[2];
};

template <class T>
struct RowPlan {
  double anchor;         // where panel 0 begins
  int64_t panels;        // panels 0 .. panels - 1 exist
  int64_t first_shared;  // the first of those that blocks keep in shared memory
  int64_t count;         // valid items
  int32_t is_windowed;   // whether items may lie outside the panels
  int32_t bad;           // the row's values are all NaN
  T shift[2];            // subtracted from g and v: their middle
  T shrink[2];           // then multiplies them, so that they are at most 1: 2^-exponent
  int32_t exponent[2];
  int32_t fraction_bits;  // moments are in units of 2^-fraction_bits
};

// The counters before the groups in a row's counts: items below panel 0, and listed items.
constexpr int kBelow = 0, kListed = 1, kCounters = 2;
constexpr int kBatch = 4;  // listed items summed in one walk of a block over the row

template <class T, int kDerivative>
struct Linear {
  static constexpr int kWeights = 1 << kDerivative;  // {1}, {1, g}, {1, g, v, g v}
  static constexpr int kOrder = kPanelOrder<T>;
  static constexpr int kEntries = kWeights * kOrder;
  static constexpr int64_t kSharedPanels = kSharedEntries / kEntries;

  int64_t chunks, capacity, groups;  // per row
  const double* table;               // [2 reach - 1][order][order]: see make_panel_table
  ChunkSurvey<T>* surveys;           // [rows, chunks]
  RowPlan<T>* plans;                 // [rows]
  unsigned long long* moments;       // [rows, capacity, weights, order]
  unsigned long long* counts;        // [rows, kCounters + groups]
  int32_t* listed;                   // [rows, n] the items to sum over pairs, in no order
  T* coefficients;                   // [rows, capacity, weights, order]
};

// The position of a score along the row, in panels.
template <class T>
__device__ inline double place(T score, const RowPlan<T>& plan, double lam) {
  return floor((static_cast<double>(score) - plan.anchor) * lam);
}

// Whether an item is affected by items outside the panels, or lies there itself.
template <class T>
__device__ inline bool needs_pairs(double where, const RowPlan<T>& plan) {
  constexpr int kReach = kPanelReach<T>;
  return plan.is_windowed &&
         !(where >= kReach && where < static_cast<double>(plan.panels - kReach));
}

template <class T>
__device__ inline T centred(T score, int64_t panel, const RowPlan<T>& plan, double lam) {
  const PanelCentre<T> centre = panel_centre<T>(plan.anchor, static_cast<double>(panel), lam);
  return ((score - centre.hi) - centre.lo) * static_cast<T>(2 * lam);
}

template <class T, int kDerivative>
__device__ inline void load_weights(const Rows<T>& call, const RowPlan<T>& plan, int64_t at,
                                    T (&weights)[1 << kDerivative]) {
  weights[0] = 1;
  if constexpr (kDerivative >= 1) weights[1] = (call.grad[at] - plan.shift[0]) * plan.shrink[0];
  if constexpr (kDerivative == 2) {
    weights[2] = (call.grad_grad[at] - plan.shift[1]) * plan.shrink[1];
    weights[3] = weights[1] * weights[2];
  }
}

__device__ inline long long to_integer(float x) { return __float2ll_rn(x); }
__device__ inline long long to_integer(double x) { return __double2ll_rn(x); }

template <class T, int kDerivative>
__global__ void __launch_bounds__(kLinearBlock, 2)
    survey_kernel(Rows<T> call, Linear<T, kDerivative> scratch) {
  __shared__ T partial[kLinearBlock / kWarp];
  __shared__ int64_t partial_count[kLinearBlock / kWarp];
  const int64_t row = blockIdx.x / scratch.chunks, chunk = blockIdx.x % scratch.chunks;
  const int64_t offset = row * call.n, begin = chunk * kChunk;
  const int64_t end = begin + kChunk < call.n ? begin + kChunk : call.n;

  T low[1 + 2], high[1 + 2];
  for (int k = 0; k <= kDerivative; ++k) low[k] = kLargest<T>, high[k] = -kLargest<T>;
  // Valid items in the low bits, those with a non-finite value in the high ones.
  int64_t counts = 0;
  for (int64_t j = begin + threadIdx.x; j < end; j += kLinearBlock) {
    if (!call.valid(offset + j)) continue;
    bool all_finite = true;
#pragma unroll
    for (int k = 0; k <= kDerivative; ++k) {
      const T* values = k == 0 ? call.scores : k == 1 ? call.grad : call.grad_grad;
      const T value = values[offset + j];
      const bool finite = fabs(value) <= kLargest<T>;
      all_finite = all_finite && finite;
      low[k] = finite ? Min()(low[k], value) : low[k];
      high[k] = finite ? Max()(high[k], value) : high[k];
    }
    counts += all_finite ? 1 : 1 + (int64_t(1) << 32);
  }
#pragma unroll
  for (int k = 0; k <= kDerivative; ++k) {
    low[k] = reduce<kLinearBlock, kLinearBlock>(low[k], partial, Min());
    high[k] = reduce<kLinearBlock, kLinearBlock>(high[k], partial, Max());
  }
  counts = reduce<kLinearBlock, kLinearBlock>(counts, partial_count, Add());
  if (threadIdx.x > 0) return;
  ChunkSurvey<T>& survey = scratch.surveys[blockIdx.x];
  survey.count = counts & 0xffffffff;
  survey.bad = counts >> 32 != 0;
  survey.low = low[0];
  survey.high = high[0];
#pragma unroll
  for (int k = 1; k <= kDerivative; ++k) {
    survey.weight_low[k - 1] = low[k];
    survey.weight_high[k - 1] = high[k];
  }
}

// The median of an evenly spaced sample of a row's finite valid scores; all threads get it.
template <class T>
__device__ T sample_median(const Rows<T>& call, int64_t offset, T fallback) {
  __shared__ T sample[kSample];
  __shared__ int64_t partial[kLinearBlock / kWarp];
  int64_t found = 0;
  for (int k = threadIdx.x; k < kSample; k += kLinearBlock) {
    const int64_t at = offset + call.n * k / kSample;
    const bool used = call.valid(at) && fabs(call.scores[at]) <= kLargest<T>;
    sample[k] = used ? call.scores[at] : kLargest<T>;
    found += used;
  }
  found = reduce<kLinearBlock, kLinearBlock>(found, partial, Add());
  __syncthreads();
  for (int width = 2; width <= kSample; width *= 2) {  // bitonic sort
    for (int step = width / 2; step > 0; step /= 2) {
      for (int k = threadIdx.x; k < kSample; k += kLinearBlock) {
        const int other = k ^ step;
        const T a = sample[k];
        if (other > k && (a > sample[other]) == ((k & width) == 0)) {
          sample[k] = sample[other];
          sample[other] = a;
        }
      }
      __syncthreads();
    }
  }
  const T median = found > 0 ? sample[found / 2] : fallback;
  __syncthreads();
  return median;
}

template <class T, int kDerivative>
__global__ void __launch_bounds__(kLinearBlock, 2)
    plan_kernel(Rows<T> call, Linear<T, kDerivative> scratch) {
  using Shape = Linear<T, kDerivative>;
  __shared__ T partial[kLinearBlock / kWarp];
  __shared__ int64_t partial_count[kLinearBlock / kWarp];
  const int64_t row = blockIdx.x / kPlanBlocks, part = blockIdx.x % kPlanBlocks;
  const int64_t offset = row * call.n;

  T low[1 + 2], high[1 + 2];
  for (int k = 0; k <= kDerivative; ++k) low[k] = kLargest<T>, high[k] = -kLargest<T>;
  int64_t count = 0, bad = 0;
  for (int64_t chunk = threadIdx.x; chunk < scratch.chunks; chunk += kLinearBlock) {
    const ChunkSurvey<T>& survey = scratch.surveys[row * scratch.chunks + chunk];
    count += survey.count;
    bad += survey.bad;
    low[0] = Min()(low[0], survey.low);
    high[0] = Max()(high[0], survey.high);
#pragma unroll
    for (int k = 1; k <= kDerivative; ++k) {
      low[k] = Min()(low[k], survey.weight_low[k - 1]);
      high[k] = Max()(high[k], survey.weight_high[k - 1]);
    }
  }
#pragma unroll
  for (int k = 0; k <= kDerivative; ++k) {
    low[k] = reduce<kLinearBlock, kLinearBlock>(low[k], partial, Min());
    high[k] = reduce<kLinearBlock, kLinearBlock>(high[k], partial, Max());
    if (low[k] > high[k]) low[k] = high[k] = 0;
  }
  RowPlan<T> plan = {};
  plan.count = reduce<kLinearBlock, kLinearBlock>(count, partial_count, Add());
  plan.bad = reduce<kLinearBlock, kLinearBlock>(bad, partial_count, Add()) != 0;

  // Infinite if it overflows: then the row is windowed, like others that are too wide.
  const double range = (static_cast<double>(high[0]) - static_cast<double>(low[0])) * call.lam;
  const double capacity = static_cast<double>(scratch.capacity);
  plan.is_windowed = !(range + 1 < capacity);
  plan.panels = plan.is_windowed ? scratch.capacity : static_cast<int64_t>(range) + 1;
  plan.anchor = static_cast<double>(low[0]);
  double middle = range / 2;
  if (plan.panels > Shape::kSharedPanels) {
    const T median = sample_median(call, offset, low[0]);
    if (plan.is_windowed) plan.anchor = static_cast<double>(median) - capacity / 2 / call.lam;
    middle = place(median, plan, call.lam);
  }
  const double last_start = static_cast<double>(plan.panels - Shape::kSharedPanels);
  const double wanted = floor(middle) - static_cast<double>(Shape::kSharedPanels / 2);
  plan.first_shared = static_cast<int64_t>(fmax(0.0, fmin(wanted, last_start)));

#pragma unroll
  for (int k = 1; k <= kDerivative; ++k) {
    plan.shift[k - 1] = low[k] / 2 + high[k] / 2;
    const T largest = Max()(high[k] - plan.shift[k - 1], plan.shift[k - 1] - low[k]);
    constexpr int kLowest = std::numeric_limits<T>::min_exponent + 4;  // 2^-kLowest is finite
    const int exponent = largest > T(0) ? ilogb(largest) + 1 : 0;
    plan.exponent[k - 1] = exponent > kLowest ? exponent : kLowest;
    plan.shrink[k - 1] = ldexp(T(1), -plan.exponent[k - 1]);
  }
  plan.fraction_bits = 62;
  for (int64_t items = 1; items < plan.count; items *= 2) --plan.fraction_bits;
  if (threadIdx.x == 0 && part == 0) scratch.plans[row] = plan;

  const int64_t first = part * kLinearBlock + threadIdx.x, step = kPlanBlocks * kLinearBlock;
  unsigned long long* moments = scratch.moments + row * scratch.capacity * Shape::kEntries;
  for (int64_t k = first; k < plan.panels * Shape::kEntries; k += step) moments[k] = 0;
  unsigned long long* counts = scratch.counts + row * (kCounters + scratch.groups);
  for (int64_t k = first; k < kCounters + ceil_div(plan.panels, kCountedPanels); k += step)
    counts[k] = 0;
}

}  // namespace sodeep_fast
