// How many labels every item shares with one query. Included once for each instruction set, hence
// no include guard.

#include "cpu/isa/simd.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// own [levels], labels [levels, items]; to [items] is a count.
inline void shared_labels_row(const int64_t* own, const int64_t* labels, int64_t levels,
                              int64_t items, uint8_t* to) {
  std::fill_n(to, items, uint8_t(0));
  for (int64_t level = 0; level < levels; ++level, labels += items) {
    const int64_t label = own[level];
    int64_t k = 0;
#if SODEEP_FAST_VECTOR_BYTES == 64  // the compiler would widen and narrow instead of using masks
    constexpr int kBytes = 64, kLabels = 8;
    const __m512i wanted = _mm512_set1_epi64(label), one = _mm512_set1_epi8(1);
    for (; k + kBytes <= items; k += kBytes) {
      uint64_t is_equal = 0;
      for (int part = 0; part < kBytes / kLabels; ++part) {
        const __m512i some = _mm512_loadu_si512(labels + k + part * kLabels);
        is_equal |= uint64_t(_mm512_cmpeq_epi64_mask(some, wanted)) << (part * kLabels);
      }
      const __m512i before = _mm512_loadu_si512(to + k);
      _mm512_storeu_si512(to + k, _mm512_mask_add_epi8(before, is_equal, before, one));
    }
#endif
    for (; k < items; ++k) to[k] += labels[k] == label;
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
