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
