"""Which pass touched which tensor: what a graph looks like before and after a pass, compared.

Passes say nothing for it: a picture of the graph is its tensors' names, shapes, producers and constants *by identity*,
so that taking one reads no weight. Rules of the comparison:

1. The same object under another name was *renamed*.
2. A tensor of the same name, or the same object, with another shape was *cut* where no dimension grew, else *reshaped*.
3. A constant with another array of the same shape has other *values*.
4. A tensor that another operator, other inputs or other attributes make is *made otherwise*.
5. A name that was not there is *new*, one that is no longer there is *gone*.

Cut may be made otherwise as well (a folded convolution behind `slice`); then both are said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import Tensor, is_constant, producer, tensors
from onnxslim_yolo.ir.origins import Leaf, Origin, origin_of

LARGEST = 20_000
"""Nodes. Of a larger graph no picture is taken."""
MOST_NAMED = 4
"""Initializers that a constant's origin is told with."""


@dataclass(frozen=True)
class Change:
    """What a pass did to one tensor.

    Attributes:
        tensor: its name, before the pass where it was renamed.
        kind: "new", "gone", "renamed", "cut", "reshaped", "values" or "made otherwise".
        before, after: the name, the shape, the operator or what it is made of, as the kind has it; may be empty.
    """

    tensor: str
    kind: str
    before: str
    after: str

    def as_json(self) -> dict[str, str]:
        """Plain values, for report.json."""
        return {"tensor": self.tensor, "change": self.kind, "before": self.before, "after": self.after}


class _Seen(NamedTuple):
    """One tensor as it was. The objects themselves are held, so that no other gets their `id`.

    Attributes:
        made: operator, attributes and inputs that are no constants, to be compared.
        read: the names of these inputs.
    """

    tensor: Tensor
    name: str
    shape: tuple[Any, ...] | None
    values: Any
    made: tuple[Any, ...]
    read: tuple[str, ...]

    @property
    def text(self) -> str:
        """What makes it, for people; "" where nothing does."""
        return f"{self.made[0]}({', '.join(self.read)})" if self.made else ""


Picture = Mapping[int, _Seen]


def picture(graph: gs.Graph) -> Picture:
    """The graph's tensors by identity; nothing of a graph that is too large."""
    if len(graph.nodes) > LARGEST:
        return {}
    return {id(tensor): _seen(tensor) for tensor in tensors(graph)}


def _seen(tensor: Tensor) -> _Seen:
    shape = None if tensor.shape is None else tuple(tensor.shape)
    node = producer(tensor)
    if is_constant(tensor) or node is None:
        return _Seen(tensor, tensor.name, shape, getattr(tensor, "_values", None), (), ())
    read = [each for each in node.inputs if not is_constant(each)]
    attributes = {name: _fact(value) for name, value in node.attrs.items()}
    made = (node.op, attributes, *map(id, read))
    return _Seen(tensor, tensor.name, shape, None, made, tuple([each.name for each in read]))


def _fact(value: Any) -> Any:
    """What of an attribute is compared: plain values as they are now, what holds more by identity."""
    if isinstance(value, (list, tuple)):
        return repr(value)
    return repr(value) if isinstance(value, (int, float, str)) else id(value)


def changes(before: Picture, after: Picture) -> tuple[Change, ...]:
    """What happened between two pictures: tensors in their order in the graph after, those that are gone last."""
    if not before or not after:
        return ()
    replaced = {seen.name: seen for key, seen in before.items() if key not in after}
    found: list[Change] = []
    for key, seen in after.items():
        old = before.get(key) or replaced.get(seen.name)
        found += [Change(seen.name, "new", "", _origin_text(seen))] if old is None else _compared(old, seen)
    names = {seen.name for seen in after.values()}
    gone = [seen for key, seen in before.items() if key not in after and seen.name not in names]
    return (*found, *(Change(seen.name, "gone", seen.text or _shape_text(seen.shape), "") for seen in gone))


def _compared(old: _Seen, new: _Seen) -> list[Change]:
    found = [] if old.name == new.name else [Change(old.name, "renamed", old.name, new.name)]
    if old.shape is not None and new.shape is not None and old.shape != new.shape:
        shapes = _shape_text(old.shape), _shape_text(new.shape)
        found.append(Change(new.name, "cut" if _narrower(old.shape, new.shape) else "reshaped", *shapes))
    elif not _same_values(old, new):
        found.append(Change(new.name, "values", "", _origin_text(new)))
    if old.made != new.made:
        found.append(Change(new.name, "made otherwise", old.text, new.text))
    return found


def _same_values(old: _Seen, new: _Seen) -> bool:
    """A constant that was only read has an array now, where the file's record was."""
    if old.values is new.values:
        return True
    return old.tensor is new.tensor and not isinstance(old.values, np.ndarray)


def _narrower(old: tuple[Any, ...], new: tuple[Any, ...]) -> bool:
    known = len(old) == len(new) and all(isinstance(dim, (int, np.integer)) for dim in (*old, *new))
    return known and all(a >= b for a, b in zip(old, new, strict=True))


def _shape_text(shape: tuple[Any, ...] | None) -> str:
    return "" if shape is None else "×".join(str(dim) for dim in shape) or "one number"


def _origin_text(seen: _Seen) -> str:
    """What makes a tensor; of a constant the source's initializers that are in it."""
    if seen.text or not isinstance(seen.tensor, gs.Constant):
        return seen.text
    names = list(dict.fromkeys(_leaves(origin_of(seen.tensor))))
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    of = f" of {', '.join(names[:MOST_NAMED])}{more}" if names and names != [seen.name] else ""
    return f"{_shape_text(seen.shape)}{of}"


def _leaves(origin: Origin) -> Iterator[str]:
    stack, seen = [origin], set()
    while stack:
        each = stack.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Leaf):
            if each.unnamed is None:
                yield each.name
        else:
            stack += [part.origin for part in reversed(each.parts)]
