"""Which BatchNorms sparsity training pushes, and which of their channels go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ops.norms import is_batch_norm

if TYPE_CHECKING:
    from torch import Tensor, nn

Scope = Literal["all", "no-residual"] | Sequence[str]


def coupled_channels(model: nn.Module, example: Tensor) -> dict[str, Array]:
    """Which BatchNorm channels the compiler would have to remove together.

    Args:
        model: can be traced on `example`. Its weights and training flags are left alone.
        example: (b, c, h, w); only shapes matter.

    Returns:
        Per BatchNorm's name the number of each channel's coupled channel; -1 where it has none.
    """
    from onnxslim_yolo.analysis.channels import analyse_channels
    from onnxslim_yolo.ir.model import Model
    from onnxslim_yolo.load.trace import trace
    from onnxslim_yolo.passes import Canonicalise, ShuffleToGather

    graph = Model.from_onnx(trace(model, example))
    for step in (Canonicalise(), ShuffleToGather(), Canonicalise()):
        step.run(graph)
    suffix = ".weight"
    return {
        use.constant.name[: -len(suffix)]: use.labels
        for use in analyse_channels(graph.graph).uses
        if is_batch_norm(use.node) and use.index == 1 and use.constant.name.endswith(suffix)
    }


def norms_in_scope(model: nn.Module, scope: Scope) -> dict[str, Any]:
    """The BatchNorms to make sparse, by name. Raises UsageError if there is none, or a name is unknown."""
    from torch import nn

    norms = {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.affine
    }
    if scope == "no-residual":
        shortcuts = tuple(f"{name}." for name, part in model.named_modules() if getattr(part, "add", None) is True)
        norms = {name: part for name, part in norms.items() if not name.startswith(shortcuts)}
    elif scope != "all":
        wanted = [scope] if isinstance(scope, str) else list(scope)
        unknown = [name for name in wanted if name not in norms]
        if unknown:
            raise UsageError(f"scope: no BatchNorm is called '{unknown[0]}'", hint="all, no-residual, or module names")
        norms = {name: norms[name] for name in wanted}
    if not norms:
        raise UsageError("the model has no BatchNorm with γ in scope: nothing to make sparse")
    return norms


def coupling_numbers(norms: Mapping[str, Any], coupling: Mapping[str, Array] | None) -> Tensor | None:
    """One number per γ of the concatenation: its coupled channel, renumbered without gaps."""
    import torch

    if coupling is None:
        return None
    labels: list[Array] = []
    for name, norm in norms.items():
        own = np.asarray(coupling.get(name, np.full(len(norm.weight), -1)))
        if own.shape != (len(norm.weight),):
            raise UsageError(f"coupling: '{name}' has {len(norm.weight)} channels, given are {own.shape}")
        labels.append(own)
    flat = np.concatenate(labels).astype(np.int64)
    alone = flat < 0
    flat[alone] = flat.max(initial=0) + 1 + np.arange(int(alone.sum()))
    return torch.from_numpy(np.unique(flat, return_inverse=True)[1].reshape(-1))


def summed(flat: Tensor, coupling: Tensor | None) -> Tensor:
    """Each γ's value summed over its coupled channel, shape as `flat`; itself for channels on their own."""
    import torch

    if coupling is None:
        return flat
    index = coupling.to(flat.device)
    total = torch.zeros(int(index.max()) + 1, dtype=flat.dtype, device=flat.device)
    return total.index_add_(0, index, flat)[index]


def sizes(flat: Tensor, coupling: Tensor | None) -> Tensor:
    """Root mean square of each γ's coupled channel, shape as `flat`; |γ| for channels on their own."""
    import torch

    if coupling is None:
        return flat.abs()
    return (summed(flat.square(), coupling) / summed(torch.ones_like(flat), coupling)).sqrt()
