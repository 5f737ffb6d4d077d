// The gradients of the weights: those of the gates times what the weights were multiplied by, the
// input, the hidden state of the step before, and one. Included once for each instruction set,
// hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Of a row: features, hidden states, a one, padded to whole vectors.
template <class T>
int64_t regressor_size(const LstmLayer<T>& layer) {
  return unit_blocks<T>(layer.features + layer.hidden + 1) * kLanes<T>;
}

// Sums are kept as [(block, gate, lane), regressor].
template <class T>
int64_t weight_grads_size(const LstmLayer<T>& layer) {
  return unit_blocks<T>(layer.hidden) * kPanelColumns<T> * regressor_size(layer);
}

// Adds those of `count` steps back from the one after `last` others.
// gates: [count, row of the tile, (block, gate, lane)]; memory: for as many regressors.
template <class T>
void add_weight_grads(const LstmForward<T>& call, const LstmTile& tile, int64_t last, int64_t count,
                      const T* gates, T* memory, T* sums) {
  const auto& layer = call.layer;
  const int64_t depth = unit_blocks<T>(layer.hidden) * kPanelColumns<T>;
  const int64_t width = regressor_size(layer), total = count * tile.rows;
  for (int64_t q = 0; q < total; ++q) {
    const int64_t s = last - q / tile.rows, row = tile.first + q % tile.rows;
    const T* input = call.input.at(step_of(tile, layer.steps, s), row);
    T* to = std::copy(input, input + layer.features, memory + q * width);
    if (s > 0) {
      const T* before = call.output.at(step_of(tile, layer.steps, s - 1), row);
      before += tile.direction * layer.hidden;
      to = std::copy(before, before + layer.hidden, to);
    } else {
      to = std::fill_n(to, layer.hidden, T(0));
    }
    *to++ = 1;
    std::fill(to, memory + (q + 1) * width, T(0));
  }
  // So few rows of the sums at a time that what they are made of stays in the nearest cache.
  constexpr int64_t kRows = 48;
  for (int64_t begin = 0; begin < depth; begin += kRows)
    for_each_rows<kPanelVectors>(width / kLanes<T>, [&](auto vectors, int64_t vector) {
      const int64_t column = vector * kLanes<T>;
      for_each_rows(std::min(depth, begin + kRows) - begin, [&](auto rows, int64_t first) {
        const int64_t row = begin + first;
        add_outer_product<T, rows, vectors>(gates + row, depth, memory + column, width, total,
                                            sums + row * width + column, width);
      });
    });
}

template <class T>
void sum_weight_grads(const LstmLayer<T>& layer, const T* parts, int64_t count,
                      const LstmWeightGrads<T>& sums) {
  const int64_t width = regressor_size(layer), size = weight_grads_size(layer);
  for (int64_t row = 0; row < 4 * layer.hidden; ++row) {
    const int64_t unit = row % layer.hidden, gate = row / layer.hidden;
    const int64_t place = (unit / kLanes<T> * kPanelVectors + gate) * kLanes<T> + unit % kLanes<T>;
    const auto sum = [&](int64_t column, int64_t columns, T* to) {
      const T* from = parts + place * width + column;
      std::copy(from, from + columns, to);
      for (int64_t part = 1; part < count; ++part)
        for (int64_t k = 0; k < columns; ++k) to[k] += from[part * size + k];
    };
    sum(0, layer.features, sums.input + row * layer.features);
    sum(layer.features, layer.hidden, sums.recurrent + row * layer.hidden);
    sum(layer.features + layer.hidden, 1, sums.bias + row);
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
