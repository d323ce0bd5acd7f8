"""What is known, without data, about each channel's activation: its mean, its variance, and whether it is a constant.

A BatchNormalization's output has, over the training data, mean β and variance γ² (Ioffe & Szegedy 2015, §3); with γ = 0
it is exactly β. From there values are followed through element-wise operators by Gauss–Hermite quadrature,
E[f(γz + β)] with z ~ N(0, 1), through data movement as they are, and through depthwise convolutions and pooling as
linear maps. Where nothing is known, mean and variance are NaN.

`exact` marks channels that are the same number at every position for every input: filters of zeros, γ = 0, and what
follows from these by arithmetic alone. Statistics make a channel exact in one case only, and only where the caller sets
`variance_floor`: a running variance below it means that the channel's convolution yielded its running mean throughout
training, to within that variance's root, so that the BatchNormalization yields β. That root is multiplied by γ/√(v + ε)
on the way, and a variance that float16 has rounded to 0 may have been 3e-8: where so much is left, nothing is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.movement import CannotMoveError, Shape
from onnxslim_yolo.ir.graph import Array, Node, Tensor, constant_of, is_constant, is_empty

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(65)
WEIGHTS = WEIGHTS / WEIGHTS.sum()

VARIANCE_FLOOR = 1e-8
"""Running variances below this are zero for all that training could tell: the channel's input never varied."""

LARGEST = 1 << 13
"""What varies over more elements depends on the position (decoded boxes, anchor grids): nothing is claimed about it."""


@dataclass(frozen=True)
class Moments:
    """Descriptors (see `movement`) of a tensor, all of one shape.

    Attributes:
        mean: expected value; NaN where unknown.
        variance: NaN where unknown.
        exact: whether the tensor is exactly `mean` there, whatever the input.
        base: the tensor of which this is a function, value by value, and
        samples: that function at the quadrature nodes of the base's distribution, shape (nodes, *mean.shape).
    """

    mean: Array
    variance: Array
    exact: Array
    base: int = 0
    samples: Array | None = None


def unknown(rank: int) -> Moments:
    """Nothing is known about a tensor of this rank."""
    shape = (1,) * rank
    return Moments(np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=bool))


def known(mean: Array, variance: Array, exact: Array) -> Moments:
    """Moments from descriptors that broadcast to one shape; what is exact has no variance."""
    mean, variance, exact = np.broadcast_arrays(mean, variance, exact)
    return Moments(np.array(mean, dtype=np.float64), np.where(exact, 0.0, variance), np.array(exact, dtype=bool))


class MomentAnalysis:
    """Moments of every tensor of a graph in topological order.

    Args:
        graph: the graph.
        shapes: every tensor's shape at batch 1, by `id` (as `Channels.shapes`).
        rules: what is known of each operator (`moment_rules.RULES`; `moments_of` gives them).
        variance_floor: running variances below this count as zero; 0 believes no statistics.
    """

    def __init__(
        self,
        graph: gs.Graph,
        shapes: dict[int, Shape | None],
        rules: Mapping[str, Rule],
        variance_floor: float = 0.0,
    ) -> None:
        self._rules = rules
        self._shapes = shapes
        self.variance_floor = variance_floor
        self.least_variance = np.inf
        self._moments: dict[int, Moments] = {}
        self._keepalive = list(graph.nodes)
        with np.errstate(all="ignore"):
            for node in graph.nodes:
                self._visit(node)
        # Samples are for functions of functions, and take as much as a hundred of these.
        self._moments = {key: replace(m, samples=None, base=0) for key, m in self._moments.items()}

    def answers(self, shapes: dict[int, Shape | None], variance_floor: float) -> bool:
        """Whether the analysis with these arguments is this one: no variance lies between the two floors."""
        low, high = sorted((variance_floor, self.variance_floor))
        return (low == high or self.least_variance >= high) and shapes == self._shapes

    def below_floor(self, variance: Array) -> Array:
        """Which running variances count as zero."""
        self.least_variance = min(self.least_variance, float(np.fmin.reduce(variance, axis=None, initial=np.inf)))
        return np.asarray(variance < self.variance_floor)

    def of(self, tensor: Tensor) -> Moments:
        """What is known about a tensor; all NaN if nothing."""
        value = constant_of(tensor)
        if value is not None:
            small = value.size <= LARGEST and value.dtype.kind in "fiu"
            flat = np.asarray(value, dtype=np.float64) if small else np.full((1,) * value.ndim, np.nan)
            return known(flat, np.zeros_like(flat), ~np.isnan(flat))
        found = self._moments.get(id(tensor))
        return found if found is not None else unknown(len(self._shapes.get(id(tensor)) or ()))

    def _visit(self, node: Node) -> None:
        rule = self._rules.get(node.op)
        outputs = [tensor for tensor in node.outputs if not is_empty(tensor)]
        shapes = [self._shapes.get(id(tensor)) for tensor in outputs]
        applies = rule is not None and node.domain in (None, "", "ai.onnx") and all(s is not None for s in shapes)
        try:
            results = rule(self, node) if rule is not None and applies else []
        except CannotMoveError:
            results = []
        for index, (tensor, shape) in enumerate(zip(outputs, shapes, strict=True)):
            fits = index < len(results) and shape is not None and results[index].mean.ndim == len(shape)
            fits = fits and results[index].mean.size <= LARGEST
            self._moments[id(tensor)] = results[index] if fits else unknown(len(shape or ()))

    def shape(self, tensor: Tensor) -> Shape:
        """A tensor's shape. Raises CannotMoveError if it is not static."""
        shape = tuple(tensor.shape) if is_constant(tensor) else self._shapes.get(id(tensor))
        if shape is None:
            raise CannotMoveError("unknown shape")
        return shape


Rule = Callable[[MomentAnalysis, Node], list[Moments]]


def gaussian_samples(moments: Moments) -> Array:
    """The values of N(mean, variance) at the quadrature nodes; shape (nodes, *mean.shape)."""
    deviation = np.sqrt(np.maximum(moments.variance, 0.0))
    return np.asarray(moments.mean[None] + NODES.reshape((-1,) + (1,) * moments.mean.ndim) * deviation[None])
