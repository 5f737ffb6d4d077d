"""SoDeep's handcrafted sorter: the pairwise sigmoid rank as a module."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from sodeep_fast._checks import check_choice, check_mask, check_positive, check_scores
from sodeep_fast.ops._backend import BACKENDS, METHODS
from sodeep_fast.ops.soft_rank import soft_rank


class HandcraftedSorter(nn.Module):
    """Ranks scores by comparing all pairs with a sigmoid of steepness `lam`.

    SoDeep (Engilberge et al., CVPR 2019), section 4.1.2, eq. (11) and (12), plus one. The module
    form of `soft_rank`.

    Scores much further apart than 1 / lam get their exact ranks and no gradient. With lam 10, of
    1000 normal scores a third have a gradient at a standard deviation of 1000, nine tenths at 100,
    and all at 1. Rescale the scores, or lam by the inverse factor; or use `EquivariantSorter`,
    which does not depend on the scale.

    Arguments:
        lam: steepness, per unit of score, positive. Default: 10, as in the paper.
        normalize: divide the ranks by n (by the number of valid entries of a masked row), the scale
            of the paper's Table 1. Default: True.
        learnable: make the logarithm of lam a parameter, `log_lam`, so that lam stays positive
            under any optimiser. Default: False (no parameters).
        method, backend: as in `soft_rank`.

    Raises:
        TypeError: lam is not a number.
        ValueError: lam is not positive and finite, or an unknown method or backend.

    Example:
        >>> import torch, sodeep_fast
        >>> sorter = sodeep_fast.HandcraftedSorter()
        >>> sorter(torch.tensor([0.3, 0.9, -1.0, -2.0]))
        tensor([0.4994, 0.2506, 0.7500, 1.0000])
        >>> sorter
        HandcraftedSorter(lam=10, normalize=True)
    """

    def __init__(
        self,
        lam: float = 10.0,
        normalize: bool = True,
        learnable: bool = False,
        method: str = "auto",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_positive(lam, "lam")
        check_choice(method, METHODS, "method")
        check_choice(backend, BACKENDS, "backend")
        self._lam = float(lam)
        self.normalize = normalize
        self.method = method
        self.backend = backend
        # Not a scalar, which FSDP cannot shard.
        self.log_lam = nn.Parameter(torch.tensor([math.log(lam)])) if learnable else None

    @property
    def lam(self) -> float:
        """The current steepness."""
        if self.log_lam is None or self.log_lam.is_meta:
            return self._lam
        return math.exp(self.log_lam.item())

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns the ranks of `scores`.

        Arguments:
            scores: (..., n) float16, bfloat16, float32 or float64; each row is ranked
                independently.
            mask: (..., n) bool, True where valid; other entries are ignored and get rank 0.

        Returns:
            (..., n) ranks, 1 (or 1 / n) for the largest; float64 for float64 scores and float32
            otherwise.

        Raises:
            TypeError: scores that are not floating point, or a mask that is not bool.
            ValueError: a scalar tensor, or a mask of a different shape or device.
        """
        if self.log_lam is None:
            return soft_rank(
                scores,
                self._lam,
                mask=mask,
                normalize=self.normalize,
                method=self.method,
                backend=self.backend,
            )
        check_scores(scores)
        check_mask(mask, scores)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if mask is not None:
            # An infinite score times its zero gradient would make the gradient of lam NaN.
            scores = scores.masked_fill(~mask, 0)
        return soft_rank(
            scores * self.log_lam.to(scores.dtype).exp(),
            1.0,
            mask=mask,
            normalize=self.normalize,
            method=self.method,
            backend=self.backend,
        )

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the initial steepness."""
        return {
            "lam": self._lam,
            "normalize": self.normalize,
            "learnable": self.log_lam is not None,
            "method": self.method,
            "backend": self.backend,
        }

    def extra_repr(self) -> str:
        """Returns the arguments, the last three only where they are not the defaults."""
        text = f"lam={self.lam:.6g}, normalize={self.normalize}"
        if self.log_lam is not None:
            text += ", learnable=True"
        for name in ("method", "backend"):
            if getattr(self, name) != "auto":
                text += f", {name}={getattr(self, name)!r}"
        return text
