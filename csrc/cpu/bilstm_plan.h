// How the threads share the rows and directions of a layer of the LSTM.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

#include "cpu/bilstm.h"
#include "cpu/flush_to_zero.h"

namespace sodeep_fast {

// Splits rows into tiles, and tiles into groups. A task takes the tiles of one group in turn, in
// both directions or in one.
struct LstmPlan {
  int64_t batch, rows, tiles, groups;
  bool both;

  // Enough rows that reading the weights once costs little compared with the products, and few
  // enough that what is kept of them stays in the cache; up to twice that, so that no small rest is
  // left. Half of the threads take the other direction, unless a thread should take both directions
  // of a tile and all threads then have about as many rows.
  template <class T, class S>
  LstmPlan(const LstmLayer<T>& layer, const LstmKernels<T, S>& kernel, int64_t steps_kept,
           bool wants_both)
      : batch(layer.batch) {
    constexpr int64_t kKept = 4 << 20;
    const int64_t together = std::max<int64_t>(kernel.product_rows, 6),
                  most = 64 / together * together;
    const int64_t row_bytes = steps_kept * kLstmSaved * layer.hidden * int64_t(sizeof(S));
    const int64_t kept = std::min(most, kKept / std::max<int64_t>(1, row_bytes));
    const int64_t least = std::max<int64_t>(1, batch / std::max(kept, together));
    const auto divide = [&](int64_t most_groups) {
      const int64_t wanted = divide_up(least, most_groups) * most_groups;
      rows = std::max<int64_t>(1, divide_up(divide_up(batch, wanted), together)) * together;
      tiles = divide_up(batch, rows);
      groups = std::min(tiles, most_groups);
    };
    const int64_t threads = torch::stable::get_num_threads(), pairs = divide_up(threads, 2);
    divide(2 * pairs);
    const int64_t most_rows = divide_up(tiles, std::max<int64_t>(1, groups)) * rows;
    const bool is_even = groups == 2 * pairs && most_rows * groups <= batch + batch / 16;
    if (!wants_both || !is_even) divide(pairs);
    both = groups >= threads;
  }

  // Calls work(tile, group, scratch); if one task takes both directions of a tile, the second after
  // the first. The result of a row does not depend on its tile.
  template <class S, class T, class F>
  void run(const LstmLayer<T>& layer, F&& work) const {
    constexpr int64_t kProductsPerTask = 1 << 18;
    const int64_t tasks = both ? groups : 2 * groups;
    const int64_t products =
        2 * layer.steps * batch * layer.hidden * (layer.hidden + layer.features) / tasks;
    torch::stable::parallel_for(
        0, tasks, std::max<int64_t>(1, kProductsPerTask / std::max<int64_t>(products, 1)),
        [&](int64_t begin, int64_t end) {
          // Gradients vanish over many steps; subnormal ones are negligible.
          const FlushToZero flush(true);
          thread_local LstmScratch<T, S> scratch;
          for (int64_t task = begin; task < end; ++task) {
            const int64_t group = task % groups;
            const int begin_direction = static_cast<int>(task / groups);
            for (int64_t k = group * tiles / groups; k < (group + 1) * tiles / groups; ++k) {
              const int64_t first = k * rows;
              for (int d = begin_direction; d < (both ? 2 : begin_direction + 1); ++d)
                work(LstmTile{d, first, std::min(rows, batch - first)}, group, scratch);
            }
          }
          scratch.trim();
        });
  }
};

}  // namespace sodeep_fast
