// All operator schemas of sodeep_fast. Implementations are registered next to their code: the CPU
// key in csrc/cpu, the CUDA key in csrc/cuda, the triton_* operators from Python.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(sodeep_fast, m) {
  m.def("cpu_capability() -> str");
  m.def("cpu_has_bf16() -> bool");

  // Input is time-major (steps, batch, features), with 8 weights in PyTorch's layout. The first
  // output is the hidden states (steps, batch, 2 hidden) or, with a head (2 hidden), each
  // direction's part of their products with it (2, steps, batch). The second output is what the
  // backward reads: [2, steps, batch, 5, hidden] if `keeps` is the number of steps. Otherwise it is
  // the states between equal segments of the steps, [2, keeps, batch, 2, hidden], from which the
  // backward recomputes the rest, a segment at a time. With a head, the third output is the hidden
  // states, for the gradients of the weights, if they are kept; otherwise it is empty. bf16:
  // products of bfloat16, where the processor has them. Then several features, their gradient, and
  // hidden states that are to be rounded are bfloat16 too.
  m.def(
      "bilstm_layer(Tensor input, Tensor[] weights, Tensor? head, int keeps, bool bf16, "
      "bool rounds, bool keeps_hidden) -> (Tensor, Tensor, Tensor)");
  // Gradients: of the input, empty if not wanted, by direction if it has one feature and the hidden
  // states are not given, otherwise summed over directions; by direction, of the input weights, of
  // the recurrent weights and of both biases, empty if the hidden states are not given; of the
  // head, empty if not wanted.
  m.def(
      "bilstm_layer_backward(Tensor grad, Tensor input, Tensor[] weights, Tensor? head, "
      "Tensor? hidden, Tensor saved, bool wants_input, bool bf16, bool wants_head) -> (Tensor, "
      "Tensor, Tensor, Tensor, Tensor)");

  // The metric (B) of every row from the rank counts of its items of level >= 1, and its gradient
  // (B, M), empty unless wanted: the mean recall at several cutoffs, by sigmoids, and the
  // normalized discounted cumulative gain.
  m.def(
      "counted_recall(Tensor scores, Tensor levels, int num_levels, int[] kinds, "
      "float[] parameters, str method, float[] cutoffs, float temperature, bool clip, "
      "bool wants_gradient) -> (Tensor, Tensor)");
  m.def(
      "counted_ndcg(Tensor scores, Tensor levels, int num_levels, int[] kinds, "
      "float[] parameters, str method, bool wants_gradient) -> (Tensor, Tensor)");

  m.def("hard_rank(Tensor scores, Tensor? mask, bool normalize, str ties) -> Tensor");

  m.def("soft_rank(Tensor scores, Tensor? mask, float lam, bool normalize, str method) -> Tensor");
  m.def(
      "soft_rank_backward(Tensor grad, Tensor scores, Tensor? mask, float lam, bool normalize, "
      "str method) -> Tensor");
  m.def(
      "soft_rank_double_backward(Tensor grad_grad, Tensor grad, Tensor scores, Tensor? mask, "
      "float lam, bool normalize, str method) -> Tensor");

  // Rows and columns of the nonzero entries, row by row, and the offset of each row's first.
  m.def("find_marked(Tensor marks) -> (Tensor, Tensor, Tensor)");

  // Average precision (B) of every row from the rank counts of its items of level >= 1, and its
  // gradient (B, M), empty unless wanted. For targets of at least level `least`, the numerator
  // counts exactly, ties as `at_zero`; for the others it has a gradient if `soft`. Relevances are
  // (L) or (B, L), or by default level^alpha over the number of targets of that level.
  m.def(
      "graded_precision(Tensor scores, Tensor levels, int num_levels, int[] kinds, "
      "float[] parameters, str method, int least, float at_zero, Tensor? relevances, "
      "float alpha, bool soft, bool wants_gradient) -> (Tensor, Tensor)");

  // Sums (2) of how far positives miss one margin and negatives exceed another, and their counts
  // (2).
  m.def(
      "margin_excess(Tensor scores, Tensor positives, Tensor? mask, float pos_margin, "
      "float neg_margin) -> (Tensor, Tensor)");
  m.def(
      "margin_excess_backward(Tensor grad, Tensor scores, Tensor positives, Tensor? mask, "
      "float pos_margin, float neg_margin) -> Tensor");

  // Targets of all rows are concatenated: those of row b are columns[offsets[b]:offsets[b + 1]].
  // Kinds and parameters are those of three comparators, for items of a lower, the same and a
  // higher level.
  m.def(
      "rank_counts(Tensor scores, Tensor levels, Tensor columns, Tensor offsets, int num_levels, "
      "int[] kinds, float[] parameters, str method) -> Tensor");
  m.def(
      "rank_counts_tangent(Tensor tangent, Tensor scores, Tensor levels, Tensor columns, "
      "Tensor offsets, int num_levels, int[] kinds, float[] parameters, str method) -> Tensor");
  m.def(
      "rank_counts_backward(Tensor grad, Tensor scores, Tensor levels, Tensor columns, "
      "Tensor offsets, int num_levels, int[] kinds, float[] parameters, str method) -> Tensor");
  m.def(
      "rank_counts_double_backward(Tensor tangent, Tensor grad, Tensor scores, Tensor levels, "
      "Tensor columns, Tensor offsets, int num_levels, int[] kinds, float[] parameters, "
      "str method) -> Tensor");

  // The number of equal columns of labels (B, L) and item_labels (M, L), int64: (B, M) uint8.
  m.def("shared_labels(Tensor labels, Tensor item_labels) -> Tensor");

  m.def(
      "soft_histogram(Tensor scores, Tensor? levels, int num_levels, int bins, float low, "
      "float high) -> Tensor");
  m.def(
      "soft_histogram_backward(Tensor grad, Tensor scores, Tensor? levels, int num_levels, "
      "int bins, float low, float high) -> Tensor");
  m.def(
      "soft_histogram_tangent(Tensor tangent, Tensor scores, Tensor? levels, int num_levels, "
      "int bins, float low, float high) -> Tensor");

  // products: "full", "bf16" or "fp16". The saved tensor has an internal layout.
  m.def(
      "triton_bilstm_layer(Tensor input, Tensor[] weights, Tensor? head, bool saves, "
      "str products) -> (Tensor, Tensor)");
  m.def(
      "triton_bilstm_layer_backward(Tensor grad, Tensor input, Tensor[] weights, Tensor? head, "
      "Tensor? output, Tensor saved, bool wants_input, str products) -> (Tensor, Tensor, Tensor, "
      "Tensor)");
  // The same in CUDA C++, except "full" products; and the kernels that both of these run, which
  // write into the buffers described in csrc/cuda/bilstm.h.
  m.def(
      "cuda_bilstm_layer(Tensor input, Tensor[] weights, Tensor? head, bool saves, str products) "
      "-> (Tensor, Tensor)");
  m.def(
      "cuda_bilstm_layer_backward(Tensor grad, Tensor input, Tensor[] weights, Tensor? head, "
      "Tensor? output, Tensor saved, bool wants_input, str products) -> (Tensor, Tensor, Tensor, "
      "Tensor)");
  m.def(
      "cuda_bilstm_steps(Tensor entering, Tensor[] weights, Tensor? head, Tensor(a!) output, "
      "Tensor(b!)? saved, bool bf16) -> ()");
  m.def(
      "cuda_bilstm_steps_backward(Tensor grad, Tensor[] weights, Tensor? head, Tensor saved, "
      "Tensor? largest, Tensor(a!)? by_scores, Tensor(b!)? gates, Tensor(c!)? scale, bool bf16) "
      "-> ()");

  // Channels last, (..., positions, channels). Each block has 7 parameters: weight (out, in, taps),
  // bias, mean, variance, gain and shift of its normalization, slope; two paddings; the eps added
  // to the variance; and whether it ends in a ReLU. The second output is the signs of every
  // activation's inputs, (..., bytes), empty unless saved. Backward and tangent are linear in their
  // first argument, each the other's transpose.
  m.def(
      "triton_conv_stack(Tensor input, Tensor?[] parameters, int[] paddings, float[] eps, "
      "bool[] relus, bool saves, bool tf32) -> (Tensor, Tensor)");
  m.def(
      "triton_conv_stack_backward(Tensor grad, Tensor signs, Tensor?[] parameters, "
      "int[] paddings, float[] eps, bool[] relus, bool tf32) -> Tensor");
  m.def(
      "triton_conv_stack_tangent(Tensor tangent, Tensor signs, Tensor?[] parameters, "
      "int[] paddings, float[] eps, bool[] relus, bool tf32) -> Tensor");

  m.def(
      "triton_soft_rank(Tensor scores, Tensor? mask, float lam, bool normalize, str method) "
      "-> Tensor");
  m.def(
      "triton_soft_rank_backward(Tensor grad, Tensor scores, Tensor? mask, float lam, "
      "bool normalize, str method) -> Tensor");
  m.def(
      "triton_soft_rank_double_backward(Tensor grad_grad, Tensor grad, Tensor scores, "
      "Tensor? mask, float lam, bool normalize, str method) -> Tensor");

  m.def(
      "triton_soft_histogram(Tensor scores, Tensor? levels, int num_levels, int bins, float low, "
      "float high) -> Tensor");
  m.def(
      "triton_soft_histogram_backward(Tensor grad, Tensor scores, Tensor? levels, "
      "int num_levels, int bins, float low, float high) -> Tensor");
  m.def(
      "triton_soft_histogram_tangent(Tensor tangent, Tensor scores, Tensor? levels, "
      "int num_levels, int bins, float low, float high) -> Tensor");

  m.def(
      "triton_rank_counts(Tensor scores, Tensor levels, Tensor columns, Tensor offsets, "
      "int num_levels, int[] kinds, float[] parameters, str method) -> Tensor");
  m.def(
      "triton_rank_counts_tangent(Tensor tangent, Tensor scores, Tensor levels, Tensor columns, "
      "Tensor offsets, int num_levels, int[] kinds, float[] parameters, str method) -> Tensor");
  m.def(
      "triton_rank_counts_backward(Tensor grad, Tensor scores, Tensor levels, Tensor columns, "
      "Tensor offsets, int num_levels, int[] kinds, float[] parameters, str method) -> Tensor");
  m.def(
      "triton_rank_counts_double_backward(Tensor tangent, Tensor grad, Tensor scores, "
      "Tensor levels, Tensor columns, Tensor offsets, int num_levels, int[] kinds, "
      "float[] parameters, str method) -> Tensor");
}
