"""BatchNorms' statistics, estimated again on images: pruning moves what they were taken of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

    Network = TypeVar("Network", bound=nn.Module)


def re_estimated(module: Network, images: Callable[[], Iterable[Tensor]]) -> Network | None:
    """A copy whose BatchNorms have the mean and variance of the images, batches averaged; None where it has none."""
    import torch
    from torch import nn

    copied = copy.deepcopy(module).eval()
    norms = [part for part in copied.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return None
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average
        norm.train()
    with torch.no_grad():
        for batch in images():
            copied(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return copied.eval()
