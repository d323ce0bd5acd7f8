"""How a tensor's axes lie in an ncnn blob: pure integer algebra, no graph.

A *shape* is a tensor's ONNX shape at batch 1, with any number of axes. *Dims* are the up to four extents of the ncnn
blob that holds it, outermost first (c, d, h, w). Both enumerate the same elements in the same (row-major) order, so
dims are some regrouping of the shape. Reshape, Squeeze, Unsqueeze and Flatten change the shape only: they cost nothing
until a layer needs an axis that the blob's dims do not show.

An axis or dim covers the interval [p, p·n) of element strides counted from the outside, where p is the product of the
extents before it and n its own. Axis and dim are the same thing if their intervals are equal; an axis is the *outer
factor* of a dim if both start at the same p.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from math import prod
from typing import TypeAlias

Shape: TypeAlias = tuple[int, ...]
Dims: TypeAlias = tuple[int, ...]

MAX_DIMS = 4


def canonical_dims(shape: Shape) -> Dims:
    """The dims a reader expects: the shape without its batch axis, at most four, merging the outermost if need be."""
    dims = shape[1:] if len(shape) > 1 and shape[0] == 1 else shape
    return _at_most_four(dims or (1,))


def _at_most_four(dims: Dims) -> Dims:
    while len(dims) > MAX_DIMS and 1 in dims:
        index = dims.index(1)
        dims = dims[:index] + dims[index + 1 :]
    if len(dims) > MAX_DIMS:
        extra = len(dims) - MAX_DIMS + 1
        dims = (prod(dims[:extra]), *dims[extra:])
    return dims


def dim_of_axis(shape: Shape, dims: Dims, axis: int) -> int | None:
    """The dim that is exactly this axis, or None if the dims merge or split it.

    An axis of extent 1 is found only where the dims are the shape itself or the shape without its batch axis.
    """
    if shape[axis] == 1:
        if dims == shape:
            return axis
        return axis - 1 if axis > 0 and shape[0] == 1 and dims == shape[1:] else None
    start = prod(shape[:axis])
    for index, extent in enumerate(dims):
        if extent == shape[axis] and prod(dims[:index]) == start:
            return index
    return None


def dim_of_outer_factor(shape: Shape, dims: Dims, axis: int) -> int | None:
    """The dim that starts where this axis starts and is a multiple of it, or None."""
    start = prod(shape[:axis])
    for index, extent in enumerate(dims):
        if extent > 1 and extent % shape[axis] == 0 and prod(dims[:index]) == start:
            return index
    return None


def dims_showing(shape: Shape, axes: Collection[int]) -> tuple[Dims, dict[int, int]] | None:
    """Dims in which each of these axes is a dim of its own, and which dim it is. None if four do not suffice.

    The canonical dims are preferred; else all that lies between the wanted axes is merged.
    """
    batch = 1 if len(shape) > 1 and shape[0] == 1 and 0 not in axes else 0
    if len(shape) - batch <= MAX_DIMS and len(shape) > batch:
        return shape[batch:], {axis: axis - batch for axis in axes}
    return regrouped(shape, [axis if axis in axes else -1 for axis in range(len(shape))], set(axes))


def regrouped(shape: Shape, keys: Sequence[object], alone: Collection[int]) -> tuple[Dims, dict[int, int]] | None:
    """Merge neighbouring axes of equal key (those in `alone` never). Returns the dims and each kept axis's dim.

    Axes of extent 1 that are not in `alone` vanish.
    """
    dims: list[int] = []
    last_key: object = None
    where: dict[int, int] = {}
    for axis, extent in enumerate(shape):
        if axis in alone:
            where[axis] = len(dims)
            dims.append(extent)
            last_key = None
            continue
        if extent == 1:
            continue
        if dims and last_key is not None and last_key == keys[axis]:
            dims[-1] *= extent
        else:
            dims.append(extent)
        where[axis] = len(dims) - 1
        last_key = keys[axis]
    if len(dims) > MAX_DIMS:
        return None
    return tuple(dims) or (1,), where


def broadcast_dims(out_shape: Shape, dims: Dims, shape: Shape) -> Dims | None:
    """The dims of an operand of `shape` so that it broadcasts against a blob of `out_shape` lying in `dims`.

    Both shapes have the same number of axes. None where one dim merges an axis that is broadcast with one that is not.
    """
    result: list[int] = []
    for index, extent in enumerate(dims):
        start = prod(dims[:index])
        states = {
            shape[axis] != 1
            for axis, size in enumerate(out_shape)
            if size > 1 and max(start, prod(out_shape[:axis])) < min(start * extent, prod(out_shape[: axis + 1]))
        }
        if len(states) > 1:
            return None
        result.append(extent if states == {True} else 1)
    return tuple(result)


def padded(shape: Shape, rank: int) -> Shape:
    """The shape with ones in front, as numpy broadcasts it."""
    return (1,) * (rank - len(shape)) + shape


def permute_order(perm: Sequence[int]) -> int:
    """ncnn's Permute order code for new dims that are `perm[0], perm[1], …` of the old (outermost first)."""
    rank = len(perm)
    source = ("whdc" if rank == 4 else "whc"[:rank])[::-1]
    wanted = "".join(source[axis] for axis in reversed(perm))
    return _ORDERS[rank].index(wanted)


def permutation_of(code: int, rank: int) -> tuple[int, ...]:
    """The permutation of the dims, outermost first, that a Permute order code stands for."""
    source = ("whdc" if rank == 4 else "whc"[:rank])[::-1]
    return tuple(source.index(name) for name in reversed(_ORDERS[rank][code]))


def merged(shape: Sequence[int], perm: Sequence[int]) -> tuple[list[int], list[int]]:
    """A permutation of axes as one of groups that move together: their extents, and their new order.

    Axes of extent 1 vanish.
    """
    real = [axis for axis in range(len(shape)) if shape[axis] != 1]
    moved = [real.index(axis) for axis in perm if shape[axis] != 1]
    runs: list[list[int]] = []
    for axis in moved:
        if runs and runs[-1][-1] + 1 == axis:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    firsts = sorted(run[0] for run in runs)
    extents = {run[0]: prod(shape[real[axis]] for axis in run) for run in runs}
    return [extents[first] for first in firsts], [firsts.index(run[0]) for run in runs]


def composed(
    dims: Dims, perm: Sequence[int], sizes: Sequence[int], order: Sequence[int]
) -> tuple[list[int], list[int]] | None:
    """A permutation of `dims`, a reshape to `sizes` and a second permutation, as one: groups and their order.

    Both are cut into common factors, which are permuted twice. None if the reshape cuts across the permuted dims.
    """
    moved = [dims[axis] for axis in perm]
    edges = sorted({prod(moved[:i]) for i in range(len(moved) + 1)} | {prod(sizes[:i]) for i in range(len(sizes) + 1)})
    if any(after % before for before, after in pairwise(edges)):
        return None
    factors = [after // before for before, after in pairwise(edges)]

    def within(extents: Sequence[int], index: int) -> list[int]:
        start, end = prod(extents[:index]), prod(extents[: index + 1])
        return [number for number, edge in enumerate(edges[:-1]) if start <= edge < end]

    places = [perm.index(axis) for axis in range(len(dims))]
    original = [number for place in places for number in within(moved, place)]
    final = [number for group in order for number in within(sizes, group)]
    return merged([factors[number] for number in original], [original.index(number) for number in final])


def order_of_dims(dims: Dims, sizes: Sequence[int], order: Sequence[int]) -> list[int] | None:
    """The permutation of groups as one of the dims themselves, if each group is a run of whole dims larger than 1."""
    runs: list[list[int]] = []
    dim = 0
    for size in sizes:
        run: list[int] = []
        while dim < len(dims) and prod(dims[axis] for axis in run) < size:
            run.append(dim)
            dim += 1
        if prod(dims[axis] for axis in run) != size or any(dims[axis] == 1 for axis in run):
            return None
        runs.append(run)
    return [dim for group in order for dim in runs[group]] if dim == len(dims) else None


_ORDERS: dict[int, tuple[str, ...]] = {
    1: ("w",),
    2: ("wh", "hw"),
    3: ("whc", "hwc", "wch", "cwh", "hcw", "chw"),
    4: (
        *("whdc", "hwdc", "wdhc", "dwhc", "hdwc", "dhwc", "whcd", "hwcd", "wchd", "cwhd", "hcwd", "chwd"),
        *("wdch", "dwch", "wcdh", "cwdh", "dcwh", "cdwh", "hdcw", "dhcw", "hcdw", "chdw", "dchw", "cdhw"),
    ),
}
"""ncnn's Permute codes: the index in the tuple is the code, the text names the new axes from the innermost on."""
