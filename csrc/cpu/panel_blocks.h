// A long row of few panels, cut into blocks and put into the order of its panels within each. A
// block and all that is computed of it stay in a core's cache, where an order of the whole row
// would scatter over memory. Included once for each instruction set, hence no include guard.

#include "cpu/panel_order.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

template <class T>
constexpr int64_t kOrderBlock = (1 << 18) / sizeof(T);
template <class T>
constexpr int64_t kBlockPanels = kOrderBlock<T> / 32;  // more would leave their vectors half empty

template <class T>
bool is_for_blocks(int64_t n, double range) {
  return n >= 2 * kOrderBlock<T> && range < kBlockPanels<T>;
}

// Orders the row, and lists every panel's part of every block, block by block. A panel's begin and
// end are those in an order of the whole row: they say how many items lie above it.
template <class T>
void order_in_blocks(const T* scores, int64_t n, double lam, double lo, int64_t panels,
                     OrderScratch<T>& scratch, OrderedRow<T>& row, std::vector<Piece>& pieces) {
  const int64_t blocks = (n + kOrderBlock<T> - 1) / kOrderBlock<T>;
  uint32_t* next_items = scratch.counts.reserve(blocks * panels);
  pieces.resize(blocks * panels);
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * kOrderBlock<T>, end = std::min(begin + kOrderBlock<T>, n);
      uint32_t* next = next_items + block * panels;
      std::fill(next, next + panels, 0u);
      visit_panels(scores, begin, end, lo, lam, panels,
                   [&](int64_t, uint32_t panel) { ++next[panel]; });
      int64_t position = begin;
      for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t after = position + next[panel];
        pieces[block * panels + panel] = {panel, position, after};
        next[panel] = static_cast<uint32_t>(position);
        position = after;
      }
      visit_panels(scores, begin, end, lo, lam, panels, [&](int64_t i, uint32_t panel) {
        const uint32_t to = next[panel]++;
        row.scores[to] = scores[i];
        row.origin[to] = static_cast<uint32_t>(i);
      });
    }
  });

  row.panel_count = panels;
  int64_t position = 0;
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t begin = position;
    for (int64_t block = 0; block < blocks; ++block) {
      const Piece& piece = pieces[block * panels + panel];
      position += piece.end - piece.begin;
    }
    row.panels[panel] = {lo, static_cast<double>(panel), panel, begin, position};
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
