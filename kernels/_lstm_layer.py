"""One layer of a bidirectional LSTM on a GPU, around the kernels that run its steps.

The kernels run the sequential steps. PyTorch computes the products over all steps: those of inputs
with several features before them, and those of the gates' gradients after them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sodeep_fast.kernels import _layouts
from sodeep_fast.kernels._precisions import DTYPES


def _product(left: Tensor, right: Tensor, products: str) -> Tensor:
    """Returns the matrix product in float32, multiplied as `products` says."""
    dtype = DTYPES[products]
    left, right = left.to(dtype), right.to(dtype)
    if dtype != torch.float32 and left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


class Layer:
    """One call: the arguments that both passes share, and the computations around the steps."""

    # Whether the kernels multiply with a head, [2, hidden]; otherwise PyTorch does.
    takes_head = False

    def __init__(self, input: Tensor, weights: Sequence[Tensor], products: str) -> None:
        self.steps, self.batch, self.features = input.shape
        self.hidden = weights[1].shape[1]
        gates = 4 * self.hidden
        shapes = ((gates, self.features), (gates, self.hidden), (gates,), (gates,))
        if [tuple(weight.shape) for weight in weights] != [*shapes, *shapes]:
            raise ValueError(f"weights must be two directions' of shapes {shapes}")
        self.input = input.float()
        self.weights = [weight.contiguous() for weight in weights]
        self.products = products

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns memory for a result, on the device of the input."""
        return torch.empty(shape, dtype=dtype, device=self.input.device)

    def of_both(self, which: int) -> tuple[Tensor, Tensor]:
        """Returns one of the four weights, of both directions."""
        return self.weights[which], self.weights[4 + which]

    def run(
        self, entering: Tensor, head: Tensor | None, output: Tensor, saved: Tensor | None
    ) -> None:
        """Runs all steps, from scores or, with several features, from their products by gate.

        Writes the hidden states or, with a head, each direction's products with it.
        """
        raise NotImplementedError  # abstract: every kind has its own

    def run_backward(
        self,
        grad: Tensor,
        head: Tensor | None,
        saved: Tensor,
        largest: Tensor | None,
        by_scores: Tensor | None,
        gates: Tensor | None,
        scale: Tensor | None,
    ) -> None:
        """Runs all steps backwards, and writes either `by_scores` or `gates`.

        Given `largest`, the largest of each row's gradient, it divides the gates' gradients by a
        scale, which it writes too.
        """
        raise NotImplementedError  # abstract: every kind has its own

    def forward(self, head: Tensor | None, saves: bool) -> tuple[Tensor, Tensor]:
        """Returns the hidden states, or their products with a head, and what the backward reads."""
        sizes = (self.steps, self.batch)
        output = self.empty(*sizes, 2 * self.hidden) if head is None else self.empty(2, *sizes)
        half = self.products != "full"
        saved = self.empty(
            *_layouts.lstm_saved_shape(self.steps if saves else 0, self.batch, self.hidden),
            dtype=torch.float16 if half else torch.float32,
        )
        if output.numel() > 0:
            entering = self.input
            if self.features > 1:
                rows = entering.reshape(-1, self.features)
                entering = _product(rows, torch.cat(self.of_both(0)).t(), self.products)
                entering = entering.view(self.steps, self.batch, -1)
            self.run(entering, head, output, saved if saves else None)
        return output, saved

    def backward(
        self,
        grad: Tensor,
        head: Tensor | None,
        output: Tensor | None,
        saved: Tensor,
        wants_input: bool,
    ) -> tuple[Tensor, ...]:
        """Returns the gradients of the input and of the weights."""
        steps, batch = self.steps, self.batch
        scale = largest = None
        grad = grad.float().contiguous()
        if self.products == "fp16":
            if head is None:
                largest = torch.linalg.vector_norm(grad, float("inf"), dim=(0, 2))
            else:
                of_head = torch.linalg.vector_norm(head, float("inf"), dim=1)
                by_direction = torch.linalg.vector_norm(grad, float("inf"), dim=1)
                largest = (by_direction * of_head[:, None]).amax(0)
            scale = self.empty(batch)
        if output is None and self.features == 1:
            by_scores = self.empty(2, steps, batch, 1)
            self.run_backward(grad, head, saved, largest, by_scores, None, scale)
            return by_scores, *self.no_weights(0)
        # The gates' gradients, needed for the weights, also give the gradient of the scores.
        gates = self.empty(steps, batch, 8 * self.hidden, dtype=DTYPES[self.products])
        self.run_backward(grad, head, saved, largest, None, gates, scale)
        for_input = self.empty(1, 0, batch, self.features)
        if wants_input:
            rows = gates.view(-1, 8 * self.hidden)
            for_input = _product(rows, torch.cat(self.of_both(0)), self.products)
            for_input = for_input.view(1, steps, batch, self.features)
            if scale is not None:
                for_input *= scale[:, None]
        if output is None:
            return for_input, *self.no_weights(0)
        return for_input, *self.weight_gradients(gates, scale, output)

    def no_weights(self, gates: int) -> tuple[Tensor, ...]:
        """Returns the weights' gradients as zeros: `gates` rows, or none if they are not wanted."""
        device = self.input.device
        shapes = ((2, gates, self.features), (2, gates, self.hidden), (2, gates))
        return tuple(torch.zeros(shape, device=device) for shape in shapes)

    def weight_gradients(
        self, gates: Tensor, scale: Tensor | None, output: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns the gradients of the weights from those of the gates of all steps."""
        common = None
        if scale is not None:
            # One scale for all rows; what it rounds to 0 is negligible beside the other rows.
            common = scale.max()
            gates = gates * (scale / common).to(gates.dtype)[:, None]
        gates = gates.view(self.steps, self.batch, 2, 4 * self.hidden)
        # The scores are never rounded.
        products = "full" if self.features == 1 else self.products
        rows = self.input.reshape(-1, self.features)
        for_input, recurrent = [], []
        for d in range(2):
            own = gates[:, :, d].reshape(-1, 4 * self.hidden)
            for_input.append(_product(own.t(), rows, products))
            # The hidden states of the step before, in the direction's own order.
            now, before = (slice(-1), slice(1, None)) if d else (slice(1, None), slice(-1))
            own = gates[now, :, d].reshape(-1, 4 * self.hidden)
            states = output[before, :, d * self.hidden : (d + 1) * self.hidden]
            states = states.reshape(-1, self.hidden)
            recurrent.append(_product(own.t(), states, self.products))
        biases = gates.sum((0, 1), dtype=torch.float32)
        found = torch.stack(for_input), torch.stack(recurrent), biases
        return found if common is None else tuple(value * common for value in found)


def forward(
    kind: type[Layer],
    input: Tensor,
    weights: Sequence[Tensor],
    head: Tensor | None,
    saves: bool,
    products: str,
) -> tuple[Tensor, Tensor]:
    """Implements `triton_bilstm_layer` and `cuda_bilstm_layer`, with a kind for each."""
    if head is not None:
        head = head.float().view(2, -1)
    output, saved = kind(input, weights, products).forward(head if kind.takes_head else None, saves)
    if head is not None and not kind.takes_head:
        by_direction = output.view(*input.shape[:2], 2, -1) * head
        output = by_direction.sum(-1).movedim(-1, 0).contiguous()
    return output, saved


def backward(
    kind: type[Layer],
    grad: Tensor,
    input: Tensor,
    weights: Sequence[Tensor],
    head: Tensor | None,
    output: Tensor | None,
    saved: Tensor,
    wants_input: bool,
    products: str,
) -> tuple[Tensor, ...]:
    """Implements `triton_bilstm_layer_backward` and `cuda_bilstm_layer_backward`."""
    layer = kind(input, weights, products)
    if head is not None:
        head = head.float().view(2, -1)
        if not kind.takes_head:
            grad = (grad.float().movedim(0, -1).unsqueeze(-1) * head).flatten(-2)
            head = None
    if grad.numel() == 0:
        directions = 2 if output is None and layer.features == 1 else 1
        steps = layer.steps if wants_input else 0
        for_input = layer.empty(directions, steps, layer.batch, layer.features)
        return for_input, *layer.no_weights(0 if output is None else 4 * layer.hidden)
    if output is None and not wants_input:
        directions = 2 if layer.features == 1 else 1
        return layer.empty(directions, 0, layer.batch, layer.features), *layer.no_weights(0)
    if saved.numel() == 0:
        saved = layer.forward(head, True)[1]
    return layer.backward(grad, head, output, saved, wants_input)
