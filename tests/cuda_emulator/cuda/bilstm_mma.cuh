// csrc/cuda/bilstm_mma.cuh for the emulator: what its instructions do, as PTX defines them.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace sodeep_fast {

inline float factors[1024][12];  // of every thread: 8 of the left matrix, 4 of the right one

// Adds the product of a matrix of 16 by 16 and one of 16 by 8, of which the lanes of a warp have
// four pairs of the first and two of the second each.
template <class T>
void multiply(float (&sums)[4], const uint32_t (&a)[4], uint32_t b, uint32_t b_8) {
  const unsigned thread = threadIdx.x, warp = thread / 32 * 32, lane = thread % 32;
  const uint32_t pairs[6] = {a[0], a[1], a[2], a[3], b, b_8};
  for (int k = 0; k < 12; ++k)
    factors[thread][k] = T::value(static_cast<uint16_t>(pairs[k / 2] >> (k % 2 * 16)));
  cuda_emulator::barrier(cuda_emulator::warps[thread / 32]);
  for (unsigned part = 0; part < 4; ++part) {
    const unsigned row = lane / 4 + part / 2 * 8, column = lane % 4 * 2 + part % 2;
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned pair = k % 8 / 2, half = k / 8;
      const float left = factors[warp + row % 8 * 4 + pair][2 * (row / 8 + 2 * half) + k % 2];
      const float right = factors[warp + column * 4 + pair][8 + 2 * half + k % 2];
      sums[part] += left * right;
    }
  }
  cuda_emulator::barrier(cuda_emulator::warps[thread / 32]);
}

// Two numbers to a register, the first in its lower half.
template <class T>
struct Pairs {
  static uint32_t pack(float first, float second) {
    return T::bits(first) | static_cast<uint32_t>(T::bits(second)) << 16;
  }

  static uint32_t pack_finite(float first, float second) {
    const auto finite = [](float x) {
      return std::isnan(x) ? x : std::fmin(std::fmax(x, -T::kLargest), T::kLargest);
    };
    return pack(finite(first), finite(second));
  }

  static float2 unpack(uint32_t both) {
    return {T::value(static_cast<uint16_t>(both)), T::value(static_cast<uint16_t>(both >> 16))};
  }

  static void mma(float (&sums)[4], const uint32_t (&a)[4], uint32_t b, uint32_t b_8) {
    multiply<T>(sums, a, b, b_8);
  }
};

struct Float16 : Pairs<Float16> {
  static constexpr float kLargest = 65504.0f;

  static uint16_t bits(float x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    if (std::isnan(x)) return sign | 0x7e00;
    const float size = std::fabs(x);
    if (size >= 65520.0f) return sign | 0x7c00;
    if (size == 0.0f) return sign;
    // To 11 binary digits, or less where they would be below 2^-24.
    const int last = std::max(std::ilogb(size) - 10, -24);
    const int digits = static_cast<int>(std::nearbyint(std::ldexp(size, -last)));
    return static_cast<uint16_t>(sign | ((last + 25) * 1024 + digits - 1024));
  }

  static float value(uint16_t bits) {
    const int exponent = bits >> 10 & 31, digits = bits & 1023;
    const float size = exponent == 31  ? (digits ? NAN : INFINITY)
                       : exponent == 0 ? std::ldexp(static_cast<float>(digits), -24)
                                       : std::ldexp(1024.0f + digits, exponent - 25);
    return bits & 0x8000 ? -size : size;
  }
};

struct Bfloat16 : Pairs<Bfloat16> {
  static constexpr float kLargest = 3.38953139e38f;

  static uint16_t bits(float x) {
    const uint32_t all = __float_as_uint(x);
    if (std::isnan(x)) return static_cast<uint16_t>(all >> 16 | 0x40);
    return static_cast<uint16_t>((all + 0x7fff + (all >> 16 & 1)) >> 16);
  }

  static float value(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
};

inline void load_matrices(uint32_t (&matrices)[4], const void* row) {
  const unsigned lane = threadIdx.x % 32;
  for (unsigned k = 0; k < 4; ++k) {
    const auto* from = static_cast<const char*>(cuda_emulator::shuffle(row, 8 * k + lane / 4));
    std::memcpy(&matrices[k], from + lane % 4 * 4, 4);
  }
}

inline void hide(int64_t) {}
inline float exponential_2(float x) { return std::exp2(x); }
inline float reciprocal(float x) { return 1.0f / x; }
inline float smaller(float x, float y) {
  return std::isnan(x) || std::isnan(y) ? NAN : std::fmin(x, y);
}

}  // namespace sodeep_fast
