#include "cpu/isa.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdlib>
#include <string>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sodeep_fast {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512", "avx512_bf16", "amx"};

// Whether the processor multiplies tiles of bfloat16, and the system lets this process use them.
bool may_use_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kTiles = 1u << 24 | 1u << 22;  // AMX-TILE, AMX-BF16
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return (d & kTiles) == kTiles && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// Whether it does so at more than the rate of float32. Intel's do not: a quarter of the
// instructions in the same time, each with twice the products (Xeon of model 207, 2026-11).
bool multiplies_pairs_fast() {
#if defined(__x86_64__) && defined(__GNUC__)
  return !__builtin_cpu_is("intel");
#else
  return false;
#endif
}

Isa detect() {
  Isa best = Isa::kBaseline;
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Isa::kAvx2;
  if (best == Isa::kAvx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    best = Isa::kAvx512;
  if (best == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16"))
    best = may_use_tiles() ? Isa::kAmx : Isa::kAvx512Bf16;
#endif
  const char* forced = std::getenv("SODEEP_FAST_CPU");
  if (forced == nullptr || *forced == '\0')
    return best == Isa::kAvx512Bf16 && !multiplies_pairs_fast() ? Isa::kAvx512 : best;
  for (int i = 0; i <= static_cast<int>(best); ++i)
    if (forced == std::string(kNames[i])) return static_cast<Isa>(i);
  STD_TORCH_CHECK(
      false,
      "SODEEP_FAST_CPU must be baseline, avx2, avx512, avx512_bf16 or amx and no higher than ",
      kNames[static_cast<int>(best)], " on this processor, got ", forced);
}

std::string cpu_capability() { return kNames[static_cast<int>(active_isa())]; }

bool cpu_has_bf16() { return has_bf16_products(); }

}  // namespace

Isa active_isa() {
  static const Isa isa = detect();
  return isa;
}

}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&sodeep_fast::cpu_capability));
  m.impl("cpu_has_bf16", TORCH_BOX(&sodeep_fast::cpu_has_bf16));
}
