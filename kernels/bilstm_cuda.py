"""One layer of a bidirectional LSTM by the CUDA C++ kernels of csrc/cuda/bilstm.cu."""

import functools

import torch
from torch import Tensor

from sodeep_fast.kernels import _lstm_layer

OPS = torch.ops.sodeep_fast


class _Layer(_lstm_layer.Layer):
    takes_head = True

    def run(
        self, entering: Tensor, head: Tensor | None, output: Tensor, saved: Tensor | None
    ) -> None:
        """Runs all steps, from scores or, with several features, from their products by gate."""
        OPS.cuda_bilstm_steps(entering, self.weights, head, output, saved, self.products == "bf16")

    def run_backward(
        self, grad: Tensor, head: Tensor | None, saved: Tensor, *buffers: Tensor | None
    ) -> None:
        """Runs all steps backwards."""
        bf16 = self.products == "bf16"
        OPS.cuda_bilstm_steps_backward(grad, self.weights, head, saved, *buffers, bf16)


bilstm_layer = functools.partial(_lstm_layer.forward, _Layer)
bilstm_layer_backward = functools.partial(_lstm_layer.backward, _Layer)
