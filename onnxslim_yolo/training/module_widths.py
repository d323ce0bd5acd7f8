"""A module of other people's code, narrowed in place: its tensors replaced, and what it says of its widths set anew.

A module's code is left alone. What it reads of widths stands in attributes: those of `torch.nn`'s layers
(`in_channels`, `groups` …), and a few of the blocks around them. Of the latter there are three kinds, told by what they
are, not by their classes' names:

1. `c` beside `cv1`: half of what `cv1` gives, or all of it;
2. attention: `num_heads` is told (see `heads_left`) or stays, `head_dim` follows from what `proj` takes (its
   values), `key_dim` from what is left of `qkv`. Where the code takes its scale from `head_dim` instead of keeping it,
   the queries make up for the change;
3. `c1`, `c2`, `dim` of blocks with two branches: what their first convolution takes and gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxslim_yolo.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

HINT = "compile the checkpoint with --emit ultralytics, which keeps equal what its code takes for equal"


def narrow(
    module: nn.Module, tensors: Mapping[str, Tensor], *, heads: Mapping[str, int] | None = None, scaled: bool = False
) -> None:
    """Give a module narrower tensors, by their state_dict keys. Biases that it lacks are added.

    Args:
        heads: how many each attention is left with, by its path; of others all stay.
        scaled: the tensors are those of a module that has been narrowed: its queries make up for their scale already.

    Raises:
        InputError: a tensor is missing, or the widths are none that the module's code can have.
    """
    before = {name: _width(part) for name, part in module.named_modules()}
    for path, part in module.named_modules():
        _replace(part, f"{path}." if path else "", tensors)
        _settle_leaf(part)
    for path, part in module.named_modules():
        _settle_halves(part, path, before)
        _settle_attention(part, path, (heads or {}).get(path), scaled=scaled)
        _settle_branches(part)


def heads_left(module: nn.Module, cuts: Mapping[str, Mapping[str, list[int]]]) -> dict[str, int]:
    """How many heads of each attention in a full-width module keep rows of its `qkv`, by the attention's path.

    Args:
        cuts: per layer and axis of its weight, the indices that stay.
    """
    found: dict[str, int] = {}
    for path, part in module.named_modules():
        heads, qkv = getattr(part, "num_heads", None), getattr(part, "qkv", None)
        if not isinstance(heads, int) or qkv is None:
            continue
        name, convolution = _convolution(qkv)
        kept = cuts.get(f"{path}.qkv{name}".lstrip("."), {}).get("0")
        if kept is not None:
            found[path] = len({row * heads // _width(convolution) for row in kept})
    return found


def _width(part: nn.Module) -> int:
    """What a layer gives, in channels; 0 for what is no convolution."""
    return int(getattr(part, "out_channels", 0))


def _replace(part: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    from torch import nn

    for name, old in list(part._parameters.items()):
        key = f"{prefix}{name}"
        if old is None and (name != "bias" or key not in tensors):
            continue
        if key not in tensors:
            raise InputError("the plan and the checkpoint say nothing of it", node=key, hint=HINT)
        grad = True if old is None else old.requires_grad
        part._parameters[name] = nn.Parameter(tensors[key].clone(), requires_grad=grad)
    for name, held in list(part._buffers.items()):
        key = f"{prefix}{name}"
        if held is not None and name not in part._non_persistent_buffers_set:
            part._buffers[name] = tensors[key].clone().to(held.dtype)


def _settle_leaf(part: Any) -> None:
    """A layer's own numbers, from its tensors."""
    from torch import nn

    if isinstance(part, (nn.Conv2d, nn.Conv1d)):
        each = part.out_channels // part.groups
        if 1 < part.groups == part.in_channels:
            part.groups = int(part.weight.shape[0]) // each
        part.out_channels, part.in_channels = int(part.weight.shape[0]), int(part.weight.shape[1]) * part.groups
    elif isinstance(part, (nn.ConvTranspose2d, nn.ConvTranspose1d)):
        if 1 < part.groups == part.in_channels:
            part.groups = int(part.weight.shape[0])
        part.in_channels, part.out_channels = int(part.weight.shape[0]), int(part.weight.shape[1]) * part.groups
    elif isinstance(part, nn.Linear):
        part.out_features, part.in_features = (int(dim) for dim in part.weight.shape)
    elif isinstance(part, nn.modules.batchnorm._NormBase) and part.running_mean is not None:
        part.num_features = int(part.running_mean.shape[0])
    elif isinstance(part, nn.LayerNorm):
        part.normalized_shape = tuple(int(dim) for dim in part.weight.shape)


def _convolution(part: Any) -> tuple[str, Any]:
    """The convolution of a layer, and its name in it: of a Conv-and-norm block, or the layer itself."""
    inner = getattr(part, "conv", None)
    return (".conv", inner) if inner is not None and hasattr(inner, "out_channels") else ("", part)


def _settle_halves(part: Any, path: str, before: Mapping[str, int]) -> None:
    first = getattr(part, "cv1", None)
    if not isinstance(getattr(part, "c", None), int) or first is None:
        return
    name, convolution = _convolution(first)
    was, now = before.get(f"{path}.cv1{name}".lstrip("."), 0), _width(convolution)
    if was == 2 * part.c:
        if now % 2:
            raise InputError(f"its cv1 is left with {now} channels, which its code cannot halve", node=path, hint=HINT)
        part.c = now // 2
    elif was == part.c:
        part.c = now


def _settle_attention(part: Any, path: str, left: int | None, *, scaled: bool) -> None:
    heads, old = getattr(part, "num_heads", None), getattr(part, "head_dim", None)
    if not isinstance(heads, int) or not isinstance(old, int) or not hasattr(part, "qkv") or not hasattr(part, "proj"):
        return
    part.num_heads = heads = heads if left is None else left
    values, all_of = int(_convolution(part.proj)[1].in_channels), _width(_convolution(part.qkv)[1])
    rest = all_of - values
    if values % heads or rest % (2 * heads):
        raise InputError(
            f"its {heads} heads are left with {values} values and {rest} queries and keys, which do not share evenly",
            node=path,
            hint=HINT,
        )
    part.head_dim = values // heads
    if hasattr(part, "key_dim"):
        part.key_dim = rest // heads // 2
    elif rest != 2 * values:
        raise InputError("its queries, keys and values are left unequally wide", node=path, hint=HINT)
    if hasattr(part, "all_head_dim"):
        part.all_head_dim = values
    if not hasattr(part, "scale") and part.head_dim != old and not scaled:
        _scale_queries(part, heads, (part.head_dim / old) ** 0.5)


def _scale_queries(part: Any, heads: int, by: float) -> None:
    """Multiply the queries, which come first in every head's rows."""
    import torch

    inner = _convolution(part.qkv)[1]
    norm = getattr(part.qkv, "bn", None)
    makers = [inner.weight, inner.bias] if norm is None else [norm.weight, norm.bias]
    with torch.no_grad():
        for tensor in makers:
            if tensor is not None:
                tensor.view(heads, -1, *tensor.shape[1:])[:, : part.head_dim] *= by


def _settle_branches(part: Any) -> None:
    first = getattr(part, "conv1", None)
    if first is not None and all(isinstance(getattr(part, name, None), int) for name in ("c1", "c2")):
        inner = _convolution(first)[1]
        part.c1, part.c2 = inner.in_channels, inner.out_channels
    if isinstance(getattr(part, "dim", None), int) and hasattr(part, "conv") and hasattr(part.conv, "conv"):
        part.dim = part.conv.conv.out_channels
