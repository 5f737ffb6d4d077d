// The entry points of soft_rank.h, which choose the kernels.

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda/soft_rank.h"
#include "cuda/soft_rank_direct.cuh"
#include "cuda/soft_rank_linear.cuh"

namespace sodeep_fast {
namespace {

// The node-to-node table on the current device; built and copied once per process and device.
template <class T, int kDerivative>
cudaError_t panel_table(const double** table) {
  static std::mutex mutex;
  static std::map<int, const double*> tables;
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const std::lock_guard<std::mutex> lock(mutex);
  if (const auto found = tables.find(device); found != tables.end()) {
    *table = found->second;
    return cudaSuccess;
  }
  static const std::vector<double> host = make_panel_table<T, kDerivative>();
  const size_t bytes = host.size() * sizeof(double);
  // The caller may be capturing its stream, so allocate and copy outside of the capture, on our own
  // stream.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  void* memory = nullptr;
  cudaStream_t stream = nullptr;
  error = cudaMalloc(&memory, bytes);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error == cudaSuccess) {
    error = cudaMemcpyAsync(memory, host.data(), bytes, cudaMemcpyHostToDevice, stream);
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
  }
  if (error != cudaSuccess) cudaFree(memory);
  cudaThreadExchangeStreamCaptureMode(&mode);
  if (error == cudaSuccess) *table = tables[device] = static_cast<const double*>(memory);
  return error;
}

template <class T>
Rows<T> rows_of(const SodeepFastSoftRank& call) {
  // The kernels hold 2 lam / log 2 in T, where it must stay finite.
  const double most = std::numeric_limits<T>::max() / 4;
  return {call.rows,
          call.n,
          std::min(call.lam, most),
          call.normalize != 0,
          static_cast<const T*>(call.scores),
          call.mask,
          static_cast<const T*>(call.grad),
          static_cast<const T*>(call.grad_grad),
          static_cast<T*>(call.out)};
}

// Whether T can hold the width of panels and positions in them.
template <class T>
bool has_panels(double lam) {
  const double most = std::numeric_limits<T>::max();
  return 1 / lam <= most && 4 * lam <= most;
}

template <class T, int kDerivative>
size_t workspace(const SodeepFastSoftRank& call) {
  if (!call.linear || call.rows == 0 || call.n == 0 || !has_panels<T>(call.lam)) return 0;
  Linear<T, kDerivative> scratch;
  return lay_out(rows_at_once<T, kDerivative>(call.rows, call.n), call.n, nullptr, scratch);
}

template <class T, int kDerivative>
cudaError_t run(const SodeepFastSoftRank& call, cudaStream_t stream) {
  if (call.rows == 0 || call.n == 0) return cudaSuccess;
  if (!call.linear || !has_panels<T>(call.lam))
    return launch_direct<T, kDerivative>(rows_of<T>(call), stream);
  const double* table = nullptr;
  const cudaError_t error = panel_table<T, kDerivative>(&table);
  if (error != cudaSuccess) return error;
  return launch_linear<T, kDerivative>(rows_of<T>(call), table, call.workspace, stream);
}

// Calls visit(T(), std::integral_constant<int, derivative>()) for the call's type and derivative.
template <class Visit>
auto dispatch(const SodeepFastSoftRank& call, Visit visit) {
  const auto with_type = [&](auto zero) {
    if (call.derivative == 0) return visit(zero, std::integral_constant<int, 0>());
    if (call.derivative == 1) return visit(zero, std::integral_constant<int, 1>());
    return visit(zero, std::integral_constant<int, 2>());
  };
  return call.is_double ? with_type(double(0)) : with_type(float(0));
}

}  // namespace
}  // namespace sodeep_fast

size_t sodeep_fast_soft_rank_workspace(const SodeepFastSoftRank* call) {
  return sodeep_fast::dispatch(*call, [&](auto zero, auto derivative) {
    return sodeep_fast::workspace<decltype(zero), derivative()>(*call);
  });
}

const char* sodeep_fast_soft_rank(const SodeepFastSoftRank* call, void* stream) {
  const cudaError_t error = sodeep_fast::dispatch(*call, [&](auto zero, auto derivative) {
    return sodeep_fast::run<decltype(zero), derivative()>(*call, static_cast<cudaStream_t>(stream));
  });
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
