// Which instruction set the kernels of this process use, decided once.
#pragma once

namespace sodeep_fast {

// kAmx is AVX-512 with tiles of bfloat16.
enum class Isa { kBaseline, kAvx2, kAvx512, kAmx };

// The best one that the processor has; SODEEP_FAST_CPU=baseline|avx2|avx512|amx can lower it.
Isa active_isa();

// Whether it has products of pairs of bfloat16 too.
bool has_bf16_pairs();

// One implementation for each; the first call decides.
template <class F>
F pick_isa(F baseline, F avx2, F avx512) {
  switch (active_isa()) {
    case Isa::kAmx:
    case Isa::kAvx512:
      return avx512;
    case Isa::kAvx2:
      return avx2;
    default:
      return baseline;
  }
}

}  // namespace sodeep_fast
