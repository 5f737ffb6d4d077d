// Orders a row's scores by panel: a counting sort if the row has few panels, a radix sort if
// outliers or a tiny temperature would leave most of them empty. The result lists only occupied
// panels, and a panel's items are contiguous. Included once for each instruction set, hence no
// include guard.

#include "cpu/isa/sorted_order.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

constexpr int64_t kIndexBlock = 1024;      // panel indices computed at a time, in cache
constexpr int64_t kParallelItems = 16384;  // shorter rows are not worth a second thread

template <class T>
void panel_indices(const T* scores, int64_t count, double lo, double lam, uint32_t last,
                   uint32_t* index) {
  for (int64_t i = 0; i < count; ++i) {
    const auto panel = static_cast<int32_t>((static_cast<double>(scores[i]) - lo) * lam);
    index[i] = std::min(static_cast<uint32_t>(panel), last);
  }
}

// Calls use(i, panel) for the items from begin to end.
template <class T, class F>
void visit_panels(const T* scores, int64_t begin, int64_t end, double lo, double lam,
                  int64_t panels, F&& use) {
  uint32_t index[kIndexBlock];
  for (int64_t at = begin; at < end; at += kIndexBlock) {
    const int64_t count = std::min(kIndexBlock, end - at);
    panel_indices(scores + at, count, lo, lam, static_cast<uint32_t>(panels - 1), index);
    for (int64_t i = 0; i < count; ++i) use(at + i, index[i]);
  }
}

// Counting sort by panel. It is stable, so the result does not depend on the number of chunks. That
// is limited so that the size of all chunks' counts stays linear in the row's length.
template <class T>
void order_by_counting(const T* scores, int64_t n, double lam, double lo, int64_t panels,
                       OrderScratch<T>& scratch, OrderedRow<T>& row) {
  const int64_t chunks =
      n < kParallelItems ? 1
                         : std::clamp<int64_t>(2 * n / panels, 1, torch::stable::get_num_threads());
  const int64_t chunk_size = (n + chunks - 1) / chunks;
  uint32_t* counts = scratch.counts.reserve(chunks * panels);
  const auto visit = [&](int64_t chunk, auto&& use) {
    visit_panels(scores, chunk * chunk_size, std::min(n, (chunk + 1) * chunk_size), lo, lam, panels,
                 use);
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

// Sorts by score.
template <class T>
void order_by_score(const T* scores, int64_t n, OrderScratch<T>& scratch, OrderedRow<T>& row) {
  sorted_order(scores, n, scratch.keys, row.origin);
  for (int64_t i = 0; i < n; ++i) row.scores[i] = scores[row.origin[i]];
}

// Cuts a sorted row into panels, and into segments wherever neighbours are so far apart that the
// sigmoid is saturated. Each segment has its own anchor, so an outlier costs the others no
// precision.
template <class T>
void cut_panels(int64_t n, double lam, OrderedRow<T>& row) {
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

// `range` is that of the scores, in units of 1 / lam.
template <class T>
void order_by_panel(const T* scores, int64_t n, double lam, T lo, double range,
                    OrderScratch<T>& scratch, OrderedRow<T>& row) {
  constexpr double kMostPanels = std::numeric_limits<int32_t>::max();  // their indices are int32
  const bool few_panels = range < std::min(2.0 * static_cast<double>(n) + 64, kMostPanels);
  if (few_panels) {
    order_by_counting(scores, n, lam, static_cast<double>(lo), static_cast<int64_t>(range) + 1,
                      scratch, row);
  } else {
    order_by_score(scores, n, scratch, row);
    cut_panels(n, lam, row);
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
