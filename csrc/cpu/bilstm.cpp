// One layer of a bidirectional LSTM and its derivatives on the CPU: the operators' boundary, and
// threads over tiles of rows.

#include "cpu/bilstm.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "boundary.h"
#include "cpu/bilstm_kept.h"
#include "cpu/bilstm_plan.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#define SODEEP_FAST_KERNELS "cpu/isa/bilstm_layer.h"
#define SODEEP_FAST_WITH_BF16
#include "cpu/foreach_isa.h"

namespace sodeep_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The type of the kept gates where products are of bfloat16, on processors that have them.
using KeptWithBf16 = avx512_bf16::Saved<float>;

// With products of T, or of bfloat16 where S differs from T. A tile of few rows takes as long as a
// full one, and float32 takes that three times.
template <class T, class S>
LstmKernels<T, S> kernels(int64_t batch) {
  if constexpr (std::is_same_v<T, S>) {
    constexpr int64_t kWorthTiles = 16;
    if constexpr (sizeof(T) == 4)
      if (active_isa() == Isa::kAmx && batch >= kWorthTiles) return amx_float32::lstm_kernels<T>();
    return pick_isa(baseline::lstm_kernels<T>, avx2::lstm_kernels<T>, avx512::lstm_kernels<T>)();
  } else
    return active_isa() == Isa::kAmx ? amx::lstm_kernels<T>() : avx512_bf16::lstm_kernels<T>();
}

// The parameters in PyTorch's order, of one direction and then of the other.
struct Weights {
  std::vector<Tensor> tensors;
  int64_t hidden, features;

  Weights(const std::vector<Tensor>& given, ScalarType dtype) {
    STD_TORCH_CHECK(given.size() == 8, "a layer has 8 weights, got ", given.size());
    for (const Tensor& tensor : given) tensors.push_back(dense(tensor, dtype));
    STD_TORCH_CHECK(given[0].dim() == 2, "weights of the input must have two dimensions");
    hidden = given[0].size(0) / 4;
    features = given[0].size(1);
    STD_TORCH_CHECK(hidden > 0 && features > 0, "a layer needs features and hidden units");
    for (int k = 0; k < 8; ++k) {
      const int64_t columns = k % 4 == 0 ? features : k % 4 == 1 ? hidden : 1;
      STD_TORCH_CHECK(tensors[k].numel() == 4 * hidden * columns, "weight ", k,
                      " of a layer differs in size from the others");
    }
  }

  template <class T>
  LstmWeights<T> direction(int d) const {
    const auto at = [&](int k) {
      return static_cast<const T*>(tensors[4 * d + k].const_data_ptr());
    };
    return {at(0), at(1), {at(2), at(3)}};
  }
};

// The type of a layer's input, and of its gradient.
template <class T, class S>
ScalarType input_dtype(const Weights& weights) {
  return weights.features == 1 ? dtype_of<T>() : dtype_of<LstmValue<T, S>>();
}

Tensor rows_contiguous(const Tensor& tensor, ScalarType dtype) {
  const Tensor typed = as_type(tensor, dtype);
  const bool kept = typed.size(2) == 1 || typed.stride(2) == 1;
  return kept ? typed : torch::stable::contiguous(typed);
}

template <class T, class Pointer>
Sequence<T> sequence(Pointer* data, const Tensor& tensor) {
  return {static_cast<T*>(data), tensor.stride(0), tensor.stride(1)};
}

// One direction of a tensor (2, steps, batch, ...).
template <class T>
Sequence<T> of_direction(T* data, const Tensor& tensor, int d) {
  return {data + d * tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

template <class T>
Tensor dense_head(const Tensor& head, const Weights& weights) {
  STD_TORCH_CHECK(head.numel() == 2 * weights.hidden, "the head must have two numbers per unit");
  return dense(head, dtype_of<T>());
}

template <class T>
void pack(const LstmPacking<T>& packing, const Weights& weights, LstmLayer<T>& layer,
          Buffer<T>& memory) {
  const int64_t size = packing.lay_out(layer, nullptr);
  packing.lay_out(layer, memory.reserve(size));
  const LstmWeights<T> directions[2] = {weights.direction<T>(0), weights.direction<T>(1)};
  const int64_t pieces = packing.pieces(layer);
  constexpr int64_t kSizePerTask = 1 << 15;
  torch::stable::parallel_for(0, pieces, std::max<int64_t>(1, kSizePerTask * pieces / size),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t k = begin; k < end; ++k)
                                  packing.pack(layer, directions, k);
                              });
}

template <class T, class S>
LstmForward<T, S> make_forward(const Tensor& input, const Weights& weights) {
  LstmForward<T, S> call{};
  auto& layer = call.layer;
  layer.steps = input.size(0), layer.batch = input.size(1);
  layer.features = weights.features, layer.hidden = weights.hidden;
  call.end = call.segment = layer.steps;
  if (layer.features == 1)
    call.scores = sequence<const T>(input.const_data_ptr(), input);
  else
    call.input = sequence<const LstmValue<T, S>>(input.const_data_ptr(), input);
  return call;
}

// Asks for large pages, which cost the system less to supply than the same memory in small ones.
void expect_to_fill(Tensor& tensor) {
#ifdef __linux__
  constexpr uintptr_t kLargePage = 2 << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
  const uintptr_t end = begin + static_cast<uintptr_t>(tensor.numel() * tensor.element_size());
  const uintptr_t first = (begin + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t last = end / kLargePage * kLargePage;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

template <class T, class S>
std::tuple<Tensor, Tensor, Tensor> run_forward(const Tensor& input, const Weights& weights,
                                               const std::optional<Tensor>& head, int64_t keeps,
                                               bool rounds, bool keeps_hidden) {
  using Value = LstmValue<T, S>;
  const Tensor rows = rows_contiguous(input, input_dtype<T, S>(weights));
  LstmForward<T, S> call = make_forward<T, S>(rows, weights);
  auto& layer = call.layer;
  Tensor output = head
                      ? torch::stable::new_empty(rows, {2, layer.steps, layer.batch}, dtype_of<T>())
                      : torch::stable::new_empty(rows, {layer.steps, layer.batch, 2 * layer.hidden},
                                                 rounds ? dtype_of<Value>() : dtype_of<T>());
  const LstmKept kept(keeps, layer.steps);
  Tensor saved = kept.make<T, S>(rows, layer);
  Tensor hidden = torch::stable::new_empty(
      rows, {head && keeps_hidden ? layer.steps : 0, layer.batch, 2 * layer.hidden},
      dtype_of<Value>());
  if (layer.steps == 0 || layer.batch == 0) return {output, saved, hidden};
  const Tensor projection = head ? dense_head<T>(*head, weights) : Tensor();
  if (head) {
    call.head = static_cast<const T*>(projection.const_data_ptr());
    for (int d = 0; d < 2; ++d)
      call.projected[d] = of_direction(static_cast<T*>(output.mutable_data_ptr()), output, d);
    if (keeps_hidden) call.output = sequence<Value>(hidden.mutable_data_ptr(), hidden);
  } else if (rounds) {
    call.output = sequence<Value>(output.mutable_data_ptr(), output);
  } else {
    call.exact_output = sequence<T>(output.mutable_data_ptr(), output);
  }
  kept.set(call, saved.mutable_data_ptr());
  expect_to_fill(output), expect_to_fill(saved), expect_to_fill(hidden);
  const LstmKernels<T, S> kernel = kernels<T, S>(layer.batch);
  thread_local Buffer<T> packed;
  pack(kernel.forward_packing, weights, layer, packed);
  LstmPlan(layer, kernel, 0, false)
      .run<S>(layer, [&](const LstmTile& tile, int64_t, LstmScratch<T, S>& scratch) {
        kernel.forward(call, tile, scratch);
      });
  packed.trim();
  return {output, saved, hidden};
}

template <class Number, class T>
void add_in_parallel(Number* sums, const T* a, const T* b, int64_t count,
                     void (*add)(Number*, const T*, const T*, int64_t)) {
  constexpr int64_t kPerTask = 1 << 15;
  torch::stable::parallel_for(0, count, kPerTask, [&](int64_t begin, int64_t end) {
    add(sums + begin, a + begin, b + begin, end - begin);
  });
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T, class S>
Gradients run_backward(const Tensor& grad, const Tensor& input, const Weights& weights,
                       const std::optional<Tensor>& head, const std::optional<Tensor>& hidden,
                       const Tensor& saved, bool wants_input, bool wants_head) {
  using Value = LstmValue<T, S>;
  constexpr ScalarType dtype = dtype_of<T>(), value_dtype = dtype_of<Value>();
  const bool wants_weights = hidden.has_value();
  const Tensor rows = rows_contiguous(input, input_dtype<T, S>(weights));
  const bool rounded = !head && grad.scalar_type() == value_dtype;
  const Tensor incoming = rows_contiguous(grad, rounded ? value_dtype : dtype);
  const Tensor projection = head ? dense_head<T>(*head, weights) : Tensor();
  const Tensor states = wants_weights ? rows_contiguous(*hidden, value_dtype) : Tensor();
  const LstmKept kept(saved.size(1), rows.size(0));
  const Tensor values = dense(saved, kept.all_steps ? dtype_of<S>() : dtype);
  LstmBackward<T, S> call{};
  call.forward = make_forward<T, S>(rows, weights);
  auto& layer = call.forward.layer;
  const int64_t numel = layer.steps * layer.batch * layer.hidden;
  STD_TORCH_CHECK(head || !wants_head, "there is no head to have a gradient");
  STD_TORCH_CHECK(grad.numel() == 2 * (head ? layer.steps * layer.batch : numel) &&
                      (!hidden || hidden->numel() == 2 * numel) && saved.size(1) <= layer.steps &&
                      saved.numel() == 2 * kept.count * layer.batch * layer.hidden *
                                           (kept.all_steps ? kLstmSaved : kLstmState),
                  "the gradient, hidden states, or what was saved differs in size from the layer");
  const LstmKernels<T, S> kernel = kernels<T, S>(layer.batch);
  const LstmPlan plan(layer, kernel, kept.all_steps ? 0 : kept.segment(layer.steps),
                      wants_input && layer.features > 1);
  const int64_t steps = wants_input ? layer.steps : 0;
  const bool one_feature = layer.features == 1;
  Tensor input_grad =
      torch::stable::new_empty(rows, {one_feature ? 2 : 1, steps, layer.batch, layer.features});
  const int64_t gates = wants_weights ? 4 * layer.hidden : 0;
  Tensor input_weights = torch::stable::new_zeros(rows, {2, gates, layer.features}, dtype);
  Tensor recurrent_weights = torch::stable::new_zeros(rows, {2, gates, layer.hidden}, dtype);
  Tensor biases = torch::stable::new_zeros(rows, {2, gates}, dtype);
  Tensor of_head = torch::stable::new_zeros(rows, {wants_head ? 2 * layer.hidden : 0}, dtype);
  const Gradients result{wants_weights ? torch::stable::narrow(input_grad, 0, 0, 1) : input_grad,
                         input_weights, recurrent_weights, biases, of_head};
  if (numel == 0) return result;
  expect_to_fill(input_grad);

  if (head) {
    call.forward.head = static_cast<const T*>(projection.const_data_ptr());
    for (int d = 0; d < 2; ++d)
      call.projected_grad[d] =
          of_direction(static_cast<const T*>(incoming.const_data_ptr()), incoming, d);
  } else if (rounded) {
    call.grad = sequence<const Value>(incoming.const_data_ptr(), incoming);
  } else {
    call.exact_grad = sequence<const T>(incoming.const_data_ptr(), incoming);
  }
  // Read only, from here on.
  if (wants_weights)
    call.forward.output = sequence<Value>(const_cast<void*>(states.const_data_ptr()), states);
  kept.set(call.forward, const_cast<void*>(values.const_data_ptr()));
  // With several features, a tile's directions have separate parts only if they may run at the same
  // time. The first one's part is stored where the sum will be, unless the sum is rounded.
  const Tensor parts =
      one_feature ? input_grad
                  : torch::stable::new_empty(
                        rows, {plan.both ? 0 : 2, steps, layer.batch, layer.features}, dtype);
  for (int d = 0; parts.numel() > 0 && d < 2; ++d)
    call.part_grad[d] = of_direction(static_cast<T*>(parts.mutable_data_ptr()), parts, d);
  if (wants_input && !one_feature) {
    call.input_grad =
        of_direction(static_cast<Value*>(input_grad.mutable_data_ptr()), input_grad, 0);
    if constexpr (std::is_same_v<T, Value>) call.part_grad[0] = call.input_grad;
  }

  thread_local Buffer<T> packed, packed_transposed, weight_grads, head_grads;
  if (!kept.all_steps) pack(kernel.forward_packing, weights, layer, packed);
  pack(kernel.backward_packing, weights, layer, packed_transposed);
  const int64_t size = wants_weights ? kernel.weight_grads_size(layer) : 0;
  T* sums = weight_grads.reserve(2 * plan.groups * size);
  std::fill(sums, sums + 2 * plan.groups * size, T(0));
  const int64_t head_size = wants_head ? layer.hidden : 0;
  T* head_sums = head_grads.reserve(2 * plan.groups * head_size);
  std::fill(head_sums, head_sums + 2 * plan.groups * head_size, T(0));
  plan.run<S>(layer, [&](const LstmTile& tile, int64_t group, LstmScratch<T, S>& scratch) {
    const int64_t part = tile.direction * plan.groups + group;
    kernel.backward(call, tile, wants_weights ? sums + part * size : nullptr,
                    wants_head ? head_sums + part * head_size : nullptr, scratch);
  });
  for (int64_t d = 0; wants_weights && d < 2; ++d) {
    const auto at = [&](Tensor& grads) {
      return static_cast<T*>(grads.mutable_data_ptr()) + d * grads.stride(0);
    };
    kernel.sum_weight_grads(layer, sums + d * plan.groups * size, plan.groups,
                            {at(input_weights), at(recurrent_weights), at(biases)});
  }
  auto* head_grad = static_cast<T*>(of_head.mutable_data_ptr());
  for (int64_t part = 0; part < 2 * plan.groups; ++part)
    for (int64_t unit = 0; unit < head_size; ++unit)
      head_grad[part / plan.groups * head_size + unit] += head_sums[part * head_size + unit];
  packed.trim(), packed_transposed.trim(), weight_grads.trim(), head_grads.trim();
  const T *first = call.part_grad[0].data, *second = call.part_grad[1].data;
  if (second != nullptr && !one_feature)
    add_in_parallel(call.input_grad.data, first, second, input_grad.numel(), kernel.add);
  if (second != nullptr && one_feature && wants_weights)
    add_in_parallel(call.part_grad[0].data, first, second, parts.numel() / 2, kernel.add_exactly);
  return result;
}

std::tuple<Tensor, Tensor, Tensor> bilstm_layer(Tensor input, std::vector<Tensor> weights,
                                                std::optional<Tensor> head, int64_t keeps,
                                                bool bf16, bool rounds, bool keeps_hidden) {
  const ScalarType dtype = compute_type(input);
  const Weights typed(weights, dtype);
  STD_TORCH_CHECK(input.dim() == 3 && input.size(2) == typed.features && keeps >= 0,
                  "input must have shape (steps, batch, features), and keeps not be negative");
  const auto run = dtype == ScalarType::Double   ? run_forward<double, double>
                   : bf16 && has_bf16_products() ? run_forward<float, KeptWithBf16>
                                                 : run_forward<float, float>;
  return run(input, typed, head, keeps, rounds, keeps_hidden);
}

Gradients bilstm_layer_backward(Tensor grad, Tensor input, std::vector<Tensor> weights,
                                std::optional<Tensor> head, std::optional<Tensor> hidden,
                                Tensor saved, bool wants_input, bool bf16, bool wants_head) {
  const ScalarType dtype = compute_type(input);
  const Weights typed(weights, dtype);
  STD_TORCH_CHECK(
      input.dim() == 3 && input.size(2) == typed.features && grad.dim() == 3 &&
          (!hidden || hidden->dim() == 3) && saved.dim() == 5,
      "input, gradient, hidden states or what was saved has too few or too many dimensions");
  const auto run = dtype == ScalarType::Double   ? run_backward<double, double>
                   : bf16 && has_bf16_products() ? run_backward<float, KeptWithBf16>
                                                 : run_backward<float, float>;
  return run(grad, input, typed, head, hidden, saved, wants_input, wants_head);
}

}  // namespace
}  // namespace sodeep_fast

STABLE_TORCH_LIBRARY_IMPL(sodeep_fast, CPU, m) {
  m.impl("bilstm_layer", TORCH_BOX(&sodeep_fast::bilstm_layer));
  m.impl("bilstm_layer_backward", TORCH_BOX(&sodeep_fast::bilstm_layer_backward));
}
