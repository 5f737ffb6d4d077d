// The gradients of the weights: those of the gates times what the weights were multiplied by (the
// input, the hidden state of the step before, or one). Included once for each instruction set,
// hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// The regressors of a row are the features, if there are several, and the hidden states, each
// padded to whole vectors.
template <class T>
int64_t padded_features(const LstmLayer<T>& layer) {
  return layer.features == 1 ? 0 : unit_blocks<T>(layer.features) * kLanes<T>;
}

template <class T>
int64_t regressor_size(const LstmLayer<T>& layer) {
  return padded_features(layer) + unit_blocks<T>(layer.hidden) * kLanes<T>;
}

// Sums are kept as [block, regressor, (gate, lane)]. After the regressors come two that are never
// rounded: a single feature, and one.
constexpr int64_t kExact = 2;

template <class T>
int64_t weight_grads_size(const LstmLayer<T>& layer) {
  return unit_blocks<T>(layer.hidden) * kPanelColumns<T> * (regressor_size(layer) + kExact);
}

// Rows that are transposed together.
template <class T>
constexpr int64_t kTransposed = kLanes<T> * sizeof(T) / sizeof(Value<T>);

// The layout of add_weight_grads' scratch memory, for `total` rows of steps.
template <class T>
struct WeightGradsMemory {
  int64_t depth, rows, piece, stride, transposed, panel;

  WeightGradsMemory(const LstmLayer<T>& layer, int64_t total)
      : depth(packed_size(total)),
        rows((kPacked * depth + kTransposed<T> - 1) / kTransposed<T> * kTransposed<T>),
        piece(packed_size(rows)),
        stride(packed_row_size(rows)),
        transposed(regressor_size(layer) * stride),
        panel(packed_panel_size<T>(total)) {}

  int64_t size() const { return transposed + panel; }
};

// Packs and transposes rows, zeros for null: to[column] gets the numbers of one column.
template <class T>
void pack_transposed(const Value<T>* const (&rows)[kTransposed<T>], int64_t columns, int64_t stride,
                     int64_t next_piece, T* to) {
  for (int64_t column = 0; column < columns; column += kLanes<T>) {
    Vec<T> block[kLanes<T>];
    const int64_t left = columns - column;
    for (int k = 0; k < kLanes<T>; ++k) {
#ifdef SODEEP_FAST_ROUNDS
      const auto bits = [&](const Bf16* row) {
        return row == nullptr ? __m256i{} : load_bits(row + column, left);
      };
      block[k] = pair(bits(rows[2 * k]), bits(rows[2 * k + 1]));
#else
      block[k] = rows[k] == nullptr ? Vec<T>{} : load_first<T>(rows[k] + column, left);
#endif
    }
    transpose<T>(block);
    for (int c = 0; c < kLanes<T>; ++c) {
      T* numbers = to + (column + c) * stride;
#ifdef SODEEP_FAST_ROUNDS
      store<T>(numbers, block[c]);
#else
      store_packed<T>(numbers, next_piece, block[c]);
#endif
    }
  }
}

// Packs and transposes the regressors of `total` rows, from those of step `last` backwards.
template <class T>
void pack_regressors(const LstmForward<T, Saved<T>>& call, const LstmTile& tile, int64_t last,
                     int64_t total, const WeightGradsMemory<T>& sizes, T* to) {
  const auto& layer = call.layer;
  for (int64_t q = 0; q < sizes.rows; q += kTransposed<T>) {
    const Value<T>*input[kTransposed<T>] = {}, *before[kTransposed<T>] = {};
    for (int64_t k = 0; k < std::min(kTransposed<T>, total - q); ++k) {
      const int64_t s = last - (q + k) / tile.rows, row = tile.first + (q + k) % tile.rows;
      if (layer.features > 1) input[k] = call.input.at(step_of(tile, layer.steps, s), row);
      if (s > 0)
        before[k] =
            call.output.at(step_of(tile, layer.steps, s - 1), row) + tile.direction * layer.hidden;
    }
    T* packed = to + q / kPacked;
    if (layer.features > 1)
      pack_transposed<T>(input, layer.features, sizes.stride, sizes.piece, packed);
    pack_transposed<T>(before, layer.hidden, sizes.stride, sizes.piece,
                       packed + padded_features(layer) * sizes.stride);
  }
}

// The gates' gradients of several steps, whose products with regressors add_weight_grads sums.
template <class T>
struct GateGrads {
  const T* packed;  // [step, row, piece, (block, gate, lane)]
  int64_t row, piece;
  T* exact;  // their sums times a single feature and times one [block, kExact, gate, lane]
};

// Adds the products of `count` steps, from step `last` backwards, and clears the exact sums.
template <class T>
void add_weight_grads(const LstmForward<T, Saved<T>>& call, const LstmTile& tile, int64_t last,
                      int64_t count, const GateGrads<T>& gates, T* memory, T* sums) {
  constexpr int64_t columns = kPanelColumns<T>;
  const auto& layer = call.layer;
  const int64_t width = regressor_size(layer), total = count * tile.rows;
  const WeightGradsMemory<T> sizes(layer, total);
  T* panel = memory + sizes.transposed;
  pack_regressors(call, tile, last, total, sizes, memory);

  // The sums of these steps are completed before they are added to the totals, which may be larger:
  // added one by one, their terms would lose digits.
  const auto add = [](T* to, T* terms, int64_t size) {
    for (int64_t k = 0; k < size; k += kLanes<T>)
      store<T>(to + k, load<T>(to + k) + load<T>(terms + k));
  };
  const Tiles tiles(kProductRows);
  for (int64_t block = 0; block < unit_blocks<T>(layer.hidden); ++block) {
    T* block_sums = sums + block * (width + kExact) * columns;
    T* exact = gates.exact + block * kExact * columns;
    add(block_sums + width * columns, exact, kExact * columns);
    std::fill_n(exact, kExact * columns, T(0));
    pack_rows(gates.packed + block * columns / kPacked, total, gates.row, gates.piece, sizes.depth,
              panel);
    for_each_rows(width, [&](auto rows, int64_t first) {
      alignas(64) T products[rows * columns];
      product<T, rows>(memory + first * sizes.stride, sizes.stride, sizes.piece, sizes.depth, panel,
                       products);
      add(block_sums + first * columns, products, rows * columns);
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
          parts + (unit / kLanes<T> * (width + kExact) + regressor) * kPanelColumns<T> + place;
      std::fill_n(to, regressors, T(0));
      for (int64_t part = 0; part < count; ++part)
        for (int64_t k = 0; k < regressors; ++k) to[k] += from[part * size + k * kPanelColumns<T>];
    };
    const bool one_feature = layer.features == 1;
    sum(one_feature ? width : 0, layer.features, sums.input + row * layer.features);
    sum(padded_features(layer), layer.hidden, sums.recurrent + row * layer.hidden);
    sum(width + 1, 1, sums.bias + row);
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
