// Flushes subnormal results to zero, where they are far below rounding anyway.
#pragma once

#include <limits>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

namespace sodeep_fast {

// Whether a subnormal difference is below rounding in units of 1 / scale.
template <class T>
bool is_flat_near_zero(double scale) {
  using Limits = std::numeric_limits<T>;
  return scale <= static_cast<double>(Limits::epsilon()) / Limits::min();
}

// While it lives, this thread's subnormal results are zero, if `wanted`. Intel's processors take a
// microcode assist for each of them, and saturated pairs with subnormals took five times as long
// (Granite Rapids, 2026-11). Operands may still be subnormal.
class FlushToZero {
 public:
#if defined(__x86_64__) && defined(__GNUC__)
  explicit FlushToZero(bool wanted) : before_(_mm_getcsr()) {
    constexpr unsigned kFlush = 1u << 15;
    if (wanted) _mm_setcsr(before_ | kFlush);
  }
  ~FlushToZero() { _mm_setcsr(before_); }
#else
  explicit FlushToZero(bool) {}
#endif
  FlushToZero(const FlushToZero&) = delete;
  FlushToZero& operator=(const FlushToZero&) = delete;

#if defined(__x86_64__) && defined(__GNUC__)
 private:
  unsigned before_;
#endif
};

}  // namespace sodeep_fast
