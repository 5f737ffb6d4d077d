// Which cells of an LSTM a thread has, and how it reads and writes their numbers.
#pragma once

#include <cstdint>

#include "cuda/bilstm_mma.cuh"
#include "cuda/launch.cuh"

namespace sodeep_fast {

// Rows of a block: the columns of a product, the fewest that the instruction takes.
constexpr int kTileRows = 8;

// A warp has 16 units of all rows of its block. A thread has two neighbouring units of two
// neighbouring rows. It gets exactly their results from a product, if the first 8 of 16 rows of
// weights belong to the warp's even units and the last 8 to the odd ones, or the first 8 to one
// gate of 8 units and the last 8 to another.
struct Cells {
  int direction;
  int unit;      // the first of the two
  int pair;      // the first row in the tile, divided by 2
  int64_t tile;  // of its block
  int64_t row;   // the first
  int units[2];  // how many exist in each of the rows; numbers of others are 0

  __device__ Cells(int64_t batch, int hidden)
      : direction(blockIdx.x % 2),
        unit(threadIdx.x / kWarp * 16 + threadIdx.x % kWarp / 4 * 2),
        pair(threadIdx.x % 4),
        tile(blockIdx.x / 2),
        row(tile * kTileRows + 2 * pair) {
    const int there = unit + 1 < hidden ? 2 : unit < hidden ? 1 : 0;
    for (int r = 0; r < 2; ++r) {
      units[r] = row + r < batch ? there : 0;
      hide(units[r]);
    }
  }

  // Indexing would put the kernel's arguments on the stack.
  __device__ const float* of_direction(const float* const (&both)[2]) const {
    return direction == 0 ? both[0] : both[1];
  }

  // The offset of the first cell's number in [batch, 2, numbers of a row and direction].
  __device__ int64_t offset(int64_t numbers) const {
    return (2 * row + direction) * numbers + unit;
  }
};

// Whether pairs of units are aligned, so that both can be read or written at once.
template <class V>
__device__ bool in_pairs(const V* first, int hidden) {
  return hidden % 2 == 0 && reinterpret_cast<uintptr_t>(first) % (2 * sizeof(V)) == 0;
}

// Calls visit(paired) with a constant: one branch for all pairs that it reads or writes.
template <class Visit>
__device__ void visit_pairs(bool paired, Visit visit) {
  if (paired)
    visit(true);
  else
    visit(false);
}

// Loads two neighbouring numbers, or one, or none; the others are 0.
__device__ inline float2 load_pair(const float* at, int units, bool paired) {
  float2 pair = {0.0f, 0.0f};
  if (paired) {
    if (units > 0) pair = *reinterpret_cast<const float2*>(at);
  } else {
    if (units > 0) pair.x = at[0];
    if (units > 1) pair.y = at[1];
  }
  return pair;
}

__device__ inline void store_pair(float* at, float2 pair, int units, bool paired) {
  if (paired) {
    if (units > 0) *reinterpret_cast<float2*>(at) = pair;
  } else {
    if (units > 0) at[0] = pair.x;
    if (units > 1) at[1] = pair.y;
  }
}

__device__ inline void store_pair(uint16_t* at, uint32_t pair, int units, bool paired) {
  if (paired) {
    if (units > 0) *reinterpret_cast<uint32_t*>(at) = pair;
  } else {
    if (units > 0) at[0] = static_cast<uint16_t>(pair);
    if (units > 1) at[1] = static_cast<uint16_t>(pair >> 16);
  }
}

// Numbers of a thread's units, 0 beyond `hidden`.
__device__ inline void load_units(float (&numbers)[2], const float* first, int hidden, int unit) {
  for (int u = 0; u < 2; ++u) numbers[u] = unit + u < hidden ? first[unit + u] : 0.0f;
}

// The same for each gate, [4, hidden].
__device__ inline void load_units(float (&gates)[4][2], const float* first, int hidden, int unit) {
  for (int gate = 0; gate < 4; ++gate) load_units(gates[gate], first + gate * hidden, hidden, unit);
}

// Sums over all units of a block, for each of its rows: [2, steps, batch] in memory.
template <int kHidden>
struct RowSums {
  static constexpr int kWarps = kHidden / 16;
  float (&parts)[2][kWarps][kTileRows];  // in shared memory, used by steps in turn

  // Adds up the threads' parts in each warp; a barrier must follow.
  __device__ void add(int now, const Cells& own, const float (&by_row)[2]) {
    for (int r = 0; r < 2; ++r) {
      float sum = by_row[r];
      for (int mask = 4; mask < kWarp; mask *= 2) sum += __shfl_xor_sync(kAllLanes, sum, mask);
      if (threadIdx.x % kWarp < 4) parts[now][threadIdx.x / kWarp][2 * own.pair + r] = sum;
    }
  }

  // After the barrier: each of the first `rows` threads adds up and stores a row.
  __device__ void store(int now, float* first, int rows) const {
    if (static_cast<int>(threadIdx.x) < rows) {
      float sum = 0.0f;
      for (int warp = 0; warp < kWarps; ++warp) sum += parts[now][warp][threadIdx.x];
      first[threadIdx.x] = sum;
    }
  }

  // How many rows a tile has, and where they lie at the first step in memory.
  static __device__ int rows(const Cells& own, int64_t batch) {
    const int64_t rest = batch - own.tile * kTileRows;
    return rest < kTileRows ? static_cast<int>(rest) : kTileRows;
  }
  static __device__ int64_t offset(const Cells& own, int64_t steps, int64_t batch) {
    return own.direction * steps * batch + own.tile * kTileRows;
  }
};

// The recurrent weights of a direction, [4, hidden, hidden]; 0 beyond.
struct Recurrent {
  const float* weight;
  int hidden;

  __device__ float operator()(int gate, int to, int from) const {
    return to < hidden && from < hidden ? weight[(gate * hidden + to) * hidden + from] : 0.0f;
  }
};

// The layout of what a forward saves for the backward: for every step and tile i, f, g, o and c in
// float16, for each of these four numbers per thread.
template <int kHidden>
struct Saved {
  static constexpr int kThreads = 2 * kHidden;
  static constexpr int kNumbers = 5;

  // Where a thread's numbers begin at the first step in memory; they lie kThreads apart.
  static __device__ int64_t offset(const Cells& own, int64_t steps, int64_t batch) {
    return own.direction * steps * per_step(batch) + own.tile * (kNumbers * kThreads) + threadIdx.x;
  }

  static __device__ int64_t per_step(int64_t batch) {
    return ceil_div(batch, kTileRows) * (kNumbers * kThreads);
  }
};

}  // namespace sodeep_fast
