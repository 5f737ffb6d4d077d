// The sums over the items of a few wide panels; see cpu/wide_panels.h. The moments of a panel, or
// its coefficients, fill one register or two. Included once for each instruction set that can
// select lanes, hence no include guard.

#include "cpu/isa/lanes.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

constexpr int64_t kMostWidePanels = kLanes<float>;
constexpr int kWideParts = kWideOrder / kLanes<float>;  // registers

// The functions phi_k are t^a u^b, k = a + 4 b, with u = T_4(t), a Chebyshev polynomial.
SODEEP_FAST_INLINE Vec<float> wide_u(Vec<float> t2) { return 8 * t2 * t2 + (1 - 8 * t2); }

// A register of a panel's moments, the sums of w phi_k(t), from k = first on; w is 1 unless
// kWeighted.
template <bool kWeighted, int first>
__attribute__((noinline)) Vec<float> wide_moments(const float* t, const float* w, int64_t vectors) {
  constexpr int lanes = kLanes<float>;
  constexpr int64_t kTogether = 32;  // longer sums have too much rounding error
  Vec<float> total = {};
  for (int64_t begin = 0; begin < vectors; begin += kTogether) {
    Vec<float> sums[lanes], rows[lanes];
#pragma GCC unroll 16
    for (int k = 0; k < lanes; ++k) sums[k] = Vec<float>{};
    for (int64_t v = begin; v < std::min(begin + kTogether, vectors); ++v) {
      const Vec<float> t1 = load<float>(t + v * lanes), t2 = t1 * t1, u = wide_u(t2), u2 = u * u;
      const Vec<float> of_u[4] = {broadcast<float>(1), u, u2, u2 * u};
      Vec<float> of_t[4] = {broadcast<float>(1), t1, t2, t1 * t2};
      if constexpr (kWeighted) {
        of_t[0] = load<float>(w + v * lanes);
        for (int a = 1; a < 4; ++a) of_t[a] *= of_t[0];
      }
#pragma GCC unroll 16
      for (int k = 0; k < lanes; ++k) sums[k] += of_t[k % 4] * of_u[(first + k) / 4];
    }
    // Copied, as the compiler would otherwise keep the sums in memory throughout.
#pragma GCC unroll 16
    for (int k = 0; k < lanes; ++k) rows[k] = sums[k];
    total += transposed_sum<float>(rows);
  }
  return total;
}

// Stores all moments, minus those of `padding` places after the last item, with t = 0 and weight 1.
template <bool kWeighted>
void store_wide_moments(const float* t, const float* w, int64_t vectors, float padding, float* to) {
  const auto store_part = [&](auto first) {
    store<float>(to + first(), wide_moments<kWeighted, first()>(t, w, vectors));
  };
  store_part(std::integral_constant<int, 0>{});
  if constexpr (kWideParts == 2) store_part(std::integral_constant<int, kLanes<float>>{});
  for (int k = 0; k < kWideOrder; k += 4) to[k] -= padding;
}

// sum of c_k phi_k(t), for items of several panels: coefficients [k, panel].
SODEEP_FAST_INLINE Vec<float> evaluate_wide(const float* c, IntVec<float> panel, Vec<float> t,
                                            Vec<float> u) {
  const auto at = [&](int k) { return pick(c + k * kMostWidePanels, panel); };
  Vec<float> value = {};
#pragma GCC unroll 4
  for (int b = 3; b >= 0; --b) {
    const int k = 4 * b;
    value = value * u + (((at(k + 3) * t + at(k + 2)) * t + at(k + 1)) * t + at(k));
  }
  return value;
}

// Sums over the items of adjacent panels, as coefficients at each panel, for kWeights weights, of
// which the first is 1.
template <int kDerivative, int kWeights>
class WidePanelSums {
  static constexpr int p = kWideOrder, lanes = kLanes<float>;

 public:
  // The size of the moments [panel, weight, k], and of the coefficients.
  static constexpr int64_t size(int64_t panels) { return panels * kWeights * p; }

  // Adds up the moments of several parts of the items.
  WidePanelSums(int64_t panels, const float* moments, int64_t parts) : panels_(panels) {
    static const std::vector<float> table = make_wide_table<kDerivative>();
    table_ = table.data();
    const int64_t numbers = size(panels);
    for (int64_t at = 0; at < numbers; at += lanes) {
      Vec<float> total = load<float>(moments + at);
      if (parts > 1) {
        LongSum<float> sum;
        for (int64_t part = 0; part < parts; ++part)
          sum.add(load<float>(moments + part * numbers + at));
        total = sum.scaled(1, 0);
      }
      store<float>(moments_[0][0] + at, total);
      store<float>(mirrored_[0][0] + at, total * signs());
    }
  }

  // Writes scale times the coefficients [weight, k, panel] for a row of n items. The sums count an
  // item itself as one half; its rank needs one half more.
  void find(int64_t n, float scale, float* coefficients) {
    for (int64_t panel = 0; panel < panels_; ++panel) sum_others(panel);
    for (int w = 0; w < kWeights; ++w)
      for (int part = 0; part < kWideParts; ++part) {
        Vec<float> rows[lanes] = {};
        int64_t not_above = 0;
        for (int64_t panel = 0; panel < panels_; ++panel) {
          const auto of = [&](const Numbers& numbers) {
            return load<float>(numbers[panel][w] + part * lanes);
          };
          const Vec<float> above = of(above_) * signs();
          Vec<float> sum = of(below_) + sum_own(panel, w, part);
          if constexpr (kDerivative == 0) {
            // For items of the panels above: sigmoid(x) = 1 - sigmoid(-x), of which the table has
            // the latter.
            not_above += static_cast<int64_t>(moments_[panel][0][0]);
            sum -= above;
            if (part == 0) sum[0] += static_cast<float>(n - not_above) + 0.5f;
          } else {
            sum += above;
          }
          rows[panel] = sum * scale;
        }
        transpose<float>(rows);
        for (int k = 0; k < lanes; ++k)
          store<float>(coefficients + (w * p + part * lanes + k) * kMostWidePanels, rows[k]);
      }
  }

 private:
  using Numbers = float[kMostWidePanels][kWeights][p];

  // The signs of the functions at -t.
  static Vec<float> signs() {
    Vec<float> result;
    for (int k = 0; k < lanes; ++k) result[k] = k % 2 ? -1.0f : 1.0f;
    return result;
  }

  // Sums what the panels below add to a panel, and what those above add to its mirror image: both
  // use the same rows of the table.
  void sum_others(int64_t panel) {
    // Chains of additions, to hide their latency.
    constexpr int kChains = std::max(1, 4 / (kWeights * kWideParts));
    const int64_t mirror = panels_ - 1 - panel;
    Vec<float> below[kWeights][kWideParts][kChains] = {}, above[kWeights][kWideParts][kChains] = {};
    for (int64_t d = 1; d < kWideReach && d <= panel; ++d) {
      const float* rows = table_ + d * p * p;
      for (int first = 0; first < kWideTerms[d]; first += 4)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k)
#pragma GCC unroll 2
          for (int part = 0; part < kWideParts; ++part) {
            Vec<float> row = load<float>(rows + (first + k) * p + part * lanes);
            // Otherwise the compiler would load it once for each product.
            __asm__("" : "+v"(row));
#pragma GCC unroll 2
            for (int w = 0; w < kWeights; ++w) {
              below[w][part][k % kChains] += row * moments_[panel - d][w][first + k];
              above[w][part][k % kChains] += row * mirrored_[mirror + d][w][first + k];
            }
          }
    }
    for (int w = 0; w < kWeights; ++w)
      for (int part = 0; part < kWideParts; ++part) {
        for (int chain = 1; chain < kChains; ++chain) {
          below[w][part][0] += below[w][part][chain];
          above[w][part][0] += above[w][part][chain];
        }
        store<float>(below_[panel][w] + part * lanes, below[w][part][0]);
        store<float>(above_[mirror][w] + part * lanes, above[w][part][0]);
      }
  }

  Vec<float> sum_own(int64_t panel, int w, int part) const {
    Vec<float> sums[4] = {};
#pragma GCC unroll 16
    for (int k = 0; k < p; ++k)
      sums[k % 4] += load<float>(table_ + k * p + part * lanes) * moments_[panel][w][k];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

  int64_t panels_;
  const float* table_;
  alignas(64) Numbers moments_;
  alignas(64) Numbers mirrored_;  // moments at -t
  alignas(64) Numbers below_;     // what the panels below add to the coefficients
  alignas(64) Numbers above_;     // and those above, at -t
};

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
