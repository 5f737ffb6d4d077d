// The derivative of a few rows of one direction, from the last step that it took to the first.
// Included once for each instruction set, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// to(q) [columns] = rows[q] [depth] * packed weights, for q below `count`. As much of a panel at a
// time as lets the nearest cache hold it.
template <class T, class To>
void transposed_products(int64_t count, const T* rows, int64_t depth, const T* packed, To&& to,
                         int64_t columns) {
  constexpr int64_t kBytes = 32 << 10, width = kPanelColumns<T>;
  constexpr int64_t kStepBytes = kPieces * kDepthStep * width * static_cast<int64_t>(sizeof(T));
  constexpr int64_t kDepth = kBytes / kStepBytes * kDepthStep;
  for (int64_t left = 0; left < columns; left += width, packed += kPieces * depth * width)
    for (int64_t begin = 0; begin < depth; begin += kDepth)
      for_each_rows(count, [&](auto together, int64_t first) {
        alignas(64) T sums[together * width];
        product<T, together>(rows + first * kPieces * depth + begin, kPieces * depth, depth,
                             std::min(kDepth, depth - begin), packed + kPieces * begin * width,
                             sums);
        for (int64_t r = 0; r < std::min<int64_t>(together, count - first); ++r) {
          T* out = to(first + r) + left;
          for (int64_t v = 0; v < width && v < columns - left; v += kLanes<T>) {
            Vec<T> sum = load<T>(sums + r * width + v);
            if (begin > 0) sum += load_first<T>(out + v, columns - left - v);
            store_first<T>(out + v, sum, columns - left - v);
          }
        }
      });
}

// What of a tile's forward the backward reads.
template <class S>
struct SavedSteps {
  Sequence<const S> values;  // [steps, row of the tile, kLstmSaved hidden]
  const LstmTile& tile;
  int64_t steps;

  // At the step that the direction took after s others.
  const S* at(int64_t s, int64_t r) const { return values.at(step_of(tile, steps, s), r); }
};

// One step of one row, from the gradient of its output, factor * grad: writes the gradients of its
// gates [block, gate, lane], packed and, unless null, plain, `gate_rows` rows from block to block,
// and what goes back to the cell state before; returns the gradient of the input, if it has one
// feature.
template <class T>
SODEEP_FAST_INLINE T backward_row(const LstmLayer<T>& layer, const SavedSteps<Saved<T>>& steps,
                                  int64_t s, int64_t r, T factor, const T* grad,
                                  const T* grad_hidden, T* grad_cell, T* gates, int64_t gate_rows,
                                  T* packed, int64_t next_piece) {
  constexpr int lanes = kLanes<T>;
  const int64_t hidden = layer.hidden;
  const Saved<T>* saved = steps.at(s, r);
  const Saved<T>* before = s == 0 ? nullptr : steps.at(s - 1, r) + 4 * hidden;
  const T* weights = layer.weights[steps.tile.direction].input;
  Vec<T> input_grad = {};
  for (int64_t unit = 0; unit < hidden; unit += lanes) {
    const int64_t left = hidden - unit;
    const auto read = [&](const Saved<T>* from) { return load_saved(from + unit, left); };
    const LstmCell<T> cell{read(saved), read(saved + hidden), read(saved + 2 * hidden),
                           read(saved + 3 * hidden), read(saved + 4 * hidden)};
    const Vec<T> grad_of_hidden =
        factor * load_first<T>(grad + unit, left) + load<T>(grad_hidden + unit);
    const LstmCell<T> back =
        differentiate_cell<T>(cell, before == nullptr ? Vec<T>{} : read(before), grad_of_hidden,
                              load<T>(grad_cell + unit));
    store<T>(grad_cell + unit, back.c);
    const Vec<T> of_gates[kPanelVectors] = {back.i, back.f, back.g, back.o};
    for (int v = 0; v < kPanelVectors; ++v) {
      const int64_t at = unit * kPanelVectors + v * lanes;
      if (gates != nullptr)
        store<T>(gates + unit * kPanelVectors * gate_rows + v * lanes, of_gates[v]);
      store_packed<T>(packed + at / kPacked, next_piece, of_gates[v]);
      if (layer.features == 1) input_grad += of_gates[v] * load<T>(weights + at);
    }
  }
  return layer.features == 1 ? reduce<T>(input_grad, [](T a, T b) { return a + b; }) : T(0);
}

// The forward of a tile, for what it saves alone.
template <class T>
Sequence<const Saved<T>> run_forward_again(const LstmForward<T, Saved<T>>& call,
                                           const LstmTile& tile,
                                           LstmScratch<T, Saved<T>>& scratch) {
  const int64_t row = kLstmSaved * call.layer.hidden, step = tile.rows * row;
  Saved<T>* saved = scratch.saved.reserve(call.layer.steps * step);
  LstmForward<T, Saved<T>> again = call;
  again.input.data += tile.first * call.input.row;
  again.output.data = nullptr;
  again.head = nullptr;
  again.saved[tile.direction] = {saved, step, row};
  lstm_forward(again, {tile.direction, 0, tile.rows}, scratch);
  return {saved, step, row};
}

template <class T>
void lstm_backward(const LstmBackward<T, Saved<T>>& call, const LstmTile& tile, T* weight_grads,
                   LstmScratch<T, Saved<T>>& scratch) {
  const auto& layer = call.forward.layer;
  const auto& weights = layer.weights[tile.direction];
  const auto& saved = call.forward.saved[tile.direction];
  const SavedSteps<Saved<T>> steps{
      saved.data == nullptr
          ? run_forward_again(call.forward, tile, scratch)
          : Sequence<const Saved<T>>{saved.data + tile.first * saved.row, saved.step, saved.row},
      tile, layer.steps};
  const Sequence<T>& input_grad = call.input_grad[tile.direction];
  const bool sums_input = input_grad.data != nullptr && layer.features == 1;
  const bool multiplies_input = input_grad.data != nullptr && layer.features > 1;
  // Padded to whole blocks of units and, for the products, to whole panels of columns.
  const int64_t width = column_panels<T>(layer.hidden) * kPanelColumns<T>;
  const int64_t depth = unit_blocks<T>(layer.hidden) * kPanelColumns<T>;
  const int64_t together = multiplies_input || weight_grads ? steps_together(tile) : 1;
  const int64_t packed_depth = packed_size(depth), packed_row = packed_row_size(depth);
  const int64_t total = together * tile.rows;
  const int64_t for_weights =
      weight_grads == nullptr ? 0 : total * depth + WeightGradsMemory<T>(layer, total).size();
  // Products that begin at a step's rows may read beyond the last one's.
  const int64_t packed_rows = total + padded_rows(1) - 1;
  T* grad_hidden =
      scratch.state.reserve(2 * tile.rows * width + packed_rows * packed_row + for_weights);
  T* grad_cell = grad_hidden + tile.rows * width;
  T* packed = grad_cell + tile.rows * width;
  T* gates = packed + packed_rows * packed_row;
  std::fill(grad_hidden, packed, T(0));

  for (int64_t done = 0; done < layer.steps; done += together) {
    const int64_t count = std::min(together, layer.steps - done);
    const int64_t last = layer.steps - 1 - done;
    for (int64_t k = 0; k < count; ++k) {
      const int64_t s = last - k, t = step_of(tile, layer.steps, s);
      T* step_packed = packed + k * tile.rows * packed_row;
      for (int64_t r = 0; r < tile.rows; ++r) {
        const bool has_head = call.forward.head != nullptr;
        const T factor =
            has_head ? *call.projected_grad[tile.direction].at(t, tile.first + r) : T(1);
        const T* grad = has_head ? call.forward.head : call.grad.at(t, tile.first + r);
        grad += tile.direction * layer.hidden;
        T* plain =
            weight_grads == nullptr ? nullptr : gates + (k * tile.rows + r) * kPanelColumns<T>;
        const T sum = backward_row(layer, steps, s, r, factor, grad, grad_hidden + r * width,
                                   grad_cell + r * width, plain, total,
                                   step_packed + r * packed_row, packed_depth);
        if (sums_input) *input_grad.at(t, tile.first + r) = sum;
      }
      const Tiles tiles(tile.rows);
      if (s > 0)
        transposed_products<T>(
            tile.rows, step_packed, packed_depth, weights.recurrent_transposed,
            [&](int64_t r) { return grad_hidden + r * width; }, width);
    }
    const Tiles tiles(count * tile.rows);
    if (multiplies_input)
      transposed_products<T>(
          count * tile.rows, packed, packed_depth, weights.input_transposed,
          [&](int64_t q) {
            const int64_t t = step_of(tile, layer.steps, last - q / tile.rows);
            return input_grad.at(t, tile.first + q % tile.rows);
          },
          layer.features);
    if (weight_grads != nullptr)
      add_weight_grads(call.forward, tile, last, count, gates, total, gates + total * depth,
                       weight_grads);
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
