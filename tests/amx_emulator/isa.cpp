// Replaces csrc/cpu/isa.cpp, and takes any processor for one with AMX.

#include "cpu/isa.h"

#include <torch/csrc/stable/library.h>

#include <string>

namespace sodeep_fast {
namespace {

std::string cpu_capability() { return "amx"; }

bool cpu_has_bf16() { return true; }

}  // namespace

Isa active_isa() { return Isa::kAmx; }

}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&sodeep_fast::cpu_capability));
  m.impl("cpu_has_bf16", TORCH_BOX(&sodeep_fast::cpu_has_bf16));
}

// The number of tile products so far, to show that they were used at all.
extern "C" int64_t amx_emulator_products() { return amx_emulator::products; }
