"""Rows of a YOLOv5 or YOLOv7 yaml that build their layer at its pruned widths, in the repository's own `train.py`.

There, `train.py --weights FILE` builds the network anew from the yaml in the checkpoint and takes over the tensors that
fit. Its parser evaluates every row's third entry in its own namespace and then computes that layer's arguments from
what the entry equals. So the row of a layer that was pruned names, instead of the class, an expression,

    __import__('onnxslim_yolo.training.repo_rows', fromlist=['Narrowed']).Narrowed(C3, {…})

which equals the class, is called with the arguments of the full width, and gives back the class's own module, narrowed.
Nothing of the repository is known here, and a checkpoint with such a yaml needs this package only to be trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Shape = Sequence[int | None]
"""A tensor's shape as pruned; None where an axis is as the class builds it: the classes may be other ones."""


class Narrowed:
    """Stands for a class of modules, and makes narrower ones.

    Args:
        kind: the class.
        shapes: per tensor that is cut, its shape; what else a layer has along its first axis follows its weight.
        gone: modules that were removed whole: identities.
        repeated: the row is a sequence of this class; the tensors' names begin with a position in it.
    """

    def __init__(
        self, kind: type[nn.Module], shapes: Mapping[str, Shape], gone: Sequence[str] = (), *, repeated: bool = False
    ) -> None:
        self._kind, self._shapes, self._gone, self._repeated = kind, dict(shapes), tuple(gone), repeated
        self._made = 0

    def __eq__(self, other: object) -> bool:
        return other is self or self._kind == other  # which may be one of these, of a network pruned twice

    def __hash__(self) -> int:
        return hash(self._kind)

    def __str__(self) -> str:
        return str(self._kind)  # the parser shows it

    def __call__(self, *arguments: Any, **named: Any) -> nn.Module:
        """The class's module for these arguments, narrowed."""
        prefix = f"{self._made}." if self._repeated else ""
        self._made += 1
        module = self._kind(*arguments, **named)
        take_out(module, _under(dict.fromkeys(self._gone), prefix))
        shapes = _under(self._shapes, prefix)
        cut = {key: _first(tensor, shape_of(key, tensor, shapes)) for key, tensor in module.state_dict().items()}
        for key, shape in shapes.items():
            if key not in cut and key.endswith(".bias"):  # what removed channels gave on average
                cut[key] = cut[f"{key[:-4]}weight"].new_zeros([int(dim or 0) for dim in shape])
        from onnxslim_yolo.training.module_widths import narrow

        narrow(module, cut)
        return module


def _under(named: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def shape_of(key: str, tensor: Any, shapes: Mapping[str, Shape]) -> list[int]:
    """How a tensor of the full width is cut: as it is listed, or, of one axis, as its layer's weight is."""
    full = [int(dim) for dim in tensor.shape]
    weight = f"{key.rpartition('.')[0]}.weight".removeprefix(".")
    listed = shapes.get(key)
    if listed is None and len(full) == 1 and weight in shapes:
        listed = shapes[weight][:1]
    return full if listed is None else [was if dim is None else dim for was, dim in zip(full, listed, strict=True)]


def _first(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """So many of the first along every axis, as the class has initialised them."""
    for axis, length in enumerate(shape):
        tensor = tensor.narrow(axis, 0, length)
    return tensor.clone()


def take_out(module: nn.Module, paths: Mapping[str, Any]) -> None:
    """Put an identity where a block was removed, in place."""
    from torch import nn

    for path in paths:
        holder, _, name = path.rpartition(".")
        (module.get_submodule(holder) if holder else module)._modules[name] = nn.Identity()


def row(kind: str, shapes: Mapping[str, Shape], gone: Sequence[str], *, repeated: bool) -> str:
    """The expression for a yaml. `kind`: how the yaml names the class."""
    held = {key: list(shape) for key, shape in shapes.items()}
    more = f", {list(gone)!r}" if gone else ""
    more += ", repeated=True" if repeated else ""
    return f"__import__('{__name__}', fromlist=['Narrowed']).Narrowed({kind}, {held!r}{more})"
