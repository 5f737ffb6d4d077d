// Computes one row from and to the caller's memory: mask, range, choice of method. Included once
// for each instruction set, hence no include guard.

#include "cpu/isa/soft_rank_direct.h"
#include "cpu/isa/soft_rank_linear.h"
#if SODEEP_FAST_VECTOR_BYTES >= 32
#include "cpu/isa/soft_rank_narrow.h"
#endif

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// The number of panels that have items, or somewhat less: panels are told apart by some of their
// numbers' bits.
template <class T>
int64_t occupied_panels(const T* scores, int64_t n, T lo, double lam) {
  constexpr int64_t kNumbers = 1 << 14, kWord = 64;
  uint64_t seen[kNumbers / kWord] = {};
  for (int64_t i = 0; i < n; ++i) {
    const double position = (static_cast<double>(scores[i]) - static_cast<double>(lo)) * lam;
    const int64_t number = static_cast<int64_t>(std::min(position, 1e18)) % kNumbers;
    seen[number / kWord] |= uint64_t{1} << (number % kWord);
  }
  int64_t count = 0;
  for (const uint64_t word : seen) count += __builtin_popcountll(word);
  return count;
}

// Expected costs in ns for value and gradient on one AVX-512 core, fitted to timings of both
// methods over n from 32 to 2048 and ranges from 1 to 3000 (Granite Rapids, 2026-11). In double a
// panel costs more for every occupied panel near it; pairs gain most from wider vectors.
template <class T>
bool linear_is_faster(const T* scores, int64_t n, T lo, double lam, double range) {
  constexpr bool single = sizeof(T) == 4;
  const double items = static_cast<double>(n);
  double pair = single ? 0.63 : 2.1;
  if (range <= FactoredPairs<T, 1>::kMaxRange)
    pair = n <= kTile ? (single ? 0.08 : 0.24) : (single ? 0.145 : 0.33);
  const double width = 64.0 / SODEEP_FAST_VECTOR_BYTES;
  const double direct = 800 + (single ? 8 : 25) * items + width * pair * items * items;
  // `filled` is the share of the range in which panels are occupied.
  const auto linear = [&](int64_t occupied, double filled) {
    const auto panels = static_cast<double>(occupied);
    const double neighbours = std::min(panels, 2.0 * kPanelNear - 1) * filled;
    return single ? 650 + 10.6 * items + panels * 250
                  : 650 + 12.5 * items + panels * (780 + 47 * neighbours);
  };
  const int64_t limit = panel_limit(range, n);
  if (linear(limit, static_cast<double>(limit) / (range + 1)) < direct) return true;
  // Ties, clusters and outliers leave most panels empty. Counting pays if that may matter.
  return linear(1, 1) < direct && linear(occupied_panels(scores, n, lo, lam), 1) < direct;
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
    const double range = row.lam * (static_cast<double>(hi) - static_cast<double>(lo));
    // T must hold the width of panels and positions in them.
    const double largest = std::numeric_limits<T>::max();
    const bool has_panels = 1 / row.lam <= largest && 2 * row.lam <= largest;
    auto method = soft_rank_direct<T, kDerivative>;
    bool is_narrow = false;
#if SODEEP_FAST_VECTOR_BYTES >= 32
    if constexpr (sizeof(T) == 4 && kDerivative < 2)
      if (row.method != Method::kDirect && has_wide_panels(range, row.lam, lo, hi) &&
          (row.method == Method::kLinear || narrow_is_faster(n, range))) {
        method = soft_rank_narrow<kDerivative>;
        is_narrow = true;
      }
#endif
    if (!is_narrow && has_panels &&
        (row.method == Method::kLinear ||
         (row.method == Method::kAuto && linear_is_faster(scores, n, lo, row.lam, range))))
      method = soft_rank_linear<T, kDerivative>;
    method(scores, weights, n, row.lam, lo, hi, scale, scratch, out);
  }
  for (int64_t i = 0; valid != nullptr && i < n; ++i) row.out[valid[i]] = out[i];
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
