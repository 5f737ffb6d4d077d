// The sums of a row in linear time, by the panels and power moments of math/sigmoid_panels.h.
// Included once for each instruction set, hence no include guard.

#include "cpu/panel_moments.h"
#include "cpu/panel_order.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

constexpr int64_t kPieceItems = 4096;  // sums in T no longer than this, then added to a double

// A piece of a panel: what one task works on.
struct Piece {
  int64_t panel, begin, end;
};

// The weights of a piece's items, in its order: g, v and g v, as many as the derivative takes.
template <class T, int kDerivative>
struct PieceWeights {
  static constexpr int kWeights = 1 << kDerivative;  // {1}, {1, g}, {1, g, v, g v}
  T columns[kDerivative == 0 ? 1 : kWeights - 1][kPieceItems];

  void gather(const uint32_t* origin, int64_t count, const T* const (&weights)[2],
              const T (&shift)[2]) {
    for (int k = 0; k < kDerivative; ++k)
      for (int64_t i = 0; i < count; ++i) columns[k][i] = weights[k][origin[i]] - shift[k];
    if constexpr (kDerivative == 2)
      for (int64_t i = 0; i < count; ++i) columns[2][i] = columns[0][i] * columns[1][i];
  }
};

template <class T, int kDerivative>
void soft_rank_linear(const T* scores, const T* const (&weights)[2], int64_t n, double lam, T lo,
                      T hi, double scale, SoftRankScratch<T>& scratch, T* out) {
  constexpr int p = kPanelOrder<T>, lanes = kLanes<T>;
  using Weights = PieceWeights<T, kDerivative>;
  constexpr int kWeights = Weights::kWeights;
  static const std::vector<double> table = make_panel_table<T, kDerivative>();

  const double range = lam * (static_cast<double>(hi) - static_cast<double>(lo));
  OrderedRow<T> row = reserve_order<T>(n, range, scratch.order);
  order_by_panel(scores, n, lam, lo, range, scratch.order, row);

  std::vector<Piece> pieces;
  for (int64_t panel = 0; panel < row.panel_count; ++panel)
    for (int64_t at = row.panels[panel].begin; at < row.panels[panel].end; at += kPieceItems)
      pieces.push_back({panel, at, std::min(at + kPieceItems, row.panels[panel].end)});
  const auto piece_count = static_cast<int64_t>(pieces.size());
  // Pieces of about a quarter of what is worth a thread; their lengths vary with the scores.
  const int64_t grain = n < kParallelItems
                            ? piece_count
                            : std::max<int64_t>(1, piece_count * kParallelItems / (4 * n));
  const T to_t = static_cast<T>(2 * lam);

  // Shifting g or v by a constant changes nothing but the rounding: the sums take differences.
  T shift[2] = {};
  for (int k = 0; k < kDerivative; ++k) {
    T smallest, largest;
    const bool finite = find_range(weights[k], n, smallest, largest);
    shift[k] = finite ? smallest / 2 + largest / 2 : std::numeric_limits<T>::quiet_NaN();
  }

  constexpr int64_t moment_size = kWeights * p;
  double* piece_moments = scratch.moments.reserve((piece_count + row.panel_count) * moment_size);
  double* moments = piece_moments + piece_count * moment_size;
  torch::stable::parallel_for(0, piece_count, grain, [&](int64_t begin, int64_t end) {
    Weights own_weights;
    for (int64_t at = begin; at < end; ++at) {
      const Piece& piece = pieces[at];
      const Panel& panel = row.panels[piece.panel];
      const int64_t count = piece.end - piece.begin;
      const auto centre = panel_centre<T>(panel.anchor, panel.index, lam);
      double* own = piece_moments + at * moment_size;
      std::fill(own, own + moment_size, 0.0);
      own_weights.gather(row.origin + piece.begin, count, weights, shift);
      for (int w = 0; w < kWeights; ++w)
        add_moments<T>(row.scores + piece.begin, w ? own_weights.columns[w - 1] : nullptr, count,
                       centre, to_t, own + w * p);
    }
  });
  for (int64_t at = 0; at < piece_count;) {
    const int64_t panel = pieces[at].panel;
    long double sums[moment_size] = {};
    for (; at < piece_count && pieces[at].panel == panel; ++at)
      for (int64_t k = 0; k < moment_size; ++k) sums[k] += piece_moments[at * moment_size + k];
    for (int64_t k = 0; k < moment_size; ++k)
      moments[panel * moment_size + k] = static_cast<double>(sums[k]);
  }

  torch::stable::parallel_for(0, piece_count, grain, [&](int64_t begin, int64_t end) {
    double wide[kWeights][p];
    T narrow[kWeights][p] = {};
    Weights own_weights;
    int64_t prepared = -1;
    PanelWindow window{};
    for (int64_t at = begin; at < end; ++at) {
      const Piece& piece = pieces[at];
      const Panel& panel = row.panels[piece.panel];
      const auto centre = panel_centre<T>(panel.anchor, panel.index, lam);
      if (piece.panel != prepared) {
        advance<T>(window, row.panels, row.panel_count, panel.place);
        gather_coefficients<T, kWeights>(table.data(), moments, row.panels, window, panel.place,
                                         wide);
        // Items of the panels above count in full; the item itself counted one half.
        if constexpr (kDerivative == 0) wide[0][0] += static_cast<double>(n - panel.end) + 0.5;
        for (int w = 0; w < kWeights; ++w)
          for (int a = 0; a < p; ++a) narrow[w][a] = static_cast<T>(scale * wide[w][a]);
        prepared = piece.panel;
      }
      const int64_t count = piece.end - piece.begin;
      own_weights.gather(row.origin + piece.begin, count, weights, shift);
      for (int64_t i = 0; i < count; i += lanes) {
        const auto first = [&](const T* from) { return load_first<T>(from + i, count - i); };
        const Vec<T> score = first(row.scores + piece.begin);
        const Vec<T> t = ((score - centre.hi) - centre.lo) * to_t;
        Vec<T> sums[kWeights], value;
        for (int w = 0; w < kWeights; ++w) sums[w] = evaluate_powers<T>(narrow[w], t);
        if constexpr (kDerivative == 0) {
          value = sums[0];
        } else if constexpr (kDerivative == 1) {
          value = sums[1] - first(own_weights.columns[0]) * sums[0];
        } else {
          const auto& column = own_weights.columns;
          value = sums[3] - first(column[0]) * sums[2] - first(column[1]) * sums[1] +
                  first(column[2]) * sums[0];
        }
        T lane[lanes];
        store<T>(lane, value);
        const int64_t stored = std::min<int64_t>(lanes, count - i);
        for (int64_t k = 0; k < stored; ++k) out[row.origin[piece.begin + i + k]] = lane[k];
      }
    }
  });
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
