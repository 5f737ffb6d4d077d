// The sums of a row in linear time, by the panels and power moments of math/sigmoid_panels.h.
// Included once for each instruction set, hence no include guard.

#include "cpu/isa/panel_blocks.h"
#include "cpu/isa/panel_sums.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

constexpr int64_t kPartItems = 4096;  // gathered at a time

// Cuts the panels of an ordered row into pieces, in the row's order.
template <class T>
void cut_pieces(const OrderedRow<T>& row, std::vector<Piece>& pieces) {
  for (int64_t panel = 0; panel < row.panel_count; ++panel)
    for (int64_t at = row.panels[panel].begin; at < row.panels[panel].end; at += kPartItems)
      pieces.push_back({panel, at, std::min(at + kPartItems, row.panels[panel].end)});
}

// The weights of a part of a piece, in its order: g, v and g v, as many as the derivative needs.
template <class T, int kDerivative>
struct PartWeights {
  static constexpr int kWeights = 1 << kDerivative;  // {1}, {1, g}, {1, g, v, g v}
  T columns[kDerivative == 0 ? 1 : kWeights - 1][kPartItems];

  void gather(const uint32_t* origin, int64_t count, const T* const (&weights)[2],
              const T (&shift)[2]) {
    for (int k = 0; k < kDerivative; ++k)
      for (int64_t i = 0; i < count; ++i) columns[k][i] = weights[k][origin[i]] - shift[k];
    if constexpr (kDerivative == 2)
      for (int64_t i = 0; i < count; ++i) columns[2][i] = columns[0][i] * columns[1][i];
  }
};

// Calls use(from, count) for parts of a piece that fit PartWeights.
template <class F>
void for_each_part(const Piece& piece, F&& use) {
  for (int64_t from = piece.begin; from < piece.end; from += kPartItems)
    use(from, std::min(kPartItems, piece.end - from));
}

// Evaluates a part by its panel's power coefficients, and writes each value to its item's place in
// the row.
template <class T, int kDerivative>
void evaluate(const T* scores, const uint32_t* origin, const PartWeights<T, kDerivative>& weights,
              int64_t count, PanelCentre<T> centre, T to_t,
              const T (&coefficients)[1 << kDerivative][kPanelOrder<T>], T* out) {
  constexpr int lanes = kLanes<T>;
  for (int64_t i = 0; i < count; i += lanes) {
    const auto first = [&](const T* from) { return load_first<T>(from + i, count - i); };
    const Vec<T> t = ((first(scores) - centre.hi) - centre.lo) * to_t;
    const auto& column = weights.columns;
    const auto sum = [&](int w) { return evaluate_powers<T>(coefficients[w], t); };
    Vec<T> value;
    if constexpr (kDerivative == 0)
      value = sum(0);
    else if constexpr (kDerivative == 1)
      value = sum(1) - first(column[0]) * sum(0);
    else
      value = sum(3) - first(column[0]) * sum(2) - first(column[1]) * sum(1) +
              first(column[2]) * sum(0);
    T lane[lanes];
    store<T>(lane, value);
    const int64_t stored = std::min<int64_t>(lanes, count - i);
    for (int64_t k = 0; k < stored; ++k) out[origin[i + k]] = lane[k];
  }
}

template <class T, int kDerivative>
void soft_rank_linear(const T* scores, const T* const (&weights)[2], int64_t n, double lam, T lo,
                      T hi, double scale, SoftRankScratch<T>& scratch, T* out) {
  constexpr int p = kPanelOrder<T>;
  using Weights = PartWeights<T, kDerivative>;
  constexpr int kWeights = Weights::kWeights;

  const double range = lam * (static_cast<double>(hi) - static_cast<double>(lo));
  OrderedRow<T> row = reserve_order<T>(n, range, scratch.order);
  std::vector<Piece> pieces;
  const int64_t block = block_items<T>(n, range);
  const bool in_blocks = block > 0;
  if (in_blocks) {
    order_in_blocks(scores, n, lam, static_cast<double>(lo), static_cast<int64_t>(range) + 1, block,
                    scratch.order, row, pieces);
  } else {
    order_by_panel(scores, n, lam, lo, range, scratch.order, row);
    cut_pieces(row, pieces);
  }
  const auto piece_count = static_cast<int64_t>(pieces.size());
  // A task has about a quarter of the items that are worth a thread, as the lengths of pieces vary.
  const int64_t grain = n < kParallelItems
                            ? piece_count
                            : std::max<int64_t>(1, piece_count * kParallelItems / (4 * n));
  const T to_t = static_cast<T>(2 * lam);

  // Shifting g or v by a constant changes nothing but the rounding: the sums take differences.
  T shift[2] = {};
  for (int k = 0; k < kDerivative; ++k) shift[k] = middle_of(weights[k], n);

  constexpr int64_t moment_size = kWeights * p;
  using Sums = PanelSums<T, kWeights>;
  double* piece_moments = scratch.moments.reserve((piece_count + row.panel_count) * moment_size +
                                                  Sums::far_size(row.panel_count));
  double* moments = piece_moments + piece_count * moment_size;
  torch::stable::parallel_for(0, piece_count, grain, [&](int64_t begin, int64_t end) {
    Weights own_weights;
    for (int64_t at = begin; at < end; ++at) {
      const Piece& piece = pieces[at];
      const Panel& panel = row.panels[piece.panel];
      const auto centre = panel_centre<T>(panel.anchor, panel.index, lam);
      double* own = piece_moments + at * moment_size;
      std::fill(own, own + moment_size, 0.0);
      for_each_part(piece, [&](int64_t from, int64_t count) {
        own_weights.gather(row.origin + from, count, weights, shift);
        for (int w = 0; w < kWeights; ++w)
          add_moments<T>(row.scores + from, w ? own_weights.columns[w - 1] : nullptr, count, centre,
                         to_t, own + w * p);
      });
    }
  });
  const int64_t to_next = in_blocks ? row.panel_count : 1;  // from a panel's piece to its next one
  for (int64_t panel = 0, first = 0; panel < row.panel_count; ++panel) {
    long double sums[moment_size] = {};
    int64_t at = first;
    for (; at < piece_count && pieces[at].panel == panel; at += to_next)
      for (int64_t k = 0; k < moment_size; ++k) sums[k] += piece_moments[at * moment_size + k];
    for (int64_t k = 0; k < moment_size; ++k)
      moments[panel * moment_size + k] = static_cast<double>(sums[k]);
    first = in_blocks ? first + 1 : at;
  }

  constexpr int64_t kFarPanels = 4096;  // of one task
  Sums sums(row.panels, row.panel_count, moments, row.panels,
            moments + row.panel_count * moment_size);
  torch::stable::parallel_for(
      0, (row.panel_count + kFarPanels - 1) / kFarPanels, 1, [&](int64_t begin, int64_t end) {
        for (int64_t part = begin; part < end; ++part)
          sums.find_far(part * kFarPanels, std::min((part + 1) * kFarPanels, row.panel_count));
      });

  using Coefficients = T[kWeights][p];
  const PanelTables tables[1] = {panel_tables<T, kDerivative>()};
  const auto find_coefficients = [&](int64_t index, PanelWindow& window, Coefficients& narrow) {
    const Panel& panel = row.panels[index];
    double wide[1][kWeights][p];
    sums.gather(index, tables, window, wide);
    // Items of the panels above count in full; the item itself has counted only one half.
    if constexpr (kDerivative == 0) wide[0][0][0] += static_cast<double>(n - panel.end) + 0.5;
    for (int w = 0; w < kWeights; ++w)
      for (int a = 0; a < p; ++a) narrow[w][a] = static_cast<T>(scale * wide[0][w][a]);
  };
  // Every block has pieces of every panel, so all coefficients are computed first.
  std::vector<T> ready(in_blocks ? row.panel_count * moment_size : 0);
  const auto ready_at = [&](int64_t panel) -> Coefficients& {
    return *reinterpret_cast<Coefficients*>(ready.data() + panel * moment_size);
  };
  PanelWindow first_window{};
  for (int64_t panel = 0; in_blocks && panel < row.panel_count; ++panel)
    find_coefficients(panel, first_window, ready_at(panel));

  torch::stable::parallel_for(0, piece_count, grain, [&](int64_t begin, int64_t end) {
    Coefficients own = {};
    Weights own_weights;
    int64_t prepared = -1;
    PanelWindow window{};
    for (int64_t at = begin; at < end; ++at) {
      const Piece& piece = pieces[at];
      const Panel& panel = row.panels[piece.panel];
      const auto centre = panel_centre<T>(panel.anchor, panel.index, lam);
      if (!in_blocks && piece.panel != prepared) {
        find_coefficients(piece.panel, window, own);
        prepared = piece.panel;
      }
      const Coefficients& narrow = in_blocks ? ready_at(piece.panel) : own;
      for_each_part(piece, [&](int64_t from, int64_t count) {
        own_weights.gather(row.origin + from, count, weights, shift);
        evaluate(row.scores + from, row.origin + from, own_weights, count, centre, to_t, narrow,
                 out);
      });
    }
  });
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
