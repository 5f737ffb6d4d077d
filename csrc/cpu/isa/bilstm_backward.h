// The backward of a few rows of one direction, from its last step to its first. Included once for
// each instruction set, hence no include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// What the backward reads of a tile's forward, starting at step `begin` of the direction.
template <class T>
struct SavedSteps {
  Sequence<const Saved<T>> values;  // [step - begin, row of the tile, kLstmSaved hidden]
  int64_t begin;

  const Saved<T>* at(int64_t s, int64_t r) const { return values.at(s - begin, r); }
};

// One step of one row, from the gradients of its output, factor * grad, and of its hidden state,
// whose panels lie `panel_size` numbers apart. Writes the packed gradients of its gates [block,
// gate, lane], and replaces the gradient of its cell state by that of the one before. Unless they
// are null, adds to `exact` the gradients of the gates and their products with a single feature,
// and to `of_head` factor times the hidden state. Returns the gradient of a single feature, if
// `weights` of the input are given.
template <class T, class Grad>
SODEEP_FAST_INLINE T backward_row(const LstmLayer<T>& layer, const SavedSteps<T>& steps, int64_t s,
                                  int64_t r, T factor, const Grad* grad, const T* grad_hidden,
                                  int64_t panel_size, const T* weights, T* grad_cell, T* packed,
                                  int64_t next_piece, T feature, T* exact, T* of_head) {
  constexpr int lanes = kLanes<T>;
  const int64_t hidden = layer.hidden;
  const Saved<T>* saved = steps.at(s, r);
  Vec<T> input_grad = {};
  for (int64_t unit = 0; unit < hidden; unit += lanes) {
    const int64_t left = hidden - unit;
    const auto read = [&](int k) { return load_saved(saved + k * hidden + unit, left); };
    const LstmCell<T> cell{read(0), read(1), read(2), read(3), read(4)};
    const Vec<T> grad_of_hidden =
        factor * load_value(grad + unit, left) +
        load<T>(grad_hidden + unit / kPanelColumns<T> * panel_size + unit % kPanelColumns<T>);
    const LstmCellGrads<T> back =
        differentiate_cell<T>(cell, grad_of_hidden, load<T>(grad_cell + unit));
    store<T>(grad_cell + unit, back.c_before);
    if (of_head != nullptr)
      store<T>(of_head + unit, load<T>(of_head + unit) + factor * back.hidden);
    for (int gate = 0; gate < kGates; ++gate) {
      const int64_t at = unit * kGates + gate * lanes;
      const Vec<T> of_gate = back.gates[gate];
      if (exact != nullptr) {
        T* of_feature = exact + unit * kGates * kExact + gate * lanes;
        T* of_one = of_feature + kPanelColumns<T>;
        if (layer.features == 1) store<T>(of_feature, load<T>(of_feature) + feature * of_gate);
        store<T>(of_one, load<T>(of_one) + of_gate);
      }
      store_packed<T>(packed + at / kPacked, next_piece, of_gate);
      if (weights != nullptr) input_grad += of_gate * load<T>(weights + at);
    }
  }
  return weights != nullptr ? reduce<T>(input_grad, [](T a, T b) { return a + b; }) : T(0);
}

// What the backward reads of a tile's steps from `begin` to `end`. Recomputes it, for one segment,
// unless all steps have been saved.
template <class T>
SavedSteps<T> read_steps(const LstmForward<T, Saved<T>>& call, const LstmTile& tile, int64_t begin,
                         int64_t end, LstmScratch<T, Saved<T>>& scratch) {
  const auto of_tile = [&](auto sequence) {
    if (sequence.data != nullptr) sequence.data += tile.first * sequence.row;
    return sequence;
  };
  const auto &saved = call.saved[tile.direction], states = of_tile(call.states[tile.direction]);
  if (saved.data != nullptr) {
    const auto values = of_tile(saved);
    return {{values.data, values.step, values.row}, 0};
  }
  const int64_t row = kLstmSaved * call.layer.hidden, step = tile.rows * row;
  LstmForward<T, Saved<T>> again = call;
  again.begin = begin, again.end = end;
  again.scores = of_tile(call.scores), again.input = of_tile(call.input);
  again.output.data = nullptr, again.exact_output.data = nullptr;
  again.head = nullptr;
  again.states[tile.direction] = states;
  again.saved[tile.direction] = {scratch.saved.reserve((end - begin) * step), step, row};
  lstm_forward(again, {tile.direction, 0, tile.rows}, scratch);
  return {{again.saved[tile.direction].data, step, row}, begin};
}

// What a tile carries from step to step, and what it collects over several steps.
template <class T>
struct BackwardState {
  T* grad_hidden;  // [panel, row, kPanelColumns]
  T* grad_cell;    // [row, unit]
  T* packed;       // gradients of the gates [step, row, piece, (block, gate, lane)]
  T* exact;        // their sums [block, kExact, gate, lane], or null
  T* of_head;      // [unit] what one step adds to the head's gradient, or null
  T* head_grad;    // [hidden]
};

// Step s of the direction, the k-th of several whose gradients are collected.
template <class T>
void backward_step(const LstmBackward<T, Saved<T>>& call, const LstmTile& tile,
                   const SavedSteps<T>& steps, int64_t s, const BackwardState<T>& state,
                   int64_t k) {
  const auto& layer = call.forward.layer;
  const auto& incoming = call.projected_grad[tile.direction];
  const auto &scores = call.forward.scores, &outgoing = call.part_grad[tile.direction];
  const int64_t t = step_of(tile, layer.steps, s);
  const int64_t units = unit_blocks<T>(layer.hidden) * kLanes<T>, depth = units * kPanelVectors;
  const int64_t packed_depth = packed_size(depth), packed_row = packed_row_size(depth);
  T* packed = state.packed + k * tile.rows * packed_row;
  const T* head = call.forward.head;
  const bool wants_feature = layer.features == 1 && outgoing.data != nullptr;
  const T* weights = wants_feature ? layer.weights[tile.direction].input_transposed : nullptr;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.first + r;
    const auto run = [&](T factor, const auto* grad) {
      return backward_row(
          layer, steps, s, r, factor, grad + tile.direction * layer.hidden,
          state.grad_hidden + r * kPanelColumns<T>, padded_rows(tile.rows) * kPanelColumns<T>,
          weights, state.grad_cell + r * units, packed + r * packed_row, packed_depth,
          layer.features == 1 ? *scores.at(t, row) : T(0), state.exact, state.of_head);
    };
    const T sum = head != nullptr             ? run(*incoming.at(t, row), head)
                  : call.grad.data != nullptr ? run(T(1), call.grad.at(t, row))
                                              : run(T(1), call.exact_grad.at(t, row));
    if (wants_feature) *outgoing.at(t, row) = sum;
  }
  for (int64_t unit = 0; state.of_head != nullptr && unit < layer.hidden; ++unit)
    state.head_grad[unit] += std::exchange(state.of_head[unit], T(0));
  const Tiles tiles(tile.rows);
  if (s > 0)
    panel_products<T>(
        tile.rows, packed, packed_depth, layer.weights[tile.direction].recurrent_transposed,
        packed_panel_size<T>(depth), column_panels<T>(layer.hidden), state.grad_hidden);
}

// Where a tile writes the gradient of several features and, for the sum, reads the first
// direction's part.
template <class T>
struct InputGrads {
  Sequence<T> parts[2];  // [steps, row of the tile, features], the second one or null
  Sequence<Value<T>> sum;

  InputGrads(const LstmBackward<T, Saved<T>>& call, const LstmTile& tile,
             LstmScratch<T, Saved<T>>& scratch)
      : parts{call.part_grad[0], call.part_grad[1]}, sum(call.input_grad) {
    const auto& layer = call.forward.layer;
    for (auto& part : parts)
      if (part.data != nullptr) part.data += tile.first * part.row;
    sum.data += tile.first * sum.row;
    const int64_t step = tile.rows * layer.features;
    if (parts[0].data == nullptr)
      parts[0] = {scratch.first_part.reserve(layer.steps * step), step, layer.features};
  }

  SODEEP_FAST_INLINE void write(int direction, int64_t t, int64_t r, int64_t column, Vec<T> v,
                                int64_t left) const {
    if (direction == 0 || parts[1].data != nullptr)
      return store_first<T>(parts[direction].at(t, r) + column, v, left);
    store_value(sum.at(t, r) + column, load_first<T>(parts[0].at(t, r) + column, left) + v, left);
  }
};

// The gradients of the input at `count` steps of the direction, from step `last` backwards.
template <class T>
void input_gradients(const LstmLayer<T>& layer, const LstmTile& tile, int64_t last, int64_t count,
                     const T* packed, T* sums, const InputGrads<T>& grads) {
  const int64_t depth = unit_blocks<T>(layer.hidden) * kPanelColumns<T>;
  const int64_t total = count * tile.rows, panels = column_panels<T>(layer.features);
  const Tiles tiles(total);
  panel_products<T>(total, packed, packed_size(depth),
                    layer.weights[tile.direction].input_transposed, packed_panel_size<T>(depth),
                    panels, sums);
  for (int64_t q = 0; q < total; ++q) {
    const int64_t t = step_of(tile, layer.steps, last - q / tile.rows);
    for (int64_t column = 0; column < layer.features; column += kLanes<T>) {
      const T* from =
          sums + (column / kPanelColumns<T> * padded_rows(total) + q) * kPanelColumns<T>;
      grads.write(tile.direction, t, q % tile.rows, column,
                  load<T>(from + column % kPanelColumns<T>), layer.features - column);
    }
  }
}

template <class T>
void lstm_backward(const LstmBackward<T, Saved<T>>& call, const LstmTile& tile, T* weight_grads,
                   T* head_grad, LstmScratch<T, Saved<T>>& scratch) {
  const auto& layer = call.forward.layer;
  const bool multiplies_input = call.input_grad.data != nullptr;
  const int64_t units = unit_blocks<T>(layer.hidden) * kLanes<T>, depth = units * kPanelVectors;
  const int64_t input_steps = multiplies_input ? steps_together(tile, kInputRows) : 1;
  const int64_t together = weight_grads == nullptr
                               ? input_steps
                               : std::max(input_steps, steps_together(tile, kWeightRows));
  const int64_t total = together * tile.rows;
  // Columns are padded to whole panels, and rows because a product that begins at the last step's
  // rows may read beyond them.
  const int64_t for_hidden =
      column_panels<T>(layer.hidden) * padded_rows(tile.rows) * kPanelColumns<T>;
  const int64_t for_input = multiplies_input
                                ? column_panels<T>(layer.features) *
                                      padded_rows(input_steps * tile.rows) * kPanelColumns<T>
                                : 0;
  const int64_t for_packed = (total + padded_rows(1) - 1) * packed_row_size(depth);
  const int64_t for_exact = weight_grads == nullptr ? 0 : kExact * depth;
  const int64_t for_head = head_grad == nullptr ? 0 : units;
  const int64_t for_weights =
      weight_grads == nullptr ? 0 : WeightGradsMemory<T>(layer, total).size();
  T* grad_hidden = scratch.gradients.reserve(for_hidden + tile.rows * units + for_exact + for_head +
                                             for_packed + for_input + for_weights);
  T* grad_cell = grad_hidden + for_hidden;
  T* exact = grad_cell + tile.rows * units;
  T* of_head = exact + for_exact;
  T* packed = of_head + for_head;
  T* sums = packed + for_packed;
  std::fill(grad_hidden, packed, T(0));
  const int64_t packed_row = packed_row_size(depth);
  const BackwardState<T> state{grad_hidden,
                               grad_cell,
                               packed,
                               weight_grads == nullptr ? nullptr : exact,
                               head_grad == nullptr ? nullptr : of_head,
                               head_grad};

  std::optional<InputGrads<T>> input_grads;
  if (multiplies_input) input_grads.emplace(call, tile, scratch);
  const bool is_saved = call.forward.saved[tile.direction].data != nullptr;
  const int64_t segment = is_saved ? layer.steps : call.forward.segment;
  for (int64_t begin = (layer.steps - 1) / segment * segment; begin >= 0; begin -= segment) {
    const int64_t end = std::min(begin + segment, layer.steps);
    const SavedSteps<T> steps = read_steps(call.forward, tile, begin, end, scratch);
    for (int64_t left = end - begin; left > 0; left -= together) {
      const int64_t count = std::min(together, left), last = begin + left - 1;
      for (int64_t k = 0; k < count; ++k) backward_step(call, tile, steps, last - k, state, k);
      for (int64_t k = 0; multiplies_input && k < count; k += input_steps)
        input_gradients(layer, tile, last - k, std::min(input_steps, count - k),
                        packed + k * tile.rows * packed_row, sums, *input_grads);
      if (weight_grads != nullptr)
        add_weight_grads(call.forward, tile, last, count,
                         GateGrads<T>{packed, packed_row, packed_size(depth), exact},
                         sums + for_input, weight_grads);
    }
  }
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
