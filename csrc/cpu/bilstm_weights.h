// The gradients of the weights: those of the gates times what the weights were multiplied by, the
// input, the hidden state of the step before, and one. Included once for each instruction set,
// hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Of a row: the features, if there are several, and the hidden states, padded to whole vectors.
template <class T>
int64_t regressor_size(const LstmLayer<T>& layer) {
  const int64_t features = layer.features == 1 ? 0 : layer.features;
  return unit_blocks<T>(features + layer.hidden) * kLanes<T>;
}

// Sums are kept as [block, regressor, (gate, lane)]. After the regressors come a single feature,
// which is never rounded, and one.
template <class T>
int64_t weight_grads_size(const LstmLayer<T>& layer) {
  return unit_blocks<T>(layer.hidden) * kPanelColumns<T> * (regressor_size(layer) + 2);
}

// What add_weight_grads works in, for so many rows of steps.
template <class T>
struct WeightGradsMemory {
  int64_t rows, depth, piece, stride, regressors, transposed, panels;

  WeightGradsMemory(const LstmLayer<T>& layer, int64_t total)
      : rows((total + kLanes<T> - 1) / kLanes<T> * kLanes<T>),
        depth(packed_size(total)),
        piece(packed_size(rows)),
        stride(packed_row_size(rows)),
        regressors(rows * regressor_size(layer)),
        transposed(regressor_size(layer) * stride),
        panels(kPacked == 1 ? 0 : packed_panel_size<T>(total)) {}

  int64_t size() const { return regressors + transposed + panels; }
};

// The regressors [row, regressor] of `count` steps back from the one after `last` others.
template <class T>
void gather_regressors(const LstmForward<T, Saved<T>>& call, const LstmTile& tile, int64_t last,
                       int64_t total, T* to) {
  const auto& layer = call.layer;
  const int64_t width = regressor_size(layer);
  for (int64_t q = 0; q < total; ++q) {
    const int64_t s = last - q / tile.rows, row = tile.first + q % tile.rows;
    const T* input = call.input.at(step_of(tile, layer.steps, s), row);
    T* end = to + width;
    if (layer.features > 1) to = std::copy(input, input + layer.features, to);
    if (s > 0) {
      const T* before = call.output.at(step_of(tile, layer.steps, s - 1), row);
      before += tile.direction * layer.hidden;
      to = std::copy(before, before + layer.hidden, to);
    } else {
      to = std::fill_n(to, layer.hidden, T(0));
    }
    std::fill(to, end, T(0));
    to = end;
  }
}

// rows [kLanes] packed and transposed: to[column] gets the numbers of one column.
template <class T>
void pack_transposed(const T* rows, int64_t width, int64_t stride, int64_t next_piece, T* to) {
  for (int64_t column = 0; column < width; column += kLanes<T>) {
    Vec<T> block[kLanes<T>];
    for (int r = 0; r < kLanes<T>; ++r) block[r] = load<T>(rows + r * width + column);
    transpose<T>(block);
    for (int c = 0; c < kLanes<T>; ++c)
      store_packed<T>(to + (column + c) * stride, next_piece, block[c]);
  }
}

// Adds the gates' gradients [total, gate, lane] of one block, times the feature where there is one,
// to two rows of sums.
template <class T>
void add_exact_sums(const LstmForward<T, Saved<T>>& call, const LstmTile& tile, int64_t last,
                    int64_t total, const T* gates, T* sums) {
  constexpr int64_t lanes = kLanes<T>, columns = kPanelColumns<T>;
  const bool one_feature = call.layer.features == 1;
  Vec<T> of_feature[kPanelVectors] = {}, of_one[kPanelVectors] = {};
  for (int64_t q = 0; q < total; ++q) {
    const int64_t t = step_of(tile, call.layer.steps, last - q / tile.rows);
    const T feature = one_feature ? *call.input.at(t, tile.first + q % tile.rows) : T(0);
    for (int v = 0; v < kPanelVectors; ++v) {
      const Vec<T> gate = load<T>(gates + q * columns + v * lanes);
      of_feature[v] += feature * gate;
      of_one[v] += gate;
    }
  }
  for (int v = 0; v < kPanelVectors; ++v) {
    T* to = sums + v * lanes;
    store<T>(to, load<T>(to) + of_feature[v]);
    store<T>(to + columns, load<T>(to + columns) + of_one[v]);
  }
}

// Adds those of `count` steps back from the one after `last` others.
// gates: [block, row of the steps, gate, lane], a block's rows `gate_rows` long.
template <class T>
void add_weight_grads(const LstmForward<T, Saved<T>>& call, const LstmTile& tile, int64_t last,
                      int64_t count, const T* gates, int64_t gate_rows, T* memory, T* sums) {
  constexpr int64_t columns = kPanelColumns<T>;
  const auto& layer = call.layer;
  const int64_t width = regressor_size(layer), total = count * tile.rows;
  const WeightGradsMemory<T> sizes(layer, total);
  T* transposed = memory + sizes.regressors;
  T* panel_memory = transposed + sizes.transposed;
  gather_regressors(call, tile, last, total, memory);
  std::fill(memory + total * width, transposed, T(0));
  std::fill(transposed, panel_memory, T(0));
  for (int64_t q = 0; q < sizes.rows; q += kLanes<T>)

    pack_transposed(memory + q * width, width, sizes.stride, sizes.piece, transposed + q / kPacked);

  const Tiles tiles(kProductRows);
  for (int64_t block = 0; block < unit_blocks<T>(layer.hidden); ++block) {
    const T* panel = gates + block * gate_rows * columns;
    T* block_sums = sums + block * (width + 2) * columns;
    add_exact_sums(call, tile, last, total, panel, block_sums + width * columns);
    if constexpr (kPacked > 1) {
      pack_rows(panel, total, sizes.depth, panel_memory);
      panel = panel_memory;
    }
    // The products are summed by themselves: added one by one to what may be larger, they would
    // lose digits.
    for_each_rows(width, [&](auto rows, int64_t first) {
      alignas(64) T products[rows * columns];
      product<T, rows>(transposed + first * sizes.stride, sizes.stride, sizes.piece, sizes.depth,
                       panel, products);
      T* to = block_sums + first * columns;
      for (int64_t k = 0; k < rows * columns; k += kLanes<T>)
        store<T>(to + k, load<T>(to + k) + load<T>(products + k));
    });
  }
}

template <class T>
void sum_weight_grads(const LstmLayer<T>& layer, const T* parts, int64_t count,
                      const LstmWeightGrads<T>& sums) {
  const int64_t width = regressor_size(layer), size = weight_grads_size(layer);
  for (int64_t row = 0; row < 4 * layer.hidden; ++row) {
    const int64_t unit = row % layer.hidden, gate = row / layer.hidden;
    const int64_t place = gate * kLanes<T> + unit % kLanes<T>;
    const auto sum = [&](int64_t regressor, int64_t regressors, T* to) {
      const T* from =
          parts + (unit / kLanes<T> * (width + 2) + regressor) * kPanelColumns<T> + place;
      std::fill_n(to, regressors, T(0));
      for (int64_t part = 0; part < count; ++part)
        for (int64_t k = 0; k < regressors; ++k) to[k] += from[part * size + k * kPanelColumns<T>];
    };
    const bool one_feature = layer.features == 1;
    sum(one_feature ? width : 0, layer.features, sums.input + row * layer.features);
    sum(one_feature ? 0 : layer.features, layer.hidden, sums.recurrent + row * layer.hidden);
    sum(width + 1, 1, sums.bias + row);
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
