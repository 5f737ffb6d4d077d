// Runs CUDA kernels on the CPU, one block at a time, each thread a coroutine: enough of CUDA for a
// C++ compiler to compile csrc/cuda and for tests of its logic without a GPU. It finds wrong
// indexing, wrong arithmetic and missing barriers in lockstep code, but not races; it says nothing
// about speed or PTX.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __restrict__

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace cuda_emulator {

constexpr size_t kStackBytes = 64 << 10;
constexpr unsigned kWarp = 32;

struct Thread {
  ucontext_t start;
  jmp_buf resume;
  std::vector<char> stack;
  bool started, done;
};

// Threads that wait for each other: a block, or a warp of it.
struct Group {
  unsigned alive = 0, arrived = 0;
  uint64_t passed = 0;  // barriers

  void release_if_all_arrived() {
    if (arrived == 0 || arrived < alive) return;
    arrived = 0;
    ++passed;
  }
};

inline std::vector<Thread> threads;
inline Group whole_block, warps[1024 / kWarp];
inline jmp_buf scheduler;
inline unsigned current;
inline std::function<void()> body;
inline uint64_t exchange[1024];

inline void run_body() {
  body();
  threads[current].done = true;
  for (Group* group : {&whole_block, &warps[current / kWarp]}) {
    --group->alive;
    group->release_if_all_arrived();
  }
  _longjmp(scheduler, 1);
}

inline void yield() {
  if (_setjmp(threads[current].resume) == 0) _longjmp(scheduler, 1);
}

// Runs thread `i` until it waits or ends. Contexts start threads; jumps, which are faster, switch.
inline void step(unsigned i) {
  current = i;
  threadIdx = dim3(i, 0, 0);
  Thread& thread = threads[i];
  if (_setjmp(scheduler) != 0) return;
  if (thread.started) _longjmp(thread.resume, 1);
  thread.started = true;
  setcontext(&thread.start);
}

inline void barrier(Group& group) {
  const uint64_t mine = group.passed;
  ++group.arrived;
  group.release_if_all_arrived();
  while (group.passed == mine) yield();
}

inline void run(unsigned grid, unsigned block, const std::function<void()>& kernel) {
  body = kernel;
  threads.resize(block);
  gridDim = dim3(grid);
  blockDim = dim3(block);
  for (unsigned b = 0; b < grid; ++b) {
    blockIdx = dim3(b, 0, 0);
    whole_block = {block};
    for (unsigned i = 0; i < block; i += kWarp) warps[i / kWarp] = {std::min(kWarp, block - i)};
    for (Thread& thread : threads) {
      thread.stack.resize(kStackBytes);
      thread.started = thread.done = false;
      getcontext(&thread.start);
      thread.start.uc_stack.ss_sp = thread.stack.data();
      thread.start.uc_stack.ss_size = kStackBytes;
      thread.start.uc_link = nullptr;
      makecontext(&thread.start, run_body, 0);
    }
    while (whole_block.alive > 0)
      for (unsigned i = 0; i < block; ++i)
        if (!threads[i].done) step(i);
  }
}

template <class V>
V shuffle(V value, unsigned source_lane) {
  static_assert(sizeof(V) <= sizeof(uint64_t), "shuffles move at most 8 bytes");
  Group& warp = warps[current / kWarp];
  std::memcpy(&exchange[current], &value, sizeof(V));
  barrier(warp);
  V result;
  std::memcpy(&result, &exchange[current / kWarp * kWarp + source_lane], sizeof(V));
  barrier(warp);
  return result;
}

}  // namespace cuda_emulator

inline void __syncthreads() { cuda_emulator::barrier(cuda_emulator::whole_block); }
template <class V>
V __shfl_xor_sync(unsigned, V value, int mask) {
  return cuda_emulator::shuffle(value, (threadIdx.x % 32) ^ mask);
}
template <class V>
V atomicAdd(V* address, V value) {
  const V old = *address;
  *address = old + value;
  return old;
}
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline float __fdividef(float x, float y) { return x / y; }
inline long long __float2ll_rn(float x) { return std::llrint(x); }
inline long long __double2ll_rn(double x) { return std::llrint(x); }
using std::fabs;
using std::floor;
using std::fma;
using std::fmax;
using std::fmin;
using std::isfinite;
using std::ldexp;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed };
enum cudaMemcpyKind { cudaMemcpyHostToDevice };
constexpr unsigned cudaStreamNonBlocking = 1;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  cuda_emulator::run(config->gridDim.x, config->blockDim.x, [&] { kernel(arguments...); });
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  *pointer = std::malloc(bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) {
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
