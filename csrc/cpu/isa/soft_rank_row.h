// Computes one row from and to the caller's memory: mask, range, choice of method. Included once
// for each instruction set, hence no include guard.

#include "cpu/isa/soft_rank_direct.h"
#include "cpu/isa/soft_rank_linear.h"
#include "cpu/isa/soft_rank_steep.h"
#if SODEEP_FAST_VECTOR_BYTES >= 32
#include "cpu/isa/soft_rank_narrow.h"
#endif

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// out[i] = scale * the sum of SoftRankRow, all scores finite and between lo and hi.
template <class T, int kDerivative>
void soft_rank_finite(const T* scores, const T* const (&weights)[2], int64_t n, double lam, T lo,
                      T hi, Method method, double scale, SoftRankScratch<T>& scratch, T* out) {
  const double range = lam * (static_cast<double>(hi) - static_cast<double>(lo));
#if SODEEP_FAST_VECTOR_BYTES >= 32
  if constexpr (sizeof(T) == 4 && kDerivative < 2)
    if (method != Method::kDirect && has_wide_panels(range, lam, lo, hi) &&
        (method == Method::kLinear || narrow_is_faster(n, range)))
      return soft_rank_narrow<kDerivative>(scores, weights, n, lam, lo, hi, scale, scratch, out);
#endif
  if (method != Method::kDirect && steep_may_be_fastest(scores, n, lo, lam, range, method) &&
      soft_rank_steep<T, kDerivative>(scores, weights, n, lam, range, method, scale, scratch, out))
    return;
  // T must hold the width of panels and positions in them.
  const double largest = std::numeric_limits<T>::max();
  const bool has_panels = 1 / lam <= largest && 2 * lam <= largest;
  const bool is_linear =
      has_panels && (method == Method::kLinear ||
                     (method == Method::kAuto && linear_is_faster(scores, n, lo, lam, range)));
  const auto sums = is_linear ? soft_rank_linear<T, kDerivative> : soft_rank_direct<T, kDerivative>;
  sums(scores, weights, n, lam, lo, hi, scale, scratch, out);
}

template <class T, int kDerivative>
void soft_rank_row(const SoftRankRow<T>& row, SoftRankScratch<T>& scratch) {
  const T* scores = row.scores;
  const T* weights[2] = {row.weights[0], row.weights[1]};
  T* out = row.out;
  int64_t n = row.n;
  const uint32_t* valid = nullptr;

  if (row.mask != nullptr) {
    uint32_t* kept = scratch.valid.reserve(n);
    const int64_t count = find_valid(row.mask, n, kept);
    std::fill(row.out, row.out + n, T(0));
    T* compact = scratch.compact.reserve((2 + kDerivative) * count);
    for (int64_t i = 0; i < count; ++i) compact[i] = row.scores[kept[i]];
    for (int k = 0; k < kDerivative; ++k) {
      weights[k] = compact + (1 + k) * count;
      for (int64_t i = 0; i < count; ++i) compact[(1 + k) * count + i] = row.weights[k][kept[i]];
    }
    scores = compact;
    out = compact + (1 + kDerivative) * count;
    valid = kept;
    n = count;
  }
  if (n == 0) return;

  T lo, hi;
  if (!find_range(scores, n, lo, hi)) {
    std::fill(out, out + n, std::numeric_limits<T>::quiet_NaN());
  } else {
    double scale = row.normalize ? 1.0 / static_cast<double>(n) : 1.0;
    for (int k = 0; k < kDerivative; ++k) scale *= row.lam;
    soft_rank_finite<T, kDerivative>(scores, weights, n, row.lam, lo, hi, row.method, scale,
                                     scratch, out);
  }
  for (int64_t i = 0; valid != nullptr && i < n; ++i) row.out[valid[i]] = out[i];
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
