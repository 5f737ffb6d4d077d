// A few rows of one direction through all steps. Included once for each instruction set, hence no
// include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Rows of a layer's input, or of its gradient, that one product takes: where the rows of a tile are
// fewer, several steps' together, so that the weights are read once for all of them.
constexpr int64_t kInputRows = 96;

inline int64_t steps_together(const LstmTile& tile) {
  return std::max<int64_t>(1, kInputRows / tile.rows);
}

// The step that a direction takes after s others.
inline int64_t step_of(const LstmTile& tile, int64_t steps, int64_t s) {
  return tile.direction == 0 ? s : steps - 1 - s;
}

// Numbers to be multiplied, packed where they have to be; `memory` is for a row of them, padded to
// whole vectors.
template <class T>
const T* pack_row(const T* from, int64_t count, T* memory) {
  if constexpr (kPacked == 1) return from;
  for (int64_t k = 0; k < count; k += kLanes<T>)
    store_packed<T>(memory + k / kPacked, load_first<T>(from + k, count - k));
  return memory;
}

// Input weights * input of `count` steps from s on, for [block, step, row, gate, lane].
template <class T>
void input_products(const LstmForward<T>& call, const LstmTile& tile, int64_t s, int64_t count,
                    LstmScratch<T>& scratch, T* gates) {
  const auto& layer = call.layer;
  const int64_t depth = packed_size(layer.features), total = count * tile.rows;
  const int64_t padded = packed_size(unit_blocks<T>(layer.features) * kLanes<T>);
  const T** inputs = scratch.rows.reserve(total);
  T* packed = scratch.inputs.reserve(kPacked == 1 ? 0 : total * padded);
  for (int64_t q = 0; q < total; ++q) {
    const int64_t t = step_of(tile, layer.steps, s + q / tile.rows);
    const T* input = call.input.at(t, tile.first + q % tile.rows);
    inputs[q] = pack_row(input, layer.features, packed + q * padded);
  }
  for (int64_t block = 0; block < unit_blocks<T>(layer.hidden); ++block) {
    const T* panel = layer.weights[tile.direction].input + block * depth * kPanelColumns<T>;
    for_each_rows(total, [&](auto rows, int64_t first) {
      T* to[rows];
      for (int i = 0; i < rows; ++i) to[i] = gates + (block * total + first + i) * kPanelColumns<T>;
      product<T, rows, false>(inputs + first, depth, panel, to, kPanelColumns<T>);
    });
  }
}

// What a tile carries from step to step.
template <class T>
struct ForwardState {
  const T* gates;   // [block, row of several steps, gate, lane], or null for one feature
  int64_t stride;   // of its blocks
  const T* hidden;  // [row, unit] packed, units padded to whole vectors
  T* next_hidden;
  T* cell;  // [row, unit], padded likewise
};

// One step of a few rows and one block of units.
template <class T, int kRows, bool kSaves>
__attribute__((noinline)) void forward_block(const LstmForward<T>& call, const LstmTile& tile,
                                             const ForwardState<T>& state, int64_t t, int64_t block,
                                             int64_t first) {
  constexpr int lanes = kLanes<T>;
  const auto& layer = call.layer;
  const auto& weights = layer.weights[tile.direction];
  const int64_t padded = unit_blocks<T>(layer.hidden) * lanes, unit = block * lanes;
  // From zero: added to the input's part, which may be larger, the terms would lose digits.
  Vec<T> sums[kRows][kPanelVectors] = {};
  const T* rows[kRows];
  for (int r = 0; r < kRows; ++r) rows[r] = state.hidden + (first + r) * padded / kPacked;
  const int64_t depth = packed_size(layer.hidden);
  add_product<T, kRows>(rows, depth, weights.recurrent + block * depth * kPanelColumns<T>, sums);
  T stash[kRows * kPanelColumns<T>];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kPanelVectors; ++v)
      store<T>(stash + r * kPanelColumns<T> + v * lanes, sums[r][v]);

  const T* bias = weights.bias + block * kPanelColumns<T>;
  const T* factor = weights.input + block * kPanelColumns<T>;
  for (int r = 0; r < kRows; ++r) {
    const int64_t at = (first + r) * padded + unit, row = tile.first + first + r;
    const T* products = stash + r * kPanelColumns<T>;
    const T* input = state.gates == nullptr
                         ? call.input.at(t, row)
                         : state.gates + block * state.stride + (first + r) * kPanelColumns<T>;
    const auto gate = [&](int v) {
      const int k = v * lanes;
      const Vec<T> of_input =
          state.gates == nullptr ? *input * load<T>(factor + k) : load<T>(input + k);
      return of_input + load<T>(products + k) + load<T>(bias + k);
    };
    const LstmCell<T> cell =
        run_cell<T>(gate(0), gate(1), gate(2), gate(3), load<T>(state.cell + at));
    const Vec<T> hidden = cell.o * hyperbolic_tangent<T>(cell.c);
    store<T>(state.cell + at, cell.c);
    store_packed<T>(state.next_hidden + at / kPacked, hidden);
    const int64_t left = layer.hidden - unit;
    if (call.output.data != nullptr)
      store_first<T>(call.output.at(t, row) + tile.direction * layer.hidden + unit, hidden, left);
    if constexpr (kSaves) {
      T* saved = call.saved[tile.direction].at(t, row) + unit;
      const Vec<T> values[kLstmSaved] = {cell.i, cell.f, cell.g, cell.o, cell.c};
      for (int k = 0; k < kLstmSaved; ++k)
        store_first<T>(saved + k * layer.hidden, values[k], left);
    }
  }
}

template <class T, bool kSaves>
void forward_steps(const LstmForward<T>& call, const LstmTile& tile, LstmScratch<T>& scratch) {
  const auto& layer = call.layer;
  const int64_t blocks = unit_blocks<T>(layer.hidden), size = tile.rows * blocks * kLanes<T>;
  const bool one_feature = layer.features == 1;
  const int64_t together = one_feature ? layer.steps : steps_together(tile);
  const int64_t step_size = tile.rows * kPanelColumns<T>;
  T* memory = scratch.state.reserve(3 * size + (one_feature ? 0 : together * step_size * blocks));
  std::fill(memory, memory + 3 * size, T(0));
  T* hidden[2] = {memory, memory + size};
  T* gates = memory + 3 * size;
  for (int64_t begin = 0; begin < layer.steps; begin += together) {
    const int64_t count = std::min(together, layer.steps - begin);
    if (!one_feature) input_products(call, tile, begin, count, scratch, gates);
    for (int64_t s = begin; s < begin + count; ++s) {
      const ForwardState<T> state{one_feature ? nullptr : gates + (s - begin) * step_size,
                                  count * step_size, hidden[s % 2], hidden[(s + 1) % 2],
                                  memory + 2 * size};
      const int64_t t = step_of(tile, layer.steps, s);
      for (int64_t block = 0; block < blocks; ++block)
        for_each_rows(tile.rows, [&](auto rows, int64_t first) {
          forward_block<T, rows, kSaves>(call, tile, state, t, block, first);
        });
    }
  }
}

template <class T>
void lstm_forward(const LstmForward<T>& call, const LstmTile& tile, LstmScratch<T>& scratch) {
  const bool saves = call.saved[tile.direction].data != nullptr;
  (saves ? forward_steps<T, true> : forward_steps<T, false>)(call, tile, scratch);
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
