"""A sorter that keeps learning from the scores it is given."""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sodeep_fast._checks import check_count, check_positive
from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.sorters.protocol import relative_ranks


class OnlineSorter(nn.Module):
    """Fine-tunes a learned sorter on the scores it really sees.

    As a model learns, its scores drift away from those its sorter was trained on. SoDeep
    (Engilberge et al., CVPR 2019), sections 3.1.2 and 3.2.1, therefore trains the sorter along with
    the model. In training mode, every call keeps its scores; `update()`, called after the backward
    pass, takes one step of Adam to reduce the mean absolute difference between the sorter's ranks
    of these scores and the exact ones:

        loss(model(inputs), targets).backward()
        optimizer.step()
        sorter.update()

    The sorter's weights are trained on that difference only. They require no gradient, so the loss
    does not reach them, and an optimiser of the loss module's parameters leaves them unchanged. To
    train them on the loss instead, make the sorter trainable, and do not use this class.

    `state_dict` includes Adam's state, so that a run can be resumed (not by
    torch.distributed.checkpoint, which fills only entries that exist). `save_sorter` takes only the
    inner sorter, the attribute `sorter`. Each process of DistributedDataParallel trains its own
    copy, on its own scores.

    Arguments:
        sorter: a learned sorter, such as `LSTMSorter`; its weights will require no gradients.
        lr: the learning rate of Adam. Default: 1e-5, as in the released program.
        keep: how many rows of scores to keep between updates, the latest ones; those of the last
            call are always kept. Default: 4096.

    Raises:
        TypeError: a sorter that is not a module, or an argument that should be a number and is not.
        ValueError: a sorter without parameters, a learning rate that is not positive, or `keep`
            below 1.

    Example:
        >>> import torch, sodeep_fast
        >>> sorter = sodeep_fast.OnlineSorter(sodeep_fast.LSTMSorter(8), lr=1e-3)
        >>> loss, targets = sodeep_fast.SpearmanLoss(sorter), torch.randn(4, 20)
        >>> for _ in range(3):
        ...     loss(torch.randn(4, 20, requires_grad=True), targets).backward()
        ...     error = sorter.update()  # as it was before the step
    """

    def __init__(self, sorter: nn.Module, lr: float = 1e-5, keep: int = 4096) -> None:
        super().__init__()
        if not isinstance(sorter, nn.Module):
            raise TypeError(f"sorter must be a torch.nn.Module, got {type(sorter).__name__}")
        if not any(True for _ in sorter.parameters()):
            raise ValueError(
                f"sorter must have parameters to train, {type(sorter).__name__} has none"
            )
        check_positive(lr, "lr")
        check_count(keep, "keep")
        self.sorter = sorter.requires_grad_(False)
        self.keep = keep
        self.optimizer = torch.optim.Adam(sorter.parameters(), lr)
        self._seen: deque[tuple[Tensor, Tensor | None]] = deque()
        self._loaded: dict[str, Any] | None = None
        self.register_load_state_dict_post_hook(OnlineSorter._finish_loading)

    def get_extra_state(self) -> dict[str, Any]:
        """Returns Adam's state, which `state_dict` keeps beside the sorter's weights."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes Adam's state from a `state_dict`."""
        self._loaded = state

    def _finish_loading(self, _: Any) -> None:
        """Gives Adam its state, once the parameters whose dtype and device it takes are loaded."""
        self._follow_parameters()
        if self._loaded is not None:
            self.optimizer.load_state_dict(self._loaded)
            self._loaded = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "OnlineSorter":
        """Converts Adam's moments along with the weights, whose dtype and device they share."""
        super()._apply(fn, recurse)
        for state in self.optimizer.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = fn(state[name])
        return self

    def _follow_parameters(self) -> None:
        """Hands Adam the sorter's parameters where loading or conversion has replaced them."""
        now = list(self.sorter.parameters())
        (group,) = self.optimizer.param_groups
        if all(old is new for old, new in zip(group["params"], now, strict=True)):
            return
        kept = self.optimizer.state_dict()
        group["params"] = now
        self.optimizer.state.clear()
        self.optimizer.load_state_dict(kept)

    @property
    def normalize(self) -> bool:
        """Whether the sorter's ranks are divided by n."""
        return getattr(self.sorter, "normalize", True)

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns the sorter's ranks of scores (..., n), and keeps the scores in training mode.

        Arguments:
            scores: (..., n) as the sorter takes them.
            mask: (..., n) bool, True where valid, for a sorter that takes one. Default: all valid.
        """
        ranks: Tensor = self.sorter(scores) if mask is None else self.sorter(scores, mask=mask)
        if self.training and scores.numel() > 0:
            rows = torch.atleast_2d(scores.detach()).flatten(0, -2)
            valid = None if mask is None else torch.atleast_2d(mask).flatten(0, -2).clone()
            # Zeros where masked, as such scores may be anything.
            rows = rows.clone() if valid is None else rows.masked_fill(~valid, 0)
            self._seen.append((rows, valid))
            while sum(len(rows) for rows, _ in self._seen) > self.keep and len(self._seen) > 1:
                self._seen.popleft()
        return ranks

    @torch.enable_grad()
    def update(self) -> float | None:
        """Takes one step on the scores kept since the last update, and forgets them.

        Call it after the backward pass of the loss: it changes the weights in place, and PyTorch
        raises an error if a backward pass still needs the old ones. Rows with a non-finite score
        are left out.

        Returns:
            The mean absolute difference between the sorter's ranks / n and the exact ones before
            the step, where tied scores share their average rank; None if no finite scores were
            kept.
        """
        if not self._seen:
            return None
        batches: dict[tuple[int, bool], tuple[list[Tensor], list[Tensor]]] = {}
        for rows, mask in self._seen:
            finite = rows.isfinite().all(-1)
            if mask is not None:
                finite &= mask.any(-1)
            if not finite.any():
                continue
            alike = batches.setdefault((rows.shape[-1], mask is None), ([], []))
            alike[0].append(rows[finite])
            if mask is not None:
                alike[1].append(mask[finite])
        self._seen.clear()
        if not batches:
            return None
        self._follow_parameters()
        self.sorter.requires_grad_(True)
        try:
            differences = [
                self._differences(torch.cat(rows), torch.cat(masks) if masks else None)
                for rows, masks in batches.values()
            ]
            error = torch.cat(differences).abs().mean()
            self.optimizer.zero_grad()
            error.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        finally:
            self.sorter.requires_grad_(False)
        return error.item()

    def _differences(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the ranks / n of valid scores (b, n) less the exact ones, as one vector."""
        ranks = relative_ranks(self.sorter, rows, mask)
        found = ranks - hard_rank(rows, mask=mask, normalize=True)
        return found.flatten() if mask is None else found[mask]
