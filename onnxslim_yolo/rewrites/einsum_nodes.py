"""Einsum as the nodes it stands for: Transpose, Reshape, MatMul, Mul, ReduceSum. Used by the pass `canonicalise`.

Let the letters of an equation a,b→y be: B in a, b and y; K in a and b only; L in a and y; R in b and y; and S in one
operand alone. Sum over each operand's S. Then

    K empty    y = a·b      both laid out as y, with extents of 1 for letters they lack
    else       y = a'b'     a' = a as (B…, L, K), b' = b as (B…, K, R), y from (B…, L, R)

where several letters of L, K or R are one axis, and the batch axes B stay apart. Without B, and with one letter in each
of K and R, L stays apart, too: a MatMul with a weight matrix. The operands change places if that puts a constant on the
right, or else L before R in y. One operand: the sum over S, transposed. Exact but for the order of summation.

An ellipsis is as many letters as an operand has further axes, the last ones where operands differ in that.

Declined: a letter twice in one operand (a diagonal), more than two operands, extents that differ (they
would broadcast), and shapes that are unknown in more than one place of a Reshape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from string import ascii_letters

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import attribute, set_operand
from onnxslim_yolo.ir.graph import Namer, Node, Tensor, detach, is_constant, nodes_of

_UNKNOWN = -1
_OPERANDS = (1, 2)


def rewrite_einsums(graph: gs.Graph) -> int:
    """Replace every Einsum that can be spelt with plainer nodes; return how many. Shapes are to be inferred anew."""
    rewrites = 0
    for node in nodes_of(graph, "Einsum"):
        terms = _terms(node) if node.outputs else None  # not folded just now
        sizes = None if terms is None else _sizes(node, terms)
        if terms is None or sizes is None:
            continue
        writer = _Writer(graph, node, sizes)
        made = _single(writer, node, terms) if len(node.inputs) == 1 else _pair(writer, node, terms)
        rewrites += writer.commit(node, made)
    return rewrites


@dataclass(frozen=True)
class _Terms:
    """The letters of each operand and of the result, none twice in one of them."""

    operands: tuple[str, ...]
    result: str


@dataclass(frozen=True)
class _Lettered:
    """A tensor and the letters of its axes."""

    tensor: Tensor
    letters: str


def _terms(node: Node) -> _Terms | None:
    text = attribute(node, "equation")
    text = "".join((text.decode() if isinstance(text, bytes) else str(text)).split())
    left, arrow, result = text.partition("->")
    if not arrow:  # as in numpy: the letters that occur once, in alphabetical order
        result = "..." * ("..." in left) + "".join(sorted(c for c in set(left) - {",", "."} if left.count(c) == 1))
    operands = tuple(left.split(","))
    if "..." in text:
        operands, result = _spelt_out(node, operands, result)
    plain = all(term.isalpha() or not term for term in (*operands, result))
    distinct = all(len(set(term)) == len(term) for term in (*operands, result))
    if not plain or not distinct or len(operands) not in _OPERANDS or len(operands) != len(node.inputs):
        return None
    return _Terms(operands, result) if set(result) <= set("".join(operands)) else None


def _spelt_out(node: Node, operands: tuple[str, ...], result: str) -> tuple[tuple[str, ...], str]:
    """Letters of their own for what ellipses stand for; the terms as they are where that is not known."""
    ranks = [None if tensor.shape is None else len(tensor.shape) for tensor in node.inputs]
    if len(ranks) != len(operands) or None in ranks:
        return operands, result
    free = [letter for letter in ascii_letters if letter not in "".join((*operands, result))]
    further = [r - len(t.replace("...", "")) for r, t in zip(ranks, operands, strict=True) if r is not None]
    if min(further) < 0 or max(further) > len(free):
        return operands, result
    most = "".join(free[: max(n for n, term in zip(further, operands, strict=True) if "..." in term)])
    terms = [t.replace("...", most[len(most) - n :]) for n, t in zip(further, operands, strict=True)]
    return tuple(terms), result.replace("...", most)


def _sizes(node: Node, terms: _Terms) -> dict[str, int] | None:
    """Every letter's extent, `_UNKNOWN` where symbolic; None where ranks or extents do not fit or are not floats."""
    sizes: dict[str, int] = {}
    for tensor, term in zip(node.inputs, terms.operands, strict=True):
        if tensor.shape is None or len(tensor.shape) != len(term) or tensor.dtype is None:
            return None
        if np.dtype(tensor.dtype).kind != "f":
            return None
        for letter, dim in zip(term, tensor.shape, strict=True):
            extent = int(dim) if isinstance(dim, (int, np.integer)) and dim > 0 else _UNKNOWN
            if sizes.setdefault(letter, extent) != extent:
                return None
    return sizes


class _Writer:
    """Collects nodes; `commit` puts them into the graph in an Einsum's place, or nothing if a shape was not known."""

    def __init__(self, graph: gs.Graph, node: Node, sizes: dict[str, int]) -> None:
        self._graph, self._name, self._stem = graph, Namer(graph), node.name or "einsum"
        self._nodes: list[Node] = []
        self._dtype = node.inputs[0].dtype
        self._sizes = sizes
        self._known = True

    def node(self, op: str, *inputs: Tensor, **attrs: object) -> Tensor:
        """A node's one output."""
        name = self._name(f"{self._stem}/{op}")
        output = gs.Variable(self._name(f"{name}_output"), self._dtype)
        self._nodes.append(gs.Node(op, name, dict(attrs), list(inputs), [output]))
        return output

    def ints(self, values: Sequence[int]) -> Tensor:
        """An int64 constant."""
        return gs.Constant(self._name(f"{self._stem}/const"), np.asarray(values, dtype=np.int64))

    def sum_out(self, x: _Lettered, kept: str) -> _Lettered:
        """Without the letters that are not in `kept`."""
        axes = [i for i, letter in enumerate(x.letters) if letter not in kept]
        if not axes:
            return x
        tensor = self.node("ReduceSum", x.tensor, keepdims=0)
        reduction, opset = tensor.inputs[0], self._graph.opset
        set_operand(reduction, "axes", np.asarray(axes, np.int64), opset, lambda: self._name(f"{self._stem}/const"))
        return _Lettered(tensor, "".join(letter for letter in x.letters if letter in kept))

    def ordered(self, x: _Lettered, letters: str) -> Tensor:
        """The axes in this order of the same letters."""
        if letters == x.letters:
            return x.tensor
        return self.node("Transpose", x.tensor, perm=[x.letters.index(letter) for letter in letters])

    def grouped(self, tensor: Tensor, before: Sequence[str], after: Sequence[str]) -> Tensor:
        """Axes that are groups of letters, regrouped; an empty group is an extent of 1."""
        if list(before) == list(after):
            return tensor
        extents = [self._extent(group) for group in after]
        self._known = self._known and extents.count(_UNKNOWN) <= 1
        return self.node("Reshape", tensor, self.ints(extents))

    def _extent(self, group: str) -> int:
        extents = [self._sizes[letter] for letter in group]
        return _UNKNOWN if _UNKNOWN in extents else prod(extents)

    def commit(self, node: Node, made: Tensor) -> int:
        """Let the nodes give what `node` gave; 1, or 0 and no change if a Reshape's target is unknown."""
        if not self._known:
            for each in self._nodes:  # what they read still counts them among its readers
                detach(each)
            return 0
        if not self._nodes:  # the equation changes nothing
            self.node("Identity", made)
        (result,) = node.outputs
        node.inputs, node.outputs = [], []
        self._nodes[-1].outputs = [result]
        self._graph.nodes.remove(node)
        self._graph.nodes.extend(self._nodes)
        return 1


def _single(write: _Writer, node: Node, terms: _Terms) -> Tensor:
    kept = write.sum_out(_Lettered(node.inputs[0], terms.operands[0]), terms.result)
    return write.ordered(kept, terms.result)


def _pair(write: _Writer, node: Node, terms: _Terms) -> Tensor:
    lettered = [_Lettered(tensor, term) for tensor, term in zip(node.inputs, terms.operands, strict=True)]
    first, second = lettered if _in_order(node, terms) else lettered[::-1]
    first, second = (
        write.sum_out(first, terms.result + second.letters),
        write.sum_out(second, terms.result + first.letters),
    )
    summed = "".join(c for c in first.letters if c in second.letters and c not in terms.result)
    if not summed:
        return write.node("Mul", *(_spread(write, x, terms.result) for x in (first, second)))
    return _product(write, first, second, summed, terms.result)


def _in_order(node: Node, terms: _Terms) -> bool:
    """Whether the first operand is to be the left one of the MatMul."""
    if is_constant(node.inputs[0]) != is_constant(node.inputs[1]):
        return is_constant(node.inputs[1])
    first, second = terms.operands
    free = [letter for letter in terms.result if (letter in first) != (letter in second)]
    return not free or free[0] in first


def _spread(write: _Writer, x: _Lettered, result: str) -> Tensor:
    """Laid out as the result, with an extent of 1 for each letter that is missing, but for those in front."""
    letters = "".join(c for c in result if c in x.letters)
    first = result.index(letters[0]) if letters else len(result)
    return write.grouped(write.ordered(x, letters), [*letters], [c if c in letters else "" for c in result[first:]])


def _product(write: _Writer, first: _Lettered, second: _Lettered, summed: str, result: str) -> Tensor:
    batch = "".join(c for c in result if c in first.letters and c in second.letters)
    left, right = ("".join(c for c in result if c in x.letters and c not in batch) for x in (first, second))
    # Without batch axes, MatMul takes the left operand's rows in as many axes as there are.
    apart = not batch and len(right) == len(summed) == 1
    rows = [*left] if apart and left else [left]
    a = write.grouped(write.ordered(first, batch + left + summed), list(batch + left + summed), [*batch, *rows, summed])
    b = write.grouped(
        write.ordered(second, batch + summed + right), list(batch + summed + right), [*batch, summed, right]
    )
    found = write.grouped(write.node("MatMul", a, b), [*batch, *rows, right], list(batch + left + right))
    return write.ordered(_Lettered(found, batch + left + right), result)
