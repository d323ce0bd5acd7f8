"""What slicing left, in the source's terms: composed through what every rewrite says about its constants.

An initializer S of the source is read along paths, one per constant that was made from it. Along a path, N is what of S
is needed for what is left of the constant, and F what was needed before anything was cut. S has a plan if

1. on each path what stays of S gives what was left of the constant, and no more (`origins`);
2. no path drops what another keeps: N = F ∩ ∪N for every path;
3. what stays is a box: per axis, a set of indices; or, for a grouped convolution, one such set per group.

Indices that nobody read stay. What has no plan is left out, with its reason: an initializer that is missing from the
plan is noticed by whoever applies it, a wrong index is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import Array, initializers
from onnxslim_yolo.ir.origins import UNKNOWN, Cut, Leaf, Made, Mask, Origin, Shape, origin_of

_PATHS = 256
"""A constant computed along more paths than these is left out rather than followed."""

_MIXED = "what was cut of what is computed from it cannot be told from it alone"
_SEVERAL = "its readers keep different channels of it"
_REWRITTEN = "a pass rewrote it between two slicings"
_NO_BOX = "what stays of it is no set of indices per axis"


@dataclass
class SourceTerms:
    """What is left of the source's initializers.

    Attributes:
        kept: initializer → axis → kept indices, for those that lost channels.
        shapes: initializer → its shape before and after; None where it lost channels that `kept` cannot tell.
        left_out: name → why. Names of initializers, or of constants that are none.
    """

    kept: dict[str, Cut] = field(default_factory=dict)
    shapes: dict[str, tuple[Shape, Shape | None]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def has_unknown(self) -> bool:
        """Whether something was cut that nobody knows the origin of."""
        return UNKNOWN in self.left_out.values()

    def notes(self) -> list[str]:
        """A remark per reason why something is left out."""
        by_reason: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.left_out.items():
            by_reason[reason].append(name)
        return [f"plan.json leaves out {_listed(names)}: {reason}" for reason, names in by_reason.items()]


def _listed(names: list[str]) -> str:
    quoted = ", ".join(f"'{name}'" for name in names[:3])
    return quoted if len(names) <= 3 else f"{quoted} and {len(names) - 3} more"


@dataclass(frozen=True)
class _Path:
    """One way from a constant to a leaf: what is needed now, what was needed before. `exact`: condition 1."""

    now: Mask
    before: Mask
    exact: bool


def source_terms(graph: gs.Graph, earlier: SourceTerms | None = None) -> SourceTerms:
    """What is left of the source in this graph; `earlier`: what an earlier slicing left.

    An initializer that is gone since, merged into another, is as the earlier slicing left it, unless something was cut
    whose origin is not known.
    """
    found = _found_in(graph)
    for name, shapes in ({} if earlier is None else earlier.shapes).items():
        if earlier is None or name in found.shapes:
            continue
        found.shapes[name] = shapes
        if name in earlier.kept and not found.has_unknown:
            found.kept[name] = earlier.kept[name]
        elif name in earlier.kept:
            found.shapes[name] = (shapes[0], None)
            found.left_out[name] = _REWRITTEN
    return found


def _found_in(graph: gs.Graph) -> SourceTerms:
    readers: dict[str, list[tuple[gs.Constant, Origin]]] = defaultdict(list)
    leaves: dict[str, Leaf] = {}
    for constant in initializers(graph):
        origin = origin_of(constant)
        for leaf in _leaves_of(origin):
            leaves[leaf.name] = leaf
            readers[leaf.name].append((constant, origin))
    found = SourceTerms()
    for name, leaf in leaves.items():
        plain = _plain_cut(leaf, readers[name])
        if plain is not None:
            _enter_plain(found, leaf, plain)
            continue
        paths = [path for constant, origin in readers[name] for path in _paths(constant, origin, leaf)]
        _enter(found, leaf, paths)
    return found


def leaf_names(constant: gs.Constant) -> list[str]:
    """The source's initializers that a constant is made from."""
    return [leaf.name for leaf in _leaves_of(origin_of(constant)) if leaf.unnamed is None]


def _leaves_of(origin: Origin) -> list[Leaf]:
    """The leaves of an origin, each once."""
    leaves: dict[str, Leaf] = {}
    seen: set[int] = set()
    stack: list[Origin] = [origin]
    while stack:
        here = stack.pop()
        if isinstance(here, Leaf):
            leaves[here.name] = here
        elif id(here) not in seen:
            seen.add(id(here))
            stack += [part.origin for part in here.parts]
    return list(leaves.values())


def _plain_cut(leaf: Leaf, readers: list[tuple[gs.Constant, Origin]]) -> Cut | None:
    """What `slice` kept of an initializer that one constant is, and nothing else has been made of; None if not so."""
    if len(readers) > 1:
        return None
    origin = readers[0][1]
    if origin is leaf:
        return {}
    direct = isinstance(origin, Made) and origin.cut is not None and origin.parts[0].origin is leaf
    return origin.cut if direct and isinstance(origin, Made) else None


def _enter_plain(found: SourceTerms, leaf: Leaf, cut: Cut) -> None:
    cut = {axis: kept for axis, kept in cut.items() if kept != list(range(leaf.shape[axis]))}
    after = _shape_after(leaf.shape, cut) if leaf.unnamed is None else None
    if cut or leaf.unnamed is None:
        found.shapes[leaf.name] = (leaf.shape, after)
    if cut and leaf.unnamed is None:
        found.kept[leaf.name] = cut
    elif cut and leaf.unnamed is not None:
        found.left_out[leaf.name] = leaf.unnamed


def _paths(constant: gs.Constant, origin: Origin, leaf: Leaf) -> list[_Path]:
    """The ways from a constant to a leaf. Of too many, the last is not followed to be exact."""
    everything = np.ones(tuple(constant.shape), dtype=bool)
    found: list[_Path] = []
    for count, (end, path) in enumerate(_leaves(origin, everything, everything, exact=True)):
        if count >= _PATHS:
            return [*found, _Path(np.ones(leaf.shape, dtype=bool), np.ones(leaf.shape, dtype=bool), exact=False)]
        if end.name == leaf.name:
            found.append(path)
    return found


def _leaves(origin: Origin, now: Mask, before: Mask, *, exact: bool) -> Iterator[tuple[Leaf, _Path]]:
    if isinstance(origin, Leaf):
        yield origin, _Path(now, before, exact)
        return
    below = [part.back(now) for part in origin.parts]
    if origin.cut is None and not now.all():
        exact = exact and _gives(origin, below, now)
    for part, needed in zip(origin.parts, below, strict=True):
        full = np.ones(part.shape, dtype=bool) if origin.cut is not None else part.back(before)
        yield from _leaves(part.origin, needed, full, exact=exact)


def _gives(made: Made, needed: list[Mask], wanted: Mask) -> bool:
    """Whether what is needed of the parts gives what is wanted, and no more."""
    possible = np.ones(wanted.shape, dtype=bool)
    for part, mask in zip(made.parts, needed, strict=True):
        possible &= part.forth(mask, wanted.shape)
    wrong = possible != wanted
    if wrong.any():
        wrong &= ~np.logical_and.reduce([part.silent(wanted.shape) for part in made.parts])
    return not wrong.any()


def _enter(found: SourceTerms, leaf: Leaf, paths: list[_Path]) -> None:
    now, before = (np.logical_or.reduce([getattr(path, key) for path in paths]) for key in ("now", "before"))
    inexact = any(not path.exact for path in paths)
    lost = bool((now != before).any()) or inexact or any((path.now != path.before).any() for path in paths)
    if leaf.unnamed is not None:
        if lost:
            found.left_out[leaf.name] = leaf.unnamed
            found.shapes[leaf.name] = (leaf.shape, None)
        return
    found.shapes[leaf.name] = (leaf.shape, leaf.shape)
    if not lost:
        return
    different = any((path.now != (path.before & now)).any() for path in paths)
    axes = None if inexact or different else _as_box(now, before)
    if axes is None:
        found.left_out[leaf.name] = _MIXED if inexact else _SEVERAL if different else _NO_BOX
        found.shapes[leaf.name] = (leaf.shape, None)
        return
    found.kept[leaf.name] = axes
    found.shapes[leaf.name] = (leaf.shape, _shape_after(leaf.shape, axes))


def _shape_after(shape: Shape, axes: Cut) -> Shape:
    lengths = {axis: len(kept[0]) if isinstance(kept[0], list) else len(kept) for axis, kept in axes.items()}
    return tuple(lengths.get(axis, extent) for axis, extent in enumerate(shape))


def _as_box(now: Mask, before: Mask) -> Cut | None:
    """What stays, per axis; None if it is no box."""
    stays = [_along(now, axis) | ~_along(before, axis) for axis in range(now.ndim)]
    if not all(kept.any() for kept in stays):
        return None
    box = np.ones((1,) * now.ndim, dtype=bool)
    for axis, kept in enumerate(stays):
        box = box & kept.reshape([-1 if k == axis else 1 for k in range(now.ndim)])
    if not ((box & before) == now).all():
        return _as_groups(now)
    return {axis: np.flatnonzero(kept).tolist() for axis, kept in enumerate(stays) if not kept.all()}


def _along(mask: Mask, axis: int) -> Mask:
    return np.asarray(mask.any(axis=tuple(k for k in range(mask.ndim) if k != axis)))


def _as_groups(now: Mask) -> Cut | None:
    """Rows that keep inputs of their own, the same within a group: the fewest groups that say it."""
    taps = tuple(range(2, now.ndim))
    if now.ndim < 2 or (now != now.any(axis=taps, keepdims=True)).any():
        return None
    flat = np.asarray(now.any(axis=taps))
    rows = np.flatnonzero(np.asarray(flat.any(axis=1)))
    lists = [np.flatnonzero(flat[row]) for row in rows.tolist()]
    for groups in (n for n in range(2, len(rows) + 1) if len(rows) % n == 0):
        share = len(rows) // groups
        firsts = lists[::share]
        even = len({len(one) for one in firsts}) == 1
        if even and all(np.array_equal(one, firsts[k // share]) for k, one in enumerate(lists)):
            return _grouped(rows, firsts, len(flat))
    return None


def _grouped(rows: Array, firsts: list[Array], count: int) -> Cut:
    axes: Cut = {1: [one.tolist() for one in firsts]}
    return axes if len(rows) == count else {0: rows.tolist(), **axes}
