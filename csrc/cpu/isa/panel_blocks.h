// Cuts a long row with few panels into blocks, and orders each block by panel. A block and all that
// is computed from it stay in the cache of one core. Ordering the whole row would scatter writes
// over memory, and over cache lines that other threads write. Included once for each instruction
// set, hence no include guard.

#include "cpu/isa/panel_order.h"

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// The number of items of a block, or 0 if the row is not to be cut. It is a sixteenth of the row,
// so that every thread gets some, but enough to fill the vectors of every panel, and at most what
// the cache holds. If it did not depend on the row alone, rounding would depend on the number of
// threads.
template <class T>
int64_t block_items(int64_t n, double range) {
  constexpr int64_t kSmallest = 4096, kLargest = (1 << 18) / sizeof(T), kPanelItems = 32;
  if (n < kParallelItems || range >= static_cast<double>(kLargest / kPanelItems)) return 0;
  const int64_t panels = static_cast<int64_t>(range) + 1;
  const int64_t block = std::max({kSmallest, n / 16, panels * kPanelItems});
  return n >= 2 * block ? std::min(block, kLargest) : 0;
}

// Orders the row, and lists every panel's part of every block, block by block. A panel's begin and
// end are as if the whole row were ordered: they give the number of items above the panel.
template <class T>
void order_in_blocks(const T* scores, int64_t n, double lam, double lo, int64_t panels,
                     int64_t block_items, OrderScratch<T>& scratch, OrderedRow<T>& row,
                     std::vector<Piece>& pieces) {
  const int64_t blocks = (n + block_items - 1) / block_items;
  uint32_t* next_items = scratch.counts.reserve(blocks * panels);
  pieces.resize(blocks * panels);
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * block_items, end = std::min(begin + block_items, n);
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
