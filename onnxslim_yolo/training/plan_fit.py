"""Whether a plan fits a state_dict: every width before cutting, and every one that cutting leaves, against the graph's.

A plan of version 2 says every initializer's shape before and after (`shapes`). One of version 1 says how wide each
layer is and stays (`groups`), which is checked where a layer's weight goes by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.origins import Shape

HINT = "apply a plan to the checkpoint that it was made from, before any fusing"

Shapes = dict[str, tuple[Shape, Shape | None]]


def shapes_of(plan: Mapping[str, Any], file: object) -> Shapes:
    """The plan's `shapes`; empty where it has none. Raises InputError where they are damaged."""
    found: Shapes = {}
    try:
        for name, (before, after) in plan.get("shapes", {}).items():
            found[str(name)] = (_dims(before), None if after is None else _dims(after))
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"the plan's 'shapes' are damaged: {error!r}", file=file, hint="compile again") from error
    return found


def _dims(value: Any) -> Shape:
    if not isinstance(value, list) or any(type(dim) is not int or dim < 0 for dim in value):
        raise ValueError(f"{value!r:.60} is no shape")
    return tuple(value)


def check_before(shapes: Shapes, state: Mapping[str, Any], file: object) -> None:
    """The tensors have the shapes that the plan was made for.

    Raises:
        InputError: one has another shape, or lost channels that the plan cannot tell.
    """
    for name, (before, after) in shapes.items():
        if name not in state or prod(before) < 2:
            continue
        if after is None:
            raise InputError(
                f"'{name}' lost channels in the graph, but the plan cannot say which of its own",
                file=file,
                hint="the compilation's notes say why; --emit torch writes the pruned network itself",
            )
        found = _shape(state[name])
        if found != before:
            raise InputError(f"'{name}' has shape {found}, the plan was made for {before}", file=file, hint=HINT)


def check_after(
    shapes: Shapes, plan: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any], file: object
) -> None:
    """Every tensor is left with the shape that it has in the pruned graph.

    Raises:
        InputError: the plan contradicts itself.
    """
    for name, (before, after) in shapes.items():
        if name not in new or after is None or prod(before) < 2:
            continue
        left = _shape(new[name])
        if left != after:
            raise InputError(
                f"the plan leaves '{name}' with shape {left}, the pruned graph has {after}",
                file=file,
                hint="the plan contradicts itself; compile again",
            )
    if not shapes:
        _check_groups(plan, old, new, file)


def _check_groups(plan: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any], file: object) -> None:
    widths: dict[str, tuple[int, int]] = {}
    try:
        for group in plan.get("groups", []):
            for member in group["members"]:
                width, kept = widths.get(member, (0, 0))
                widths[member] = (width + int(group["width"]), kept + int(group["kept"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"the plan's 'groups' are damaged: {error!r}", file=file, hint="compile again") from error
    for member, (width, kept) in widths.items():
        name = f"{member}.weight"
        if name not in old or len(old[name].shape) < 2:
            continue
        axes = [axis for axis in (0, 1) if int(old[name].shape[axis]) == width]
        if axes and all(int(new[name].shape[axis]) != kept for axis in axes):
            left = int(new[name].shape[axes[0]])
            raise InputError(
                f"the plan leaves '{name}' with {left} of {width} channels, but its groups keep {kept}",
                file=file,
                hint="the plan contradicts itself; compile again",
            )


def _shape(tensor: Any) -> Shape:
    return tuple(int(dim) for dim in tensor.shape)
