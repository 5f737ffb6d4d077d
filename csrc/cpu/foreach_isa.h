// Compiles the header of cpu/isa/ named by SODEEP_FAST_KERNELS once for each instruction set, in
// the namespaces sodeep_fast::{baseline, avx2, avx512}. No header of that folder includes a
// standard library header, and other headers are included before this one: an inline function first
// compiled for a newer instruction set could be shared with code for older processors.
//
// Inside, SODEEP_FAST_VECTOR_BYTES is the width of a vector register. With SODEEP_FAST_WITH_BF16,
// it is also compiled as avx512_bf16, for processors that multiply pairs of bfloat16, with
// SODEEP_FAST_BF16_PAIRS defined, and as amx and amx_float32, for those that multiply tiles of
// them, with SODEEP_FAST_BF16_TILES defined too. SODEEP_FAST_BF16_PIECES says how many bfloat16
// stand for a number: one, or in amx_float32 three, whose sum has all the digits of float.

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/isa.h"

#define SODEEP_FAST_VECTOR_BYTES 16
#define SODEEP_FAST_ISA baseline
#include SODEEP_FAST_KERNELS
#undef SODEEP_FAST_ISA
#undef SODEEP_FAST_VECTOR_BYTES

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define SODEEP_FAST_VECTOR_BYTES 32
#define SODEEP_FAST_ISA avx2
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include SODEEP_FAST_KERNELS
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef SODEEP_FAST_ISA
#undef SODEEP_FAST_VECTOR_BYTES

#define SODEEP_FAST_VECTOR_BYTES 64
#define SODEEP_FAST_ISA avx512
#ifdef __clang__
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")
#endif
#include SODEEP_FAST_KERNELS
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef SODEEP_FAST_ISA

#ifdef SODEEP_FAST_WITH_BF16
#define SODEEP_FAST_BF16_PAIRS
#define SODEEP_FAST_BF16_PIECES 1
#define SODEEP_FAST_ISA avx512_bf16
#ifdef __clang__
#pragma clang attribute push(                                                          \
    __attribute__((target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl,avx512bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,prefer-vector-width=512")
#endif
#include SODEEP_FAST_KERNELS
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef SODEEP_FAST_ISA

#define SODEEP_FAST_BF16_TILES
#define SODEEP_FAST_ISA amx
#ifdef __clang__
#pragma clang attribute push(                                                                 \
    __attribute__((                                                                           \
        target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,amx-tile,amx-bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,amx-tile,amx-bf16")
#pragma GCC target("prefer-vector-width=512")
#endif
#include SODEEP_FAST_KERNELS
#undef SODEEP_FAST_ISA
#undef SODEEP_FAST_BF16_PIECES
#define SODEEP_FAST_BF16_PIECES 3
#define SODEEP_FAST_ISA amx_float32
#include SODEEP_FAST_KERNELS
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef SODEEP_FAST_ISA
#undef SODEEP_FAST_BF16_TILES
#undef SODEEP_FAST_BF16_PIECES
#undef SODEEP_FAST_BF16_PAIRS
#endif
#undef SODEEP_FAST_VECTOR_BYTES

#else

namespace sodeep_fast {
namespace avx2 = baseline;
namespace avx512 = baseline;
namespace avx512_bf16 = baseline;
namespace amx = baseline;
namespace amx_float32 = baseline;
}  // namespace sodeep_fast

#endif
