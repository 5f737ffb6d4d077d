// Which instruction set the kernels of this process use, decided once.
#pragma once

namespace sodeep_fast {

// kAvx512Bf16 is AVX-512 with products of pairs of bfloat16, kAmx with those of tiles, too.
enum class Isa { kBaseline, kAvx2, kAvx512, kAvx512Bf16, kAmx };

// The fastest one of this processor, or that of SODEEP_FAST_CPU.
Isa active_isa();

// Whether it multiplies bfloat16.
inline bool has_bf16_products() { return active_isa() >= Isa::kAvx512Bf16; }

// Picks one of the implementations; the choice is made at the first call.
template <class F>
F pick_isa(F baseline, F avx2, F avx512) {
  switch (active_isa()) {
    case Isa::kAmx:
    case Isa::kAvx512Bf16:
    case Isa::kAvx512:
      return avx512;
    case Isa::kAvx2:
      return avx2;
    default:
      return baseline;
  }
}

}  // namespace sodeep_fast
