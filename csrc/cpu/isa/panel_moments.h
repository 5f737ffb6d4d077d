// The power moments of a panel's items, and the value of a panel's power series at a position; see
// math/sigmoid_panels.h. Included once for each instruction set, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Adds the power moments of a piece: the sums of w t^b, b < p; w is 1 if `weight` is null. As
// t^(4q + r) = t^4q * t^r, most powers cost one multiply-add.
template <class T>
void add_moments(const T* scores, const T* weight, int64_t count, PanelCentre<T> centre, T scale,
                 double* moments) {
  constexpr int p = kPanelOrder<T>, lanes = kLanes<T>;
  constexpr int64_t kBlock = 32 * lanes;  // longer sums in T have too much rounding error
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, count);
    Vec<T> sums[p] = {};
    for (int64_t i = begin; i < end; i += lanes) {
      const Vec<T> score = load_first<T>(scores + i, end - i);
      Vec<T> t = ((score - centre.hi) - centre.lo) * scale;
      Vec<T> w = weight ? load_first<T>(weight + i, end - i) : broadcast<T>(1);
      if (i + lanes > end) {
        const IntVec<T> first = first_lanes<T>(end - i);
        t = first ? t : Vec<T>{};
        w = first ? w : Vec<T>{};
      }
      const Vec<T> t2 = t * t, t4 = t2 * t2;
      const Vec<T> low[4] = {w, w * t, w * t2, w * t2 * t};
      Vec<T> high = broadcast<T>(1);
#pragma GCC unroll 16
      for (int b = 0; b < p; ++b) {
        if (b > 0 && b % 4 == 0) high = high * t4;
        sums[b] += b < 4 ? low[b] : low[b % 4] * high;
      }
    }
#pragma GCC unroll 16
    for (int b = 0; b < p; b += lanes) {
      Vec<T> rows[lanes];
#pragma GCC unroll 16
      for (int k = 0; k < lanes; ++k) rows[k] = b + k < p ? sums[b + k] : Vec<T>{};
      const Vec<T> total = transposed_sum<T>(rows);
#pragma GCC unroll 16
      for (int k = 0; k < std::min(lanes, p - b); ++k) moments[b + k] += total[k];
    }
  }
}

// sum of a_k t^k over k < p.
template <class T>
inline Vec<T> evaluate_powers(const T (&a)[kPanelOrder<T>], Vec<T> t) {
  Vec<T> value = broadcast<T>(a[kPanelOrder<T> - 1]);
  for (int k = kPanelOrder<T> - 2; k >= 0; --k) value = value * t + a[k];
  return value;
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
