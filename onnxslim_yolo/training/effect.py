"""Which channels matter least while training: what sparsity training with a `target` pushes.

What a channel matters is the running mean of its squared first-order effect on the loss,

    t = Σ over its BatchNorms of  γ·∂L/∂γ + β·∂L/∂β

(Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", eq. 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxslim_yolo.training.scope import summed

if TYPE_CHECKING:
    from torch import Tensor

MEMORY = 0.98
"""Of the running mean of effects: some fifty steps."""

FLOOR = 0.1
"""Share of every BatchNorm's channels, those that matter most, that `target` never pushes: no layer collapses."""


class RunningEffects:
    """The running mean of every coupled channel's squared effect, and the ranking by it.

    Attributes:
        mean: shape (γ of all BatchNorms,), those of one coupled channel equal; None before the first `update`.
    """

    def __init__(self, gammas: Sequence[Tensor], betas: Sequence[Tensor], coupling: Tensor | None) -> None:
        """`coupling` is a number per γ (see `coupling_numbers`)."""
        self._gammas, self._betas, self._coupling = gammas, betas, coupling
        self.mean: Tensor | None = None

    def update(self) -> None:
        """Count this step's gradients."""
        import torch

        effects = [
            torch.zeros_like(gamma)
            if gamma.grad is None or beta.grad is None
            else gamma * gamma.grad + beta * beta.grad
            for gamma, beta in zip(self._gammas, self._betas, strict=True)
        ]
        squares = summed(torch.cat(effects), self._coupling).square()
        self.mean = squares if self.mean is None else torch.lerp(squares, self.mean.to(squares.device), MEMORY)

    def least(self, share: float, size: Tensor) -> Tensor:
        """1 where a γ belongs to this share, else 0: by effect, and where that is equal by size. Shapes as `mean`."""
        import torch

        if self.mean is None:
            raise ValueError("no step has been counted yet")
        effect = self.mean
        by_size = size.argsort()
        order = by_size[effect[by_size].argsort(stable=True)]
        rank = torch.zeros_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        pushed = (rank < int(share * len(order))).to(effect.dtype)
        start = 0
        for gamma in self._gammas:
            stop = start + len(gamma)
            spared = rank[start:stop].argsort(descending=True)[: max(1, round(FLOOR * len(gamma)))]
            pushed[start + spared] = 0
            start = stop
        if self._coupling is not None:  # what is spared in one layer is spared in those tied to it
            index = self._coupling.to(effect.device)
            least = torch.ones(int(index.max()) + 1, dtype=effect.dtype, device=effect.device)
            pushed = least.scatter_reduce_(0, index, pushed, "amin")[index]
        return pushed
