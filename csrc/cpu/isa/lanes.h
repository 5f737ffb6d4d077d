// Selects lanes of a register by number, with AVX2 and AVX-512. Included once for each instruction
// set that can, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Looks up numbers in a table that fills one register.
SODEEP_FAST_INLINE Vec<float> pick(const float* table, IntVec<float> index) {
#if SODEEP_FAST_VECTOR_BYTES == 64
  return (Vec<float>)_mm512_permutexvar_ps((__m512i)index, (__m512)load<float>(table));
#else
  return (Vec<float>)_mm256_permutevar8x32_ps((__m256)load<float>(table), (__m256i)index);
#endif
}

// Rounds towards zero; arbitrary where x is out of range.
SODEEP_FAST_INLINE IntVec<float> truncate(Vec<float> x) {
#if SODEEP_FAST_VECTOR_BYTES == 64
  return (IntVec<float>)_mm512_cvttps_epi32((__m512)x);
#else
  return (IntVec<float>)_mm256_cvttps_epi32((__m256)x);
#endif
}

// A bit for every lane, set where it equals x. No wider than a mask register: GCC 12 may spill a
// mask to half of a wider integer, and then read the whole integer.
SODEEP_FAST_INLINE uint16_t lanes_equal(IntVec<float> lanes, int32_t x) {
#if SODEEP_FAST_VECTOR_BYTES == 64
  return _mm512_cmpeq_epi32_mask((__m512i)lanes, _mm512_set1_epi32(x));
#else
  const auto equal = (__m256)_mm256_cmpeq_epi32((__m256i)lanes, _mm256_set1_epi32(x));
  return static_cast<uint16_t>(_mm256_movemask_ps(equal));
#endif
}

#if SODEEP_FAST_VECTOR_BYTES == 32
// For every set of lanes, given as bits, the numbers of these lanes, one per byte.
struct LanesOfBits {
  uint64_t bytes[256] = {};

  constexpr LanesOfBits() {
    for (int bits = 0; bits < 256; ++bits)
      for (int lane = 0, at = 0; lane < 8; ++lane)
        if (bits >> lane & 1) bytes[bits] |= static_cast<uint64_t>(lane) << (8 * at++);
  }
};
#endif

// Moves the lanes whose bits are set to the front, in order; the lanes after them are arbitrary.
SODEEP_FAST_INLINE Vec<float> compress(uint16_t bits, Vec<float> x) {
#if SODEEP_FAST_VECTOR_BYTES == 64
  return (Vec<float>)_mm512_maskz_compress_ps(bits, (__m512)x);
#else
  static constexpr LanesOfBits lanes;
  const __m128i bytes = _mm_loadl_epi64((const __m128i*)&lanes.bytes[bits]);
  return (Vec<float>)_mm256_permutevar8x32_ps((__m256)x, _mm256_cvtepu8_epi32(bytes));
#endif
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
