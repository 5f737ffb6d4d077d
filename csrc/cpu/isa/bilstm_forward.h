// A few rows of one direction through all steps. Included once for each instruction set, hence no
// include guard.

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

// Rows that one product takes for the input and its gradient, and for the gradients of the weights.
// If a tile has fewer, the product takes several of its steps together.
constexpr int64_t kInputRows = kDepthStep == 1 ? 96 : 64;
constexpr int64_t kWeightRows = kDepthStep == 1 ? 96 : 256;

inline int64_t steps_together(const LstmTile& tile, int64_t rows) {
  return std::max<int64_t>(1, rows / tile.rows);
}

// The position in time of a direction's step s.
inline int64_t step_of(const LstmTile& tile, int64_t steps, int64_t s) {
  return tile.direction == 0 ? s : steps - 1 - s;
}

// Whether one product takes the input's features and the hidden units together. Not in full
// precision: the sum over the features may be larger, and the hidden units' part would lose digits.
#ifdef SODEEP_FAST_ROUNDS
constexpr bool kMultipliesTogether = true;
#else
constexpr bool kMultipliesTogether = false;
#endif

// The layout of a row that is multiplied by the weights at every step: features, then units.
template <class T>
struct StateRow {
  int64_t features;  // places of those multiplied together with the hidden units, or 0
  int64_t piece, size, depth;

  explicit StateRow(const LstmLayer<T>& layer)
      : features(kMultipliesTogether && layer.features > 1 ? packed_size(layer.features) : 0) {
    const int64_t units = unit_blocks<T>(layer.hidden) * kLanes<T>;
    piece = packed_size(units);
    size = features + packed_row_size(units);
    depth = features + packed_size(layer.hidden);
  }
};

// Input weights * input of `count` steps from s on, as [block, step, row, gate, lane].
template <class T>
void input_products(const LstmForward<T, Saved<T>>& call, const LstmTile& tile, int64_t s,
                    int64_t count, LstmScratch<T, Saved<T>>& scratch, T* gates) {
  const auto& layer = call.layer;
  const int64_t depth = packed_size(layer.features), row = packed_row_size(layer.features);
  const int64_t total = count * tile.rows;
  T* inputs = scratch.inputs.reserve(padded_rows(total) * row);
  for (int64_t q = 0; q < total; ++q) {
    const int64_t t = step_of(tile, layer.steps, s + q / tile.rows);
    pack_row(call.input.at(t, tile.first + q % tile.rows), layer.features, inputs + q * row);
  }
  const Tiles tiles(total);
  panel_products<T>(total, inputs, depth, layer.weights[tile.direction].input, block_stride(layer),
                    unit_blocks<T>(layer.hidden), gates);
}

// What a tile carries from step to step.
template <class T>
struct ForwardState {
  const T* gates;  // [block, row of several steps, gate, lane], or null
  int64_t stride;  // of its blocks
  const T* rows;   // [row, packed feature or unit], units padded to whole vectors
  T* next_rows;
  T* cell;                // [row, unit], padded likewise
  T* products_with_head;  // [row, lane], if there is a head
};

// One step of one block of units. Passed by value, as the compiler must assume that stores change
// what references point to.
template <class T, bool kSaves, bool kOneFeature>
struct ForwardBlock {
  static constexpr bool kHasProducts = !kOneFeature && !kMultipliesTogether;

  const T *bias, *factor, *input;  // a feature, or the products of several
  int64_t input_row;
  T *cell, *hidden;
  Value<T>* output;
  T* exact_output;
  int64_t cell_row, hidden_row, hidden_piece, output_row, exact_row;
  Saved<T>* saved;
  T* kept;  // where to keep the state before the next segment, or null
  int64_t saved_row, kept_row, units, left;
  const T* head;
  T* products_with_head;
  bool is_first;

  ForwardBlock(const LstmForward<T, Saved<T>>& call, const LstmTile& tile,
               const ForwardState<T>& state, int64_t s, int64_t block) {
    const auto& layer = call.layer;
    const int64_t t = step_of(tile, layer.steps, s);
    const auto& weights = layer.weights[tile.direction];
    const int64_t unit = block * kLanes<T>;
    bias = weights.bias + block * kPanelColumns<T>;
    factor = weights.input + block * kPanelColumns<T>;
    input = kOneFeature    ? call.scores.at(t, tile.first)
            : kHasProducts ? state.gates + block * state.stride
                           : nullptr;
    input_row = kOneFeature ? call.scores.row : kPanelColumns<T>;
    units = layer.hidden, left = units - unit;
    cell_row = unit_blocks<T>(units) * kLanes<T>;
    const StateRow<T> row(layer);
    hidden_row = row.size, hidden_piece = row.piece;
    cell = state.cell + unit;
    hidden = state.next_rows + row.features + unit / kPacked;
    const auto of_output = [&](const auto& sequence) {
      return sequence.data == nullptr ? nullptr
                                      : sequence.at(t, tile.first) + tile.direction * units + unit;
    };
    output = of_output(call.output), exact_output = of_output(call.exact_output);
    output_row = call.output.row, exact_row = call.exact_output.row;
    saved = kSaves ? call.saved[tile.direction].at(s - call.begin, tile.first) + unit : nullptr;
    saved_row = call.saved[tile.direction].row;
    const auto& states = call.states[tile.direction];
    const int64_t next = s + 1;
    kept = states.data != nullptr && next < call.end && next % call.segment == 0
               ? states.at(next / call.segment - 1, tile.first) + unit
               : nullptr;
    kept_row = states.row;
    head = call.head == nullptr ? nullptr : call.head + tile.direction * units + unit;
    products_with_head = state.products_with_head;
    is_first = block == 0;
  }

  // Finishes kCount rows of the tile from r on, given their recurrent products [row, gate, lane].
  template <int kCount>
  SODEEP_FAST_INLINE void finish(int64_t r, const T* products) const {
    Vec<T> gates[kCount][kGates], c_before[kCount];
    LstmCell<T> cells[kCount];
    SODEEP_FAST_EACH (k, kCount) {
      const T* in = input + (r + k) * input_row;
      SODEEP_FAST_EACH (gate, kGates) {
        const int at = gate * kLanes<T>;
        Vec<T> product = load<T>(products + k * kPanelColumns<T> + at), sum = load<T>(bias + at);
        if constexpr (kOneFeature) sum += *in * load<T>(factor + at);
        if constexpr (kHasProducts) sum += load<T>(in + at);
        if constexpr (!kFactorsInWeights) product *= kGateFactors<T>[gate];
        gates[k][gate] = product + sum;
      }
      c_before[k] = load<T>(cell + (r + k) * cell_row);
    }
    run_cells<T>(gates, c_before, cells);
    SODEEP_FAST_EACH (k, kCount) write(r + k, cells[k]);
  }

 private:
  SODEEP_FAST_INLINE void write(int64_t r, const LstmCell<T>& now) const {
    store<T>(cell + r * cell_row, now.c);
    store_packed<T>(hidden + r * hidden_row, hidden_piece, now.hidden);
    if (output != nullptr) store_value(output + r * output_row, now.hidden, left);
    if (exact_output != nullptr) store_value(exact_output + r * exact_row, now.hidden, left);
    if (head != nullptr) {
      T* to = products_with_head + r * kLanes<T>;
      const Vec<T> before = is_first ? Vec<T>{} : load<T>(to);
      store<T>(to, now.hidden * load_first<T>(head, left) + before);
    }
    if (kept != nullptr) {
      store_first<T>(kept + r * kept_row, now.hidden, left);
      store_first<T>(kept + r * kept_row + units, now.c, left);
    }
    if constexpr (kSaves) {
      const Vec<T> values[kLstmSaved] = {now.i, now.f, now.g, now.o, now.c};
      for (int k = 0; k < kLstmSaved; ++k)
        store_saved(saved + r * saved_row + k * units, values[k], left);
    }
  }
};

// One step of all rows.
template <class T, bool kSaves, bool kOneFeature>
void forward_step(const LstmForward<T, Saved<T>>& call, const LstmTile& tile,
                  const ForwardState<T>& state, int64_t s) {
  using Block = ForwardBlock<T, kSaves, kOneFeature>;
  const StateRow<T> row(call.layer);
  const int64_t blocks = unit_blocks<T>(call.layer.hidden), stride = block_stride(call.layer);
  const auto& weights = call.layer.weights[tile.direction];
  const T* panels = row.features > 0 ? weights.input : weights.recurrent;
#ifdef SODEEP_FAST_BF16_TILES
  // The tile unit multiplies the next rows, or these rows with the next block, while the vector
  // unit finishes these.
  alignas(64) T products[2][kProductRows * kPanelColumns<T>];
  const int64_t parts = padded_rows(tile.rows) / kProductRows, count = blocks * parts;
  const auto begin = [&](int64_t k) {
    return TileProduct<T>(state.rows + k % parts * kProductRows * row.size, row.size, row.piece,
                          row.depth, panels + k / parts * stride);
  };
  begin(0).finish(products[0]);
  for (int64_t k = 0; k < count; ++k) {
    const bool has_next = k + 1 < count;
    const Block block(call, tile, state, s, k / parts);
    const int64_t first = k % parts * kProductRows;
    const int64_t end = std::min<int64_t>(first + kProductRows, tile.rows);
    const T* ready = products[k % 2];
    TileProduct<T> product = begin(has_next ? k + 1 : k);
    for (int64_t r = first; r < end; r += kPanelVectors)
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVectors; ++v) {
        if (has_next) product.step(v);
        if (r + v < end)
          block.template finish<1>(r + v, ready + (r + v - first) * kPanelColumns<T>);
      }
    if (has_next) product.finish(products[(k + 1) % 2]);
  }
#else
  for (int64_t k = 0; k < blocks; ++k) {
    const Block block(call, tile, state, s, k);
    for_each_rows(tile.rows, [&](auto rows, int64_t first) {
      alignas(64) T products[rows * kPanelColumns<T>];
      product<T, rows>(state.rows + first * row.size, row.size, row.piece, row.depth,
                       panels + k * stride, products);
      for_each_rows<kCellsTogether>(rows, [&](auto together, int64_t r) {
        block.template finish<together>(first + r, products + r * kPanelColumns<T>);
      });
    });
  }
#endif
}

// Loads the tile's states before step call.begin, unless that is the first.
template <class T>
void begin_with(const LstmForward<T, Saved<T>>& call, const LstmTile& tile, T* rows, T* cell) {
  const StateRow<T> row(call.layer);
  const int64_t count = call.layer.hidden, units = unit_blocks<T>(count) * kLanes<T>;
  for (int64_t r = 0; call.begin > 0 && r < tile.rows; ++r) {
    const T* from = call.states[tile.direction].at(call.begin / call.segment - 1, tile.first + r);
    for (int64_t unit = 0; unit < count; unit += kLanes<T>) {
      store_packed<T>(rows + r * row.size + row.features + unit / kPacked, row.piece,
                      load_first<T>(from + unit, count - unit));
      store<T>(cell + r * units + unit, load_first<T>(from + count + unit, count - unit));
    }
  }
}

// Packs the features of a step into its rows, in front of the states.
template <class T>
void pack_features(const LstmForward<T, Saved<T>>& call, const LstmTile& tile, int64_t s, T* rows) {
  const int64_t t = step_of(tile, call.layer.steps, s), size = StateRow<T>(call.layer).size;
  for (int64_t r = 0; r < tile.rows; ++r)
    pack_row(call.input.at(t, tile.first + r), call.layer.features, rows + r * size);
}

template <class T, bool kSaves, bool kOneFeature>
void forward_steps(const LstmForward<T, Saved<T>>& call, const LstmTile& tile,
                   LstmScratch<T, Saved<T>>& scratch) {
  const auto& layer = call.layer;
  const int64_t blocks = unit_blocks<T>(layer.hidden);
  const int64_t units = blocks * kLanes<T>;
  // The states of two steps must not be whole pages apart: reading one would wait for writes to the
  // other.
  constexpr int64_t kApart = 17 * 64 / sizeof(T);
  const int64_t size = padded_rows(tile.rows) * StateRow<T>(layer).size + kApart;
  const int64_t cells = tile.rows * units;
  constexpr bool kHasProducts = ForwardBlock<T, kSaves, kOneFeature>::kHasProducts;
  const int64_t together = kHasProducts ? steps_together(tile, kInputRows) : call.end - call.begin;
  const int64_t step_size = tile.rows * kPanelColumns<T>;
  const int64_t gate_rows = kHasProducts ? padded_rows(together * tile.rows) : 0;
  const int64_t for_head = call.head == nullptr ? 0 : tile.rows * kLanes<T>;
  T* memory =
      scratch.state.reserve(2 * size + cells + for_head + gate_rows * kPanelColumns<T> * blocks);
  std::fill(memory, memory + 2 * size + cells, T(0));
  T *rows[2] = {memory, memory + size}, *cell = memory + 2 * size;
  begin_with(call, tile, rows[call.begin % 2], cell);
  T* products_with_head = cell + cells;
  T* gates = products_with_head + for_head;
  for (int64_t begin = call.begin; begin < call.end; begin += together) {
    const int64_t count = std::min(together, call.end - begin);
    if constexpr (kHasProducts) input_products(call, tile, begin, count, scratch, gates);
    const Tiles tiles(tile.rows);
    for (int64_t s = begin; s < begin + count; ++s) {
      if constexpr (!kOneFeature && kMultipliesTogether) pack_features(call, tile, s, rows[s % 2]);
      const ForwardState<T> state{kHasProducts ? gates + (s - begin) * step_size : nullptr,
                                  padded_rows(count * tile.rows) * kPanelColumns<T>,
                                  rows[s % 2],
                                  rows[(s + 1) % 2],
                                  cell,
                                  products_with_head};
      forward_step<T, kSaves, kOneFeature>(call, tile, state, s);
      const int64_t t = step_of(tile, layer.steps, s);
      for (int64_t r = 0; call.head != nullptr && r < tile.rows; ++r)
        *call.projected[tile.direction].at(t, tile.first + r) =
            reduce<T>(load<T>(products_with_head + r * kLanes<T>), [](T a, T b) { return a + b; });
    }
  }
}

template <class T>
void lstm_forward(const LstmForward<T, Saved<T>>& call, const LstmTile& tile,
                  LstmScratch<T, Saved<T>>& scratch) {
  const bool saves = call.saved[tile.direction].data != nullptr;
  const auto steps = call.layer.features == 1
                         ? (saves ? forward_steps<T, true, true> : forward_steps<T, false, true>)
                         : (saves ? forward_steps<T, true, false> : forward_steps<T, false, false>);
  steps(call, tile, scratch);
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
