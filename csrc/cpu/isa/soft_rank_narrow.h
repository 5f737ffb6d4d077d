// The sums of a narrow row in linear time, by a few wide panels. Included once for each instruction
// set that can select lanes, hence no include guard.

#include "cpu/isa/wide_panel_sums.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// The panels of a row, which lies in the middle of them, where sums are the most accurate.
struct NarrowPanels {
  int64_t count;
  float lo, to_panel;
  alignas(64) float centre_hi[kMostWidePanels] = {};
  alignas(64) float centre_lo[kMostWidePanels] = {};

  NarrowPanels(float lo_, double lam, double range)
      : count(static_cast<int64_t>(range / kWideWidth) + 1),
        lo(static_cast<float>(lo_ - (count * kWideWidth - range) / (2 * lam))),
        to_panel(static_cast<float>(lam / kWideWidth)) {
    for (int64_t k = 0; k < count; ++k) {
      const auto centre = panel_centre<float>(lo, static_cast<double>(k), lam / kWideWidth);
      centre_hi[k] = centre.hi, centre_lo[k] = centre.lo;
    }
  }
};

// Neighbouring items of a row, in the row's order and by panel, few enough that all that is
// computed from them stays in a core's cache.
template <bool kWeighted>
struct NarrowBlock {
  static constexpr int64_t lanes = kLanes<float>, kMost = 2048;
  // Arrays must not lie whole pages apart: reading one would wait for writes to the others.
  static constexpr int64_t kRoom = kMost + 256,
                           kRoomByPanel = kMost + (kMostWidePanels + 1) * lanes;

  int64_t n, vectors;
  alignas(64) float t[kRoom];  // place in the panel, from -1 to 1
  alignas(64) float g[kWeighted ? kRoom : 1];
  alignas(64) int32_t panel[kRoom];  // -1 after the last item
  // Panel by panel, each in its own vectors, with zeros after its last item.
  alignas(64) float panel_t[kRoomByPanel];
  alignas(64) float panel_g[kWeighted ? kRoomByPanel : 1];
  int64_t count[kMostWidePanels];  // items by panel

  void place(const NarrowPanels& panels, const float* scores, const float* weight, float shift,
             int64_t items) {
    n = items, vectors = (n + lanes - 1) / lanes;
    const IntVec<float> first = {}, last = first + static_cast<int32_t>(panels.count - 1);
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t at = v * lanes, left = n - at;
      const Vec<float> score = load_first<float>(scores + at, left);
      IntVec<float> own = truncate((score - panels.lo) * panels.to_panel);
      own = own < last ? own : last;
      own = own > first ? own : first;
      const Vec<float> offset = (score - pick(panels.centre_hi, own)) - pick(panels.centre_lo, own);
      store<float>(t + at, offset * (2 * panels.to_panel));
      own |= ~first_lanes<float>(left);
      __builtin_memcpy(panel + at, &own, sizeof(own));
      if constexpr (kWeighted) store<float>(g + at, load_first<float>(weight + at, left) - shift);
    }
  }

  IntVec<float> panels_at(int64_t at) const {
    IntVec<float> own;
    __builtin_memcpy(&own, panel + at, sizeof(own));
    return own;
  }

  void gather(int64_t panels) {
    const int64_t end = vectors * lanes;
    float *next = panel_t, *next_g = panel_g;
    for (int64_t k = 0; k < panels; ++k) {
      const float* begin = next;
      for (int64_t at = 0; at < end; at += lanes) {
        const uint16_t own = lanes_equal(panels_at(at), static_cast<int32_t>(k));
        store<float>(next, compress(own, load<float>(t + at)));
        if constexpr (kWeighted) store<float>(next_g, compress(own, load<float>(g + at)));
        const int items = __builtin_popcount(own);
        next += items, next_g += items;
      }
      store<float>(next, Vec<float>{});
      if constexpr (kWeighted) store<float>(next_g, Vec<float>{});
      count[k] = next - begin;
      const int64_t padding = -count[k] & (lanes - 1);
      next += padding, next_g += padding;
    }
  }

  // The moments [panel, weight, k], of weights 1 and g.
  void find_moments(int64_t panels, float* moments) const {
    const float *from = panel_t, *from_g = panel_g;
    for (int64_t k = 0; k < panels; ++k) {
      const int64_t full = (count[k] + lanes - 1) / lanes;
      const auto padding = static_cast<float>(full * lanes - count[k]);
      store_wide_moments<false>(from, nullptr, full, padding, moments);
      moments += kWideOrder;
      if constexpr (kWeighted) {
        store_wide_moments<true>(from, from_g, full, 0, moments);
        moments += kWideOrder;
      }
      from += full * lanes, from_g += full * lanes;
    }
  }

  void evaluate(const float* coefficients, float* out) const {
    for (int64_t at = 0; at < vectors * lanes; at += lanes) {
      const IntVec<float> own_panel = panels_at(at);
      const Vec<float> own = load<float>(t + at), u = wide_u(own * own);
      Vec<float> value = evaluate_wide(coefficients, own_panel, own, u);
      if constexpr (kWeighted)
        value = evaluate_wide(coefficients + kWideOrder * kMostWidePanels, own_panel, own, u) -
                load<float>(g + at) * value;
      store_first<float>(out + at, value, n - at);
    }
  }
};

// Whether the panels are few enough, and their positions and widths within the range of float.
inline bool has_wide_panels(double range, double lam, float lo, float hi) {
  return range < kWideWidth * kMostWidePanels &&
         lam >= kWideWidth * std::numeric_limits<float>::min() &&
         2 * lam <= std::numeric_limits<float>::max() && std::isfinite(hi - lo) &&
         lo - kWideWidth / lam >= -std::numeric_limits<float>::max();
}

// Expected costs in ns for value and gradient on one core, fitted to timings of this and the direct
// method over n from 8 to 400 and ranges from 3 to 63 (Xeon with AVX-512, 2026-11).
struct NarrowCosts {
  double row, vector, panel, panel_vector;
  double direct_row, direct_vector, pair_once, pair_twice;
};
constexpr NarrowCosts kNarrowCosts = SODEEP_FAST_VECTOR_BYTES == 64
                                         ? NarrowCosts{145, 41, 104, 3.0, 201, 34, 0.098, 0.156}
                                         : NarrowCosts{71, 33, 150, 2.8, 114, 24, 0.164, 0.316};

// Where wide panels are possible, soft_rank_linear's take longer than these and than pairs, so only
// these two are compared.
inline bool narrow_is_faster(int64_t n, double range) {
  constexpr const NarrowCosts& cost = kNarrowCosts;
  const auto vectors = static_cast<double>((n + kLanes<float> - 1) / kLanes<float>);
  const double pairs = vectors * kLanes<float> * static_cast<double>(n);
  const double pair = n <= kTile ? cost.pair_once : cost.pair_twice;
  const double direct = cost.direct_row + cost.direct_vector * vectors + pair * pairs;
  const double panels = std::floor(range / kWideWidth) + 1;
  return cost.row + cost.vector * vectors + panels * (cost.panel + cost.panel_vector * vectors) <
         direct;
}

// out[i] = scale * the sum of SoftRankRow, all scores finite and between lo and hi.
template <int kDerivative>
void soft_rank_narrow(const float* scores, const float* const (&weights)[2], int64_t n, double lam,
                      float lo, float hi, double scale, SoftRankScratch<float>& scratch,
                      float* out) {
  constexpr bool kWeighted = kDerivative == 1;
  using Block = NarrowBlock<kWeighted>;
  using Sums = WidePanelSums<kDerivative, kWeighted ? 2 : 1>;
  const double range = lam * (static_cast<double>(hi) - static_cast<double>(lo));
  const NarrowPanels panels(lo, lam, range);
  const float* weight = weights[0];
  const float shift = kWeighted ? middle_of(weight, n) : 0;
  const int64_t blocks = (n + Block::kMost - 1) / Block::kMost;

  Block first;
  const auto place = [&](int64_t k, Block& block) {
    const int64_t at = k * Block::kMost;
    block.place(panels, scores + at, kWeighted ? weight + at : nullptr, shift,
                std::min(Block::kMost, n - at));
  };
  const auto visit_blocks = [&](auto&& work) {
    if (blocks == 1) return work(0, first);
    constexpr int64_t kGrain = std::max<int64_t>(1, kParallelItems / (4 * Block::kMost));
    torch::stable::parallel_for(0, blocks, kGrain, [&](int64_t begin, int64_t end) {
      Block block;
      for (int64_t k = begin; k < end; ++k) {
        place(k, block);
        work(k, block);
      }
    });
  };

  if (blocks == 1) place(0, first);
  const int64_t size = Sums::size(panels.count);
  float* moments = scratch.direct.reserve(blocks * size);
  visit_blocks([&](int64_t k, Block& block) {
    block.gather(panels.count);
    block.find_moments(panels.count, moments + k * size);
  });
  alignas(64) float coefficients[Sums::size(kMostWidePanels)];
  Sums(panels.count, moments, blocks).find(n, static_cast<float>(scale), coefficients);
  visit_blocks(
      [&](int64_t k, Block& block) { block.evaluate(coefficients, out + k * Block::kMost); });
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
