// The kernels of an instruction set for one layer of an LSTM. Included once for each, hence no
// include guard.

// clang-format off: each needs those before it
#include "cpu/isa/simd.h"
#include "cpu/isa/bilstm_product.h"
#ifdef SODEEP_FAST_BF16_TILES
#include "cpu/isa/bilstm_tiles.h"
#endif
#include "cpu/isa/bilstm_panels.h"
#include "cpu/isa/bilstm_values.h"
#include "cpu/isa/bilstm_pack.h"
#include "cpu/isa/bilstm_cell.h"
#include "cpu/isa/bilstm_forward.h"
#include "cpu/isa/bilstm_weights.h"
#include "cpu/isa/bilstm_backward.h"
// clang-format on

namespace sodeep_fast {
namespace SODEEP_FAST_ISA {

template <class T>
LstmKernels<T, Saved<T>> lstm_kernels() {
  return {kProductRows,
          {lay_out_forward<T>, forward_pieces<T>, pack_forward<T>},
          {lay_out_backward<T>, backward_pieces<T>, pack_backward<T>},
          lstm_forward<T>,
          lstm_backward<T>,
          add<T, Value<T>>,
          add<T, T>,
          weight_grads_size<T>,
          sum_weight_grads<T>};
}

}  // namespace SODEEP_FAST_ISA
}  // namespace sodeep_fast

#undef SODEEP_FAST_ROUNDS
