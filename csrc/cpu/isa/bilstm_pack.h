// Packs the weights in the order in which products read them, in pairs of bfloat16 if these are
// multiplied. Included once for each instruction set, hence no include guard.
//
// Forward: [block, depth, gate, lane], padded with zeros. A block is one vector of units. The depth
// runs over the features, if there are several, and then over the hidden units. The four gates of a
// unit are in the same lane of four registers.
// Backward: [panel, (block, gate, lane), column].

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

constexpr int kGates = kPanelVectors;
constexpr int kTangent = 2;  // the gate whose activation is tanh; the others' are sigmoids

// An activation takes the exponential of a preactivation times a factor. So as not to multiply at
// every step, biases and the weights of a single feature contain the factor; the other weights do
// only if that is exact. Activations with fewer digits take powers of 2, hence log2(e).
#ifdef SODEEP_FAST_ROUNDS
constexpr bool kFactorsInWeights = false;
constexpr float kSigmoidFactor = -1.44269504f, kTangentFactor = 2 * kSigmoidFactor;
#else
constexpr bool kFactorsInWeights = true;
constexpr float kSigmoidFactor = -1, kTangentFactor = 2;
#endif
template <class T>
constexpr T kGateFactors[kGates] = {kSigmoidFactor, kSigmoidFactor, kTangentFactor, kSigmoidFactor};

template <class T>
int64_t unit_blocks(int64_t hidden) {
  return (hidden + kLanes<T> - 1) / kLanes<T>;
}

template <class T>
int64_t column_panels(int64_t columns) {
  return (columns + kPanelColumns<T> - 1) / kPanelColumns<T>;
}

// From one block of the forward's weights to the next.
template <class T>
int64_t block_stride(const LstmLayer<T>& layer) {
  const int64_t input = layer.features == 1 ? 0 : packed_panel_size<T>(layer.features);
  return input + packed_panel_size<T>(layer.hidden);
}

// Packs one block of weights [4 hidden, depth] for the forward.
template <class T>
void pack_block(const T* weights, int64_t hidden, int64_t depth, int64_t block, T* packed) {
  constexpr int lanes = kLanes<T>;
  std::fill(packed + packed_panel_size<T>(depth) - kPieces * kDepthStep * kPanelColumns<T>,
            packed + packed_panel_size<T>(depth), T(0));
  for (int gate = 0; gate < kPanelVectors; ++gate)
    for (int64_t k = 0; k < depth; k += lanes) {
      Vec<T> rows[lanes];
      for (int lane = 0; lane < lanes; ++lane) {
        const int64_t unit = block * lanes + lane;
        const T* row = weights + (gate * hidden + unit) * depth + k;
        rows[lane] = load_first<T>(row, unit < hidden ? depth - k : 0);
        if constexpr (kFactorsInWeights) rows[lane] *= kGateFactors<T>[gate];
      }
      transpose<T>(rows);
      for (int i = 0; i < lanes && k + i < depth; i += kPacked)
        store_terms<T>(packed + panel_offset<T>((k + i) / kPacked, gate), kPanelPiece<T>, rows + i);
    }
}

// Copies the weights of a single feature, which take no part in matrix products.
template <class T>
void copy_block(const T* weights, int64_t hidden, int64_t block, bool with_factors, T* to) {
  const int64_t unit = block * kLanes<T>;
  for (int gate = 0; gate < kGates; ++gate)
    store<T>(to + block * kPanelColumns<T> + gate * kLanes<T>,
             load_first<T>(weights + gate * hidden + unit, hidden - unit) *
                 (with_factors ? kGateFactors<T>[gate] : T(1)));
}

// Packs one panel of columns of weights [4 hidden, columns] for the backward.
template <class T>
void pack_panel(const T* weights, int64_t hidden, int64_t columns, int64_t panel, T* packed) {
  constexpr int64_t width = kPanelColumns<T>, lanes = kLanes<T>;
  const int64_t first = panel * width, depth = unit_blocks<T>(hidden) * width;
  packed += panel * packed_panel_size<T>(depth);
  for (int64_t k = 0; k < depth; k += kPacked)
    for (int64_t column = first; column < first + width; column += lanes) {
      Vec<T> terms[kPacked];
      for (int i = 0; i < kPacked; ++i) {
        const int64_t unit = k / width * lanes + (k + i) % lanes, gate = k % width / lanes;
        terms[i] = load_first<T>(weights + (gate * hidden + unit) * columns + column,
                                 unit < hidden ? columns - column : 0);
      }
      store_terms<T>(packed + panel_offset<T>(k / kPacked, (column - first) / lanes),
                     kPanelPiece<T>, terms);
    }
}

// Makes a panel of `count` packed rows, `stride` apart: kPacked rows are interleaved, and zeros
// follow up to `depth` places.
template <class T>
void pack_rows(const T* rows, int64_t count, int64_t stride, int64_t next_piece, int64_t depth,
               T* packed) {
  for (int64_t place = 0; place < depth; ++place)
    for (int v = 0; v < kPanelVectors; ++v)
      for (int piece = 0; piece < kPieces; ++piece) {
        const T* from =
            rows + place * kPacked * stride + piece * next_piece + v * kLanes<T> / kPacked;
        store<T>(packed + panel_offset<T>(place, v) + piece * kPanelPiece<T>,
                 load_terms<T>(from, stride, count - place * kPacked));
      }
}

// Sets where the forward's weights lie in `memory`; returns their size.
template <class T>
int64_t lay_out_forward(LstmLayer<T>& layer, T* memory) {
  const int64_t width = unit_blocks<T>(layer.hidden) * kPanelColumns<T>;
  int64_t size = 0;
  for (auto& direction : layer.weights) {
    const bool one_feature = layer.features == 1;
    direction.bias = memory + size;
    direction.input = direction.bias + width;
    direction.recurrent =
        direction.input + (one_feature ? width : packed_panel_size<T>(layer.features));
    size += (one_feature ? 2 : 1) * width + unit_blocks<T>(layer.hidden) * block_stride(layer);
  }
  return size;
}

// Packs one of forward_pieces pieces: a block of one direction.
template <class T>
void pack_forward(const LstmLayer<T>& layer, const LstmWeights<T> (&weights)[2], int64_t piece) {
  const int64_t blocks = unit_blocks<T>(layer.hidden), block = piece % blocks;
  const auto& from = weights[piece / blocks];
  const auto& to = layer.weights[piece / blocks];
  const int64_t begin = block * block_stride(layer);
  for (int c = 0; c < kPanelColumns<T>; ++c) {
    const int64_t unit = block * kLanes<T> + c % kLanes<T>;
    const int64_t row = c / kLanes<T> * layer.hidden + unit;
    to.bias[block * kPanelColumns<T> + c] =
        unit < layer.hidden
            ? (from.biases[0][row] + from.biases[1][row]) * kGateFactors<T>[c / kLanes<T>]
            : T(0);
  }
  if (layer.features == 1)
    copy_block(from.input, layer.hidden, block, true, to.input);
  else
    pack_block(from.input, layer.hidden, layer.features, block, to.input + begin);
  pack_block(from.recurrent, layer.hidden, layer.hidden, block, to.recurrent + begin);
}

template <class T>
int64_t forward_pieces(const LstmLayer<T>& layer) {
  return 2 * unit_blocks<T>(layer.hidden);
}

// The gradient of a single feature is a plain sum, which reads the weights in the forward's order.
template <class T>
int64_t lay_out_backward(LstmLayer<T>& layer, T* memory) {
  const int64_t width = unit_blocks<T>(layer.hidden) * kPanelColumns<T>;
  const int64_t panel = packed_panel_size<T>(width);
  int64_t size = 0;
  for (auto& direction : layer.weights) {
    const int64_t input = layer.features == 1 ? width : column_panels<T>(layer.features) * panel;
    direction.input_transposed = memory + size;
    direction.recurrent_transposed = memory + size + input;
    size += input + column_panels<T>(layer.hidden) * panel;
  }
  return size;
}

template <class T>
int64_t backward_pieces(const LstmLayer<T>& layer) {
  return 2 * (column_panels<T>(layer.hidden) + column_panels<T>(layer.features));
}

template <class T>
void pack_backward(const LstmLayer<T>& layer, const LstmWeights<T> (&weights)[2], int64_t piece) {
  const int64_t recurrent = column_panels<T>(layer.hidden), pieces = backward_pieces(layer) / 2;
  const int64_t panel = piece % pieces;
  const auto& from = weights[piece / pieces];
  const auto& to = layer.weights[piece / pieces];
  if (panel < recurrent)
    pack_panel(from.recurrent, layer.hidden, layer.hidden, panel, to.recurrent_transposed);
  else if (layer.features > 1)
    pack_panel(from.input, layer.hidden, layer.features, panel - recurrent, to.input_transposed);
  else
    for (int64_t block = 0; block < unit_blocks<T>(layer.hidden); ++block)
      copy_block(from.input, layer.hidden, block, false, to.input_transposed);
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast
