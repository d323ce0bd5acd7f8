"""What an analysis found is kept for as long as the graph is what it was.

A graph is many objects that anybody may edit, so nobody has to tell when it changes: all that an analysis can read is
written down, and compared when the analysis is asked for again. That is every node with its operator, attributes,
inputs and outputs, every tensor with its name, type and shape, every constant. Objects are compared by identity, since
analyses know them so, and what was written down keeps them alive: no other object can take over an identity. A
constant's array is shared with every copy of the graph, and is closed to writing when it is first read here: who wants
other values gives the constant another array. One whose bytes belong to another array is compared by a check sum. Of a
graph that holds anything else nothing is kept.

Only the newest state of a graph is kept, on the graph itself; a copy begins without.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import Array, Tensor

_ATTRIBUTE = "_onnxslim_yolo_kept"

Found = TypeVar("Found")


def kept(
    graph: gs.Graph, name: str, compute: Callable[[], Found], fits: Callable[[Found], bool] = lambda found: True
) -> Found:
    """What `compute` finds of the graph as it is now; what it found before, where nothing has changed since.

    Args:
        name: of the analysis.
        compute: reads nothing but the graph and what `fits` looks at. What it returns is shared: nobody edits it.
        fits: whether something found before answers this question, too.
    """
    memory: _Memory | None = getattr(graph, _ATTRIBUTE, None)
    state = None if memory is None else State.of(graph)
    if memory is not None and memory.state == state:
        for found in memory.found.get(name, ()):
            if fits(found):
                return found  # type: ignore[no-any-return]
    found = compute()
    if state is None or state.unread:
        state = State.of(graph)  # constants are loaded when they are first read, which changes no value
    if state is None:
        return found
    if memory is None or memory.state != state:
        memory = _Memory(state)
        setattr(graph, _ATTRIBUTE, memory)
    memory.found.setdefault(name, []).append(found)
    return found


def forget(graph: gs.Graph) -> None:
    """Let go of what was kept, which holds on to the graph as it was."""
    if hasattr(graph, _ATTRIBUTE):
        delattr(graph, _ATTRIBUTE)


@dataclass(frozen=True)
class State:
    """All of a graph that an analysis can read.

    Attributes:
        facts: nested tuples, equal where nothing has changed.
        alive: the objects whose identities stand there.
        unread: whether a constant has not been loaded yet.
    """

    facts: tuple[Any, ...]
    alive: list[Any] = field(compare=False, repr=False)
    unread: bool = field(compare=False, default=False)

    @classmethod
    def of(cls, graph: gs.Graph) -> State | None:
        """The present state; None of a graph with something in it that is not known here."""
        reader = _Reader()
        try:
            return cls(reader.graph(graph), reader.alive, reader.unread)
        except _UnknownError:
            return None


@dataclass
class _Memory:
    state: State
    found: dict[str, list[Any]] = field(default_factory=dict)


class _UnknownError(Exception):
    """Something whose changes could not be seen."""


class _Reader:
    def __init__(self) -> None:
        self.alive: list[Any] = []
        self.unread = False
        self._seen: set[int] = set()

    def graph(self, graph: gs.Graph) -> tuple[Any, ...]:
        if graph.functions:
            raise _UnknownError
        facts: list[Any] = [graph.opset, repr(graph.import_domains)]
        facts += [self._tensors(graph.inputs), self._tensors(graph.outputs)]
        for node in graph.nodes:
            self.alive.append(node)
            attributes = tuple((key, self._value(value)) for key, value in node.attrs.items())
            names = (id(node), node.op, node.name, node.domain)
            facts.append((*names, attributes, self._tensors(node.inputs), self._tensors(node.outputs)))
        return tuple(facts)

    def _tensors(self, tensors: list[Tensor]) -> tuple[Any, ...]:
        return tuple(id(tensor) if id(tensor) in self._seen else self._tensor(tensor) for tensor in tensors)

    def _tensor(self, tensor: Tensor) -> tuple[Any, ...]:
        self._seen.add(id(tensor))
        self.alive.append(tensor)
        if isinstance(tensor, gs.Constant):
            return id(tensor), tensor.name, self._value(tensor._values)
        shape = None if tensor.shape is None else tuple(map(self._value, tensor.shape))
        return id(tensor), tensor.name, _type_name(tensor.dtype), shape

    def _value(self, value: Any) -> Any:
        if isinstance(value, float):
            return float(value).hex()  # 0 and −0 differ, NaN is NaN
        if isinstance(value, np.generic):
            return value.dtype.str, value.tobytes()
        if value is None or isinstance(value, (bool, int, str, bytes, type, np.dtype)):
            return type(value), value
        if isinstance(value, (list, tuple)):
            return tuple(map(self._value, value))
        if isinstance(value, np.ndarray):
            self.alive.append(value)
            return id(value), value.shape, value.dtype.str, None if _is_closed(value) else _check_sum(value)
        if type(value).__name__ == "LazyValues":  # a part of the file, which nobody edits
            self.alive.append(value)
            self.unread = True
            return id(value)
        if isinstance(value, gs.Constant):
            return self._tensor(value)
        if isinstance(value, gs.Graph):
            self.alive.append(value)
            return id(value), self.graph(value)
        raise _UnknownError


def _is_closed(array: Array) -> bool:
    """Whether nothing can write to an array any more; one that has its bytes to itself is closed now."""
    if array.base is not None or array.dtype.hasobject:
        return False
    array.setflags(write=False)
    return True


@cache
def _type_name(dtype: object) -> str:
    """Numpy puts a type's name together whenever it is asked."""
    return str(dtype)


def _check_sum(array: Array) -> int:
    if array.dtype.hasobject:
        raise _UnknownError
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
