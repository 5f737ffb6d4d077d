// The sums of a row in linear time, by the panels and power moments of math/sigmoid_panels.h.
// Included once for each instruction set, hence no include guard.
//
// Items are first put in the order of their panels: a counting sort where the row has few panels, a
// radix sort where outliers or a tiny temperature would make most of them empty. From there on only
// occupied panels exist, and a panel's items are contiguous.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

constexpr int64_t kPieceItems = 4096;      // sums in T no longer than this, then added to a double
constexpr int64_t kIndexBlock = 1024;      // panel indices at a time, in cache
constexpr int64_t kParallelItems = 16384;  // shorter rows are not worth a second thread

struct Panel {
  double anchor, index;  // centre = anchor + (index + 1/2) / lam
  int64_t place;         // position along the row in panels; far apart where saturated
  int64_t begin, end;    // its items
};

// A piece of a panel: what one task works on.
struct Piece {
  int64_t panel, begin, end;
};

template <class T>
struct OrderedRow {
  T* scores;         // [n] by panel
  uint32_t* origin;  // [n] where each stood
  Panel* panels;     // [panel_count] by place
  int64_t panel_count;
};

inline void panel_indices(const float* scores, int64_t count, double lo, double lam, uint32_t last,
                          uint32_t* index) {
  for (int64_t i = 0; i < count; ++i) {
    const auto panel = static_cast<int32_t>((static_cast<double>(scores[i]) - lo) * lam);
    index[i] = std::min(static_cast<uint32_t>(panel), last);
  }
}

inline void panel_indices(const double* scores, int64_t count, double lo, double lam, uint32_t last,
                          uint32_t* index) {
  for (int64_t i = 0; i < count; ++i) {
    const auto panel = static_cast<int32_t>((scores[i] - lo) * lam);
    index[i] = std::min(static_cast<uint32_t>(panel), last);
  }
}

// Counting sort by panel; stable, so the result does not depend on the number of chunks.
template <class T>
void order_by_counting(const T* scores, int64_t n, double lam, double lo, int64_t panels,
                       SoftRankScratch<T>& scratch, OrderedRow<T>& row) {
  const int64_t chunks = n < kParallelItems ? 1 : torch::stable::get_num_threads();
  const int64_t chunk_size = (n + chunks - 1) / chunks;
  uint32_t* counts = scratch.counts.reserve(chunks * panels);
  const uint32_t last = static_cast<uint32_t>(panels - 1);

  const auto visit = [&](int64_t chunk, auto&& use) {
    uint32_t index[kIndexBlock];
    const int64_t end = std::min(n, (chunk + 1) * chunk_size);
    for (int64_t at = chunk * chunk_size; at < end; at += kIndexBlock) {
      const int64_t count = std::min(kIndexBlock, end - at);
      panel_indices(scores + at, count, lo, lam, last, index);
      for (int64_t i = 0; i < count; ++i) use(at + i, index[i]);
    }
  };

  torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      uint32_t* own = counts + chunk * panels;
      std::fill(own, own + panels, 0u);
      visit(chunk, [&](int64_t, uint32_t panel) { ++own[panel]; });
    }
  });

  uint32_t position = 0;
  row.panel_count = 0;
  for (int64_t panel = 0; panel < panels; ++panel) {
    const uint32_t begin = position;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      uint32_t& count = counts[chunk * panels + panel];
      const uint32_t next = position + count;
      count = position;
      position = next;
    }
    if (position > begin)
      row.panels[row.panel_count++] = {lo, static_cast<double>(panel), panel, begin, position};
  }

  torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      uint32_t* own = counts + chunk * panels;
      visit(chunk, [&](int64_t i, uint32_t panel) {
        const uint32_t to = own[panel]++;
        row.scores[to] = scores[i];
        row.origin[to] = static_cast<uint32_t>(i);
      });
    }
  });
}

// Sorts by score and cuts the row into segments wherever neighbours are saturated; each segment has
// its own anchor, so an outlier costs the others no precision.
template <class T>
void order_by_sorting(const T* scores, int64_t n, double lam, SoftRankScratch<T>& scratch,
                      OrderedRow<T>& row) {
  radix_order(scores, n, scratch.keys, row.origin);
  for (int64_t i = 0; i < n; ++i) row.scores[i] = scores[row.origin[i]];

  constexpr int reach = kPanelReach<T>;
  row.panel_count = 0;
  double anchor = static_cast<double>(row.scores[0]), previous = anchor, index = -1;
  int64_t place = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double score = static_cast<double>(row.scores[i]);
    const bool saturated = (score - previous) * lam > reach;
    if (saturated) anchor = score;
    const double own_index = std::floor((score - anchor) * lam);
    if (saturated || own_index != index) {
      if (row.panel_count > 0) {
        place +=
            saturated ? reach : std::min<int64_t>(reach, static_cast<int64_t>(own_index - index));
        row.panels[row.panel_count - 1].end = i;
      }
      row.panels[row.panel_count++] = {anchor, own_index, place, i, n};
      index = own_index;
    }
    previous = score;
  }
}

// How many occupied panels a row can have at most.
inline int64_t panel_limit(double range, int64_t n) {
  return range < static_cast<double>(n) ? std::min<int64_t>(n, static_cast<int64_t>(range) + 1) : n;
}

// Adds the power moments of weight w over a piece: sum of w t^b, b < p. w is 1 where it is null.
// Powers come four at a time, t^(4q + r) = t^4q * t^r, so most cost one multiply-add.
template <class T>
void add_moments(const T* scores, const T* weight, int64_t count, PanelCentre<T> centre, T scale,
                 double* moments) {
  constexpr int p = kPanelOrder<T>, lanes = kLanes<T>;
  Vec<T> sums[p] = {};
  const auto accumulate = [&](Vec<T> t, Vec<T> w) {
    const Vec<T> t2 = t * t, t4 = t2 * t2;
    const Vec<T> low[4] = {w, w * t, w * t2, w * t2 * t};
    for (int r = 0; r < 4; ++r) sums[r] += low[r];
    Vec<T> high = t4;
    for (int q = 4; q < p; q += 4) {
      for (int r = 0; r < 4; ++r) sums[q + r] += low[r] * high;
      high = high * t4;
    }
  };
  const auto flush = [&] {
    for (int first = 0; first < p; first += lanes) {
      Vec<T> rows[lanes] = {};
      for (int b = first; b < std::min(first + lanes, p); ++b) {
        rows[b - first] = sums[b];
        sums[b] = Vec<T>{};
      }
      const Vec<T> total = transposed_sum<T>(rows);
      for (int b = first; b < std::min(first + lanes, p); ++b) moments[b] += total[b - first];
    }
  };
  const auto position = [&](Vec<T> score) { return ((score - centre.hi) - centre.lo) * scale; };

  // Sums in T drift by their length, so they are kept this short.
  constexpr int64_t kBlock = 64 * lanes;
  int64_t i = 0;
  while (i + lanes <= count) {
    const int64_t stop = std::min(i + kBlock, count);
    for (; i + lanes <= stop; i += lanes)
      accumulate(position(load<T>(scores + i)), weight ? load<T>(weight + i) : broadcast<T>(1));
    if (i + lanes <= count) flush();
  }
  if (i < count) {
    // Lanes behind the end repeat the last score, with weight 0.
    T tail[lanes], tail_weight[lanes] = {};
    for (int64_t k = 0; k < lanes; ++k) tail[k] = scores[std::min(i + k, count - 1)];
    for (int64_t k = i; k < count; ++k) tail_weight[k - i] = weight ? weight[k] : T(1);
    accumulate(position(load<T>(tail)), load<T>(tail_weight));
  }
  flush();
}

// sum of a_k t^k over k < p.
template <class T>
inline Vec<T> evaluate_powers(const T (&a)[kPanelOrder<T>], Vec<T> t) {
  Vec<T> value = broadcast<T>(a[kPanelOrder<T> - 1]);
  for (int k = kPanelOrder<T> - 2; k >= 0; --k) value = value * t + a[k];
  return value;
}

// Power coefficients, at one panel, of the sums over all items in reach; [weight][power].
template <class T, int kWeights>
void gather_coefficients(const double* table, const double* moments, const Panel* panels,
                         int64_t panel_count, int64_t own,
                         double (&coefficients)[kWeights][kPanelOrder<T>]) {
  constexpr int p = kPanelOrder<T>, reach = kPanelReach<T>, lanes = kLanes<double>;
  // Independent chains of additions, enough to hide their latency.
  constexpr int kChains = std::max(1, 8 / (kWeights * (p / lanes)));
  Vec<double> sums[kChains][kWeights][p / lanes] = {};
  const int64_t place = panels[own].place;
  int64_t first = own, last = own;
  while (first > 0 && place - panels[first - 1].place < reach) --first;
  while (last + 1 < panel_count && panels[last + 1].place - place < reach) ++last;
  for (int64_t other = first; other <= last; ++other) {
    const double* entry = table + (panels[other].place - place + reach - 1) * p * p;
    const double* moment = moments + other * kWeights * p;
    for (int b = 0; b < p; ++b)
      for (int a = 0; a < p / lanes; ++a) {
        const Vec<double> row = load<double>(entry + b * p + a * lanes);
        for (int w = 0; w < kWeights; ++w) sums[b % kChains][w][a] += row * moment[w * p + b];
      }
  }
  for (int w = 0; w < kWeights; ++w)
    for (int a = 0; a < p / lanes; ++a) {
      for (int chain = 1; chain < kChains; ++chain) sums[0][w][a] += sums[chain][w][a];
      store<double>(&coefficients[w][a * lanes], sums[0][w][a]);
    }
}

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
  const int64_t limit = panel_limit(range, n);
  const bool few_panels = range < 2.0 * static_cast<double>(n) + 64;
  OrderedRow<T> row{scratch.sorted.reserve(n), scratch.order.reserve(n),
                    reinterpret_cast<Panel*>(scratch.panels.reserve(limit * sizeof(Panel))), 0};
  if (few_panels)
    order_by_counting(scores, n, lam, static_cast<double>(lo), static_cast<int64_t>(range) + 1,
                      scratch, row);
  else
    order_by_sorting(scores, n, lam, scratch, row);

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
    for (int64_t at = begin; at < end; ++at) {
      const Piece& piece = pieces[at];
      const Panel& panel = row.panels[piece.panel];
      const auto centre = panel_centre<T>(panel.anchor, panel.index, lam);
      if (piece.panel != prepared) {
        gather_coefficients<T, kWeights>(table.data(), moments, row.panels, row.panel_count,
                                         piece.panel, wide);
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
