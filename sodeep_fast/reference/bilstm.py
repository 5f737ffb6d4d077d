"""The bidirectional LSTM over scalar sequences, step by step as its equations read."""

from collections.abc import Sequence

import torch
from torch import Tensor


def bilstm(scores: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Returns the hidden states (b, n, 2 hidden) of the last layer for scores (b, n).

    Same arguments as `sodeep_fast.bilstm`. Graves & Schmidhuber (2005), in the form of
    `torch.nn.LSTM`, from states of zero: with [z_i, z_f, z_g, z_o] = W x_t + b + V h_{t-1} + d,

        c_t = sigmoid(z_f) c_{t-1} + sigmoid(z_i) tanh(z_g),    h_t = sigmoid(z_o) tanh(c_t).
    """
    sequence = scores.unsqueeze(-1).to(weights[0].dtype)
    for layer in range(len(weights) // 8):
        first, second = weights[8 * layer : 8 * layer + 4], weights[8 * layer + 4 : 8 * layer + 8]
        forward = _one_direction(sequence, *first)
        backward = _one_direction(sequence.flip(1), *second).flip(1)
        sequence = torch.cat([forward, backward], dim=-1)
    return sequence


def _one_direction(
    sequence: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> Tensor:
    """The hidden states (b, n, hidden) of one direction of one layer for inputs (b, n, width)."""
    hidden = cell = sequence.new_zeros(sequence.shape[0], weight_hh.shape[1])
    states = []
    for x in sequence.unbind(1):
        i, f, g, o = (x @ weight_ih.T + bias_ih + hidden @ weight_hh.T + bias_hh).chunk(4, dim=-1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        states.append(hidden)
    if not states:
        return sequence.new_zeros(*sequence.shape[:2], weight_hh.shape[1])
    return torch.stack(states, dim=1)
