// Every operator schema of sodeep_fast. Implementations register beside their code: the CPU key in
// csrc/cpu, the CUDA key in csrc/cuda, the triton_* operators from Python.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(sodeep_fast, m) {
  m.def("cpu_capability() -> str");

  m.def("hard_rank(Tensor scores, Tensor? mask, bool normalize, str ties) -> Tensor");

  m.def("soft_rank(Tensor scores, Tensor? mask, float lam, bool normalize, str method) -> Tensor");
  m.def(
      "soft_rank_backward(Tensor grad, Tensor scores, Tensor? mask, float lam, bool normalize, "
      "str method) -> Tensor");
  m.def(
      "soft_rank_double_backward(Tensor grad_grad, Tensor grad, Tensor scores, Tensor? mask, "
      "float lam, bool normalize, str method) -> Tensor");

  // Targets of all rows one after the other: those of row b are columns[offsets[b]:offsets[b + 1]].
  // Kinds and parameters are three comparators', for items of a lower, the same and a higher level.
  m.def(
      "rank_counts(Tensor scores, Tensor levels, Tensor columns, Tensor offsets, int num_levels, "
      "int[] kinds, float[] parameters) -> Tensor");
  m.def(
      "rank_counts_tangent(Tensor tangent, Tensor scores, Tensor levels, Tensor columns, Tensor "
      "offsets, int num_levels, int[] kinds, float[] parameters) -> Tensor");
  m.def(
      "rank_counts_backward(Tensor grad, Tensor scores, Tensor levels, Tensor columns, Tensor "
      "offsets, int num_levels, int[] kinds, float[] parameters) -> Tensor");
  m.def(
      "rank_counts_double_backward(Tensor tangent, Tensor grad, Tensor scores, Tensor levels, "
      "Tensor columns, Tensor offsets, int num_levels, int[] kinds, float[] parameters) -> Tensor");

  m.def(
      "triton_soft_rank(Tensor scores, Tensor? mask, float lam, bool normalize, str method) -> "
      "Tensor");
  m.def(
      "triton_soft_rank_backward(Tensor grad, Tensor scores, Tensor? mask, float lam, bool "
      "normalize, str method) -> Tensor");
  m.def(
      "triton_soft_rank_double_backward(Tensor grad_grad, Tensor grad, Tensor scores, Tensor? "
      "mask, float lam, bool normalize, str method) -> Tensor");
}
