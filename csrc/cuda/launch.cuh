// Launching kernels, and the few device functions that every operator uses.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace sodeep_fast {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int64_t kMaxGrid = 2147483647;

inline __host__ __device__ int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t grid, int block, cudaStream_t stream,
                   Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid));
  config.blockDim = dim3(static_cast<unsigned>(block));
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

// Combines one value per thread over groups of kGroup consecutive threads of the block; every
// thread gets the result. All threads must call it, with one `shared` of kBlock / kWarp values.
template <int kGroup, int kBlock, class T, class Combine>
__device__ T reduce(T value, T* shared, Combine combine) {
  static_assert(kGroup % kWarp == 0 && kBlock % kGroup == 0, "groups are whole warps");
  for (int mask = kWarp / 2; mask > 0; mask /= 2)
    value = combine(value, __shfl_xor_sync(kAllLanes, value, mask));
  if constexpr (kGroup > kWarp) {
    const int warp = threadIdx.x / kWarp;
    if (threadIdx.x % kWarp == 0) shared[warp] = value;
    __syncthreads();
    const int first = warp / (kGroup / kWarp) * (kGroup / kWarp);
    value = shared[first];
    for (int other = 1; other < kGroup / kWarp; ++other)
      value = combine(value, shared[first + other]);
    __syncthreads();
  }
  return value;
}

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Min {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};
struct Max {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

}  // namespace sodeep_fast
