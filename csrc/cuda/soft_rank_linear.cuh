// The sums of long rows in linear time, by the panels and power moments of math/sigmoid_panels.h.
//
//   survey      each chunk of a row: count, range of the scores, ranges of g and v
//   plan        each row: where its panels start, how many, scales; clears its table
//   accumulate  add every item to its panel's moments; list the items that panels cannot serve
//   combine     every panel: moments of those in reach -> power coefficients of the sums there;
//               and the sums of the listed items, over all pairs
//   evaluate    every other item: a polynomial in its position in its panel
//
// Moments are integers: |w t^b| <= 1 after scaling, in units small enough that n of them stay below
// 2^62. Integer sums do not depend on their order, so the result is the same in every run, and they
// are finer than float32's own rounding. A block keeps the panels around the row's median in shared
// memory and adds them to the row's table in global memory once.
//
// A row has at most `capacity` panels. Where its range needs more, the panels lie around the
// median. Items outside, and those so near an edge that items outside affect them, are summed over
// all pairs, block by block. That is always correct, and rare (outliers, heavy tails) unless the
// scores spread over more than capacity / lam. No decision is made on the host.
//
// Expected on an H200 in float32, none of it measured. Five launches of 2 us are all that (512,
// 100) costs. At (8, 100000), scores are read three times and written once: 13 MB, 3 us of the
// caches or of memory at 4.3 TB/s, and 3 MB more for each gradient and pass. Accumulating takes the
// most: 340 instructions an item for the ranks, 560 for the gradient, 1030 for the second. At
// 3.3e13 a second, that is 8, 13 and 25 us at best, perhaps twice that, since of 200 blocks some
// multiprocessors have two and others one. Together with plan and combine, some 40, 50 and 80 us.
// For the ranks, with a launch of 2 us in each: survey 3 us (3 MB), plan and combine 8 us each (few
// blocks, so mostly latency), accumulate 10 to 18 us, evaluate 4 us (6 MB).
#pragma once

#include "cuda/soft_rank_plan.cuh"

namespace sodeep_fast {

template <class T, int kDerivative>
__global__ void __launch_bounds__(kLinearBlock, 2)
    accumulate_kernel(Rows<T> call, Linear<T, kDerivative> scratch) {
  using Shape = Linear<T, kDerivative>;
  constexpr int kEntries = Shape::kEntries, kOrder = Shape::kOrder;
  // 64-bit sums as pairs of words: shared memory adds 32-bit integers in one instruction.
  __shared__ unsigned low_words[kSharedEntries], high_words[kSharedEntries];
  const int64_t row = blockIdx.x / scratch.chunks, chunk = blockIdx.x % scratch.chunks;
  const RowPlan<T> plan = scratch.plans[row];
  if (plan.bad) return;
  unsigned long long* moments = scratch.moments + row * scratch.capacity * kEntries;
  unsigned long long* counts = scratch.counts + row * (kCounters + scratch.groups);

  // With few panels every lane has its own copy of them, and no two lanes of a warp ever collide.
  const int shared_panels =
      static_cast<int>(plan.panels < Shape::kSharedPanels ? plan.panels : Shape::kSharedPanels);
  int copies = 1;
  while (copies < kWarp && 2 * copies * shared_panels * kEntries <= kSharedEntries) copies *= 2;
  const int cells = shared_panels * kEntries;
  for (int k = threadIdx.x; k < cells * copies; k += kLinearBlock) low_words[k] = high_words[k] = 0;
  __syncthreads();

  const int64_t offset = row * call.n, begin = chunk * kChunk;
  const int64_t end = begin + kChunk < call.n ? begin + kChunk : call.n;
  const T unit = ldexp(T(1), plan.fraction_bits);
  const int copy = threadIdx.x & (copies - 1);
  for (int64_t at = offset + begin + threadIdx.x; at < offset + end; at += kLinearBlock) {
    if (!call.valid(at)) continue;
    const T score = call.scores[at];
    const double where = place(score, plan, call.lam);
    if (needs_pairs(where, plan)) {
      const auto k = atomicAdd(&counts[kListed], 1ull);
      scratch.listed[row * call.n + static_cast<int64_t>(k)] = static_cast<int32_t>(at - offset);
    }
    if (plan.is_windowed && !(where >= 0 && where < static_cast<double>(plan.panels))) {
      if (where < 0) atomicAdd(&counts[kBelow], 1ull);
      continue;
    }
    const int64_t rounded = static_cast<int64_t>(where);
    const int64_t panel = rounded < plan.panels ? rounded : plan.panels - 1;
    const T t = centred(score, panel, plan, call.lam);
    T terms[Shape::kWeights];
    load_weights<T, kDerivative>(call, plan, at, terms);
    const int64_t shared_panel = panel - plan.first_shared;
    const bool is_shared = shared_panel >= 0 && shared_panel < shared_panels;
    const int cell = static_cast<int>(is_shared ? shared_panel : 0) * kEntries;
    if (!is_shared) atomicAdd(&counts[kCounters + panel / kCountedPanels], 1ull);
#pragma unroll
    for (int b = 0; b < kOrder; ++b) {
#pragma unroll
      for (int w = 0; w < Shape::kWeights; ++w) {
        const auto value = static_cast<unsigned long long>(to_integer(terms[w] * unit));
        terms[w] *= t;
        if (is_shared) {
          const int k = (cell + w * kOrder + b) * copies + copy;
          const auto low = static_cast<unsigned>(value);
          const unsigned carry = atomicAdd(&low_words[k], low) + low < low;
          atomicAdd(&high_words[k], static_cast<unsigned>(value >> 32) + carry);
        } else {
          atomicAdd(&moments[panel * kEntries + w * kOrder + b], value);
        }
      }
    }
  }
  __syncthreads();
  for (int k = threadIdx.x; k < cells; k += kLinearBlock) {
    unsigned long long sum = 0;
    for (int c = 0; c < copies; ++c) {
      const int at = k * copies + ((c + threadIdx.x) & (copies - 1));  // spread over the banks
      sum += (static_cast<unsigned long long>(high_words[at]) << 32) + low_words[at];
    }
    if (sum == 0) continue;
    atomicAdd(&moments[plan.first_shared * kEntries + k], sum);
    if (k % kEntries == 0) {
      const int64_t panel = plan.first_shared + k / kEntries;
      atomicAdd(&counts[kCounters + panel / kCountedPanels], sum >> plan.fraction_bits);
    }
  }
}

// Sums the listed items of a row over all pairs, kBatch of them at a time.
template <class T, int kDerivative>
__device__ void sum_listed(const Rows<T>& call, const Linear<T, kDerivative>& scratch,
                           const RowPlan<T>& plan, int64_t row, int64_t block, int64_t blocks,
                           int64_t listed, double* partial) {
  constexpr int kWeights = 1 << kDerivative;
  const int64_t offset = row * call.n;
  const T rate = call.rate();
  double scale = call.template scale<kDerivative>(plan.count);
  for (int k = 0; k < kDerivative; ++k) scale = ldexp(scale, plan.exponent[k]);
  for (int64_t first = block * kBatch; first < listed; first += blocks * kBatch) {
    T score[kBatch], own[kBatch][kWeights];
    double sums[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int64_t item = first + k < listed ? first + k : listed - 1;
      const int64_t at = offset + scratch.listed[offset + item];
      score[k] = call.half_score(at);
      load_weights<T, kDerivative>(call, plan, at, own[k]);
      sums[k] = 0;
    }
    for (int64_t j = offset + threadIdx.x; j < offset + call.n; j += kLinearBlock) {
      if (!call.valid(j)) continue;
      const T source = call.half_score(j);
      T other[kWeights];
      load_weights<T, kDerivative>(call, plan, j, other);
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        const auto term = sigmoid_fraction<T, kDerivative>(rate * (score[k] - source));
        T value = quotient(term.numerator, term.denominator);
        if constexpr (kDerivative >= 1) value *= other[1] - own[k][1];
        if constexpr (kDerivative == 2) value *= other[2] - own[k][2];
        sums[k] += static_cast<double>(value);
      }
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const double sum = reduce<kLinearBlock, kLinearBlock>(sums[k], partial, Add());
      const double half = kDerivative == 0 ? 0.5 : 0.0;  // an item outranks itself by one half
      if (threadIdx.x == 0 && first + k < listed)
        call.out[offset + scratch.listed[offset + first + k]] =
            static_cast<T>(scale * (sum + half));
    }
  }
}

template <class T, int kDerivative>
__global__ void __launch_bounds__(kLinearBlock, 2)
    combine_kernel(Rows<T> call, Linear<T, kDerivative> scratch, int64_t blocks_per_row) {
  using Shape = Linear<T, kDerivative>;
  constexpr int kOrder = Shape::kOrder, kEntries = Shape::kEntries, kReach = kPanelReach<T>;
  constexpr int kParts = kLinearBlock / kOrder;  // threads that share the neighbours of a panel
  __shared__ double partial[kParts][Shape::kWeights][kOrder];
  __shared__ int64_t partial_count[kLinearBlock / kWarp];
  __shared__ double partial_sum[kLinearBlock / kWarp];
  const int64_t row = blockIdx.x / blocks_per_row, block = blockIdx.x % blocks_per_row;
  const RowPlan<T> plan = scratch.plans[row];
  if (plan.bad) return;
  const unsigned long long* moments = scratch.moments + row * scratch.capacity * kEntries;
  const unsigned long long* counts = scratch.counts + row * (kCounters + scratch.groups);
  T* coefficients = scratch.coefficients + row * scratch.capacity * kEntries;
  const double unit = ldexp(1.0, -plan.fraction_bits);
  const int a = threadIdx.x % kOrder, part = threadIdx.x / kOrder;

  const auto listed = static_cast<int64_t>(counts[kListed]);
  if (listed > 0) sum_listed(call, scratch, plan, row, block, blocks_per_row, listed, partial_sum);
  for (int64_t own = block; own < plan.panels; own += blocks_per_row) {
    if (moments[own * kEntries] == 0) continue;
    double sums[Shape::kWeights] = {};
    for (int d = part + 1 - kReach; d < kReach; d += kParts) {
      const int64_t other = own + d;
      if (other < 0 || other >= plan.panels) continue;
      const unsigned long long* moment = moments + other * kEntries;
      if (moment[0] == 0) continue;
      const double* entry = scratch.table + (d + kReach - 1) * kOrder * kOrder + a;
#pragma unroll 4
      for (int b = 0; b < kOrder; ++b) {
        const double factor = entry[b * kOrder];
#pragma unroll
        for (int w = 0; w < Shape::kWeights; ++w)
          sums[w] += factor * static_cast<double>(static_cast<long long>(moment[w * kOrder + b]));
      }
    }
    // Items above count in full; the table corrects for those in reach.
    int64_t above = 0;
    if constexpr (kDerivative == 0) {
      const int64_t own_group = own / kCountedPanels;
      if (threadIdx.x == 0) above -= static_cast<int64_t>(counts[kBelow]);
      for (int64_t k = threadIdx.x; k < own_group; k += kLinearBlock)
        above -= static_cast<int64_t>(counts[kCounters + k]);
      for (int64_t k = own_group * kCountedPanels + threadIdx.x; k <= own; k += kLinearBlock)
        above -= static_cast<int64_t>(moments[k * kEntries] >> plan.fraction_bits);
      above = plan.count + reduce<kLinearBlock, kLinearBlock>(above, partial_count, Add());
    }
#pragma unroll
    for (int w = 0; w < Shape::kWeights; ++w) partial[part][w][a] = sums[w];
    __syncthreads();
    for (int k = threadIdx.x; k < kEntries; k += kLinearBlock) {
      double sum = 0;
      for (int p = 0; p < kParts; ++p) sum += partial[p][k / kOrder][k % kOrder];
      sum *= unit;
      if (kDerivative == 0 && k == 0) sum += static_cast<double>(above) + 0.5;
      coefficients[own * kEntries + k] = static_cast<T>(sum);
    }
    __syncthreads();
  }
}

template <class T, int kDerivative>
__global__ void __launch_bounds__(kLinearBlock, 2)
    evaluate_kernel(Rows<T> call, Linear<T, kDerivative> scratch) {
  using Shape = Linear<T, kDerivative>;
  constexpr int kOrder = Shape::kOrder, kEntries = Shape::kEntries;
  const int64_t row = blockIdx.x / scratch.chunks, chunk = blockIdx.x % scratch.chunks;
  const RowPlan<T> plan = scratch.plans[row];
  const T* coefficients = scratch.coefficients + row * scratch.capacity * kEntries;
  double scale = call.template scale<kDerivative>(plan.count);
  for (int k = 0; k < kDerivative; ++k) scale = ldexp(scale, plan.exponent[k]);

  const int64_t offset = row * call.n, begin = chunk * kChunk;
  const int64_t end = begin + kChunk < call.n ? begin + kChunk : call.n;
  for (int64_t at = offset + begin + threadIdx.x; at < offset + end; at += kLinearBlock) {
    if (!call.valid(at) || plan.bad) {
      call.out[at] = call.valid(at) ? kNaN<T> : T(0);
      continue;
    }
    const T score = call.scores[at];
    const double where = place(score, plan, call.lam);
    if (needs_pairs(where, plan)) continue;
    const int64_t rounded = static_cast<int64_t>(where);
    const int64_t panel = rounded < plan.panels ? rounded : plan.panels - 1;
    const T t = centred(score, panel, plan, call.lam);
    const T* power = coefficients + panel * kEntries;
    T sums[Shape::kWeights], own[Shape::kWeights];
#pragma unroll
    for (int w = 0; w < Shape::kWeights; ++w) {
      sums[w] = power[w * kOrder + kOrder - 1];
#pragma unroll
      for (int b = kOrder - 2; b >= 0; --b) sums[w] = sums[w] * t + power[w * kOrder + b];
    }
    load_weights<T, kDerivative>(call, plan, at, own);
    T sum = sums[0];
    if constexpr (kDerivative == 1) sum = sums[1] - own[1] * sums[0];
    if constexpr (kDerivative == 2)
      sum = sums[3] - own[1] * sums[2] - own[2] * sums[1] + own[3] * sums[0];
    call.out[at] = static_cast<T>(scale * static_cast<double>(sum));
  }
}

// The most panels of a row: an eighth of its items, to keep the tables within a few times the
// input, but at least 4 reaches, so that even a short row's window has panels away from its edges.
template <class T>
int64_t panel_capacity(int64_t n) {
  const int64_t least = 4 * kPanelReach<T>;
  return n / 8 > least ? n / 8 : least;
}

// Lays out the scratch of `rows` rows from `base` on, and returns its size in bytes.
template <class T, int kDerivative>
size_t lay_out(int64_t rows, int64_t n, char* base, Linear<T, kDerivative>& scratch) {
  using Shape = Linear<T, kDerivative>;
  scratch.chunks = ceil_div(n, kChunk);
  scratch.capacity = panel_capacity<T>(n);
  scratch.groups = ceil_div(scratch.capacity, kCountedPanels);
  size_t used = 0;
  const auto place_buffer = [&](auto*& pointer, int64_t count) {
    using Element = std::remove_reference_t<decltype(*pointer)>;
    pointer = reinterpret_cast<Element*>(base + used);
    used += ceil_div(count * static_cast<int64_t>(sizeof(Element)), 256) * 256;
  };
  place_buffer(scratch.surveys, rows * scratch.chunks);
  place_buffer(scratch.plans, rows);
  place_buffer(scratch.moments, rows * scratch.capacity * Shape::kEntries);
  place_buffer(scratch.counts, rows * (kCounters + scratch.groups));
  place_buffer(scratch.listed, rows * n);
  place_buffer(scratch.coefficients, rows * scratch.capacity * Shape::kEntries);
  return used;
}

// Rows that are worked on together: as many as fit a scratch of 64 MiB, at least one.
template <class T, int kDerivative>
int64_t rows_at_once(int64_t rows, int64_t n) {
  Linear<T, kDerivative> scratch;
  const auto one = static_cast<int64_t>(lay_out(1, n, nullptr, scratch));
  int64_t most = (int64_t(64) << 20) / one;
  most = most > 1 ? most : 1;
  return rows < most ? rows : most;
}

template <class T, int kDerivative>
cudaError_t launch_linear(Rows<T> call, const double* table, void* workspace, cudaStream_t stream) {
  const int64_t at_once = rows_at_once<T, kDerivative>(call.rows, call.n);
  Linear<T, kDerivative> scratch;
  lay_out(at_once, call.n, static_cast<char*>(workspace), scratch);
  scratch.table = table;
  for (int64_t first = 0; first < call.rows; first += at_once) {
    const Rows<T> slice = call.slice(first, at_once);
    // Enough blocks to fill a large GPU; a block takes every combine_blocks-th panel of its row.
    const int64_t wanted = ceil_div(2048, slice.rows);
    const int64_t combine_blocks = wanted < scratch.capacity ? wanted : scratch.capacity;
    const int64_t chunks = slice.rows * scratch.chunks;
    cudaError_t error =
        launch(survey_kernel<T, kDerivative>, chunks, kLinearBlock, stream, slice, scratch);
    if (error == cudaSuccess)
      error = launch(plan_kernel<T, kDerivative>, slice.rows * kPlanBlocks, kLinearBlock, stream,
                     slice, scratch);
    if (error == cudaSuccess)
      error =
          launch(accumulate_kernel<T, kDerivative>, chunks, kLinearBlock, stream, slice, scratch);
    if (error == cudaSuccess)
      error = launch(combine_kernel<T, kDerivative>, slice.rows * combine_blocks, kLinearBlock,
                     stream, slice, scratch, combine_blocks);
    if (error == cudaSuccess)
      error = launch(evaluate_kernel<T, kDerivative>, chunks, kLinearBlock, stream, slice, scratch);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace sodeep_fast
