"""Statistics of what every contraction reads, streamed over calibration images through onnxruntime.

A contraction y = W·x sums over *columns*: input channels, or for a convolution the (channel, kernel position)
pairs of its window. Over calibration positions the columns have a mean μ and a covariance Σ; with those, what is
left out of a sum can be predicted from what stays (`passes.reconstruct`), and what leaving it out costs is known
(`importance_output`).

One session computes all inputs that are asked for. They leave it thinned out already, as at most `POSITIONS`
positions an image: a Slice with steps, and in front of a convolution with a window a depthwise convolution with
one-hot kernels, which lays out windows with the very strides and zero padding of the convolution. So memory is
what the Grams take.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.contraction import Contraction
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.attributes import per_axis
from onnxslim_yolo.ir.graph import Array, Namer, Node, Tensor, copy_graph, input_constant, static_shape, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import is_conv

POSITIONS = 1024
"""Positions an image that count, spread evenly."""

MAX_COLUMNS = 2304
"""Windows of more columns than this (9 · 256) are described by their channels alone: Grams grow with the square."""

SAMPLES_PER_COLUMN = 4
"""Fewer positions in all than this per column would fit noise: then channels alone, too."""

GRAM_BYTES = 1_500_000_000
"""All Grams together take at most this much; beyond it an error says so."""

CONSTANT = 1e-10
"""A column whose variance is below this share of its squared mean is constant: what is left is rounding, and a
covariance of rounding errors need not even be one."""

Images = Iterable[Array]
"""Model inputs, (1, 3, h, w) float32 each."""


@dataclass(frozen=True)
class Statistics:
    """Moments of a contraction's columns over calibration positions.

    Attributes:
        mean: (n,) float64; covariance: (n, n) float64; count: positions seen.
        taps: columns a channel: 1, or the number of kernel positions. Column c·taps + t is channel c at position t.
    """

    mean: Array
    covariance: Array
    count: int
    taps: int

    def by_channel(self) -> Statistics:
        """The same of channels alone: the average over kernel positions."""
        if self.taps == 1:
            return self
        n = len(self.mean) // self.taps
        blocks = self.covariance.reshape(n, self.taps, n, self.taps)
        return Statistics(
            self.mean.reshape(n, self.taps).mean(axis=1), np.einsum("itjt->ij", blocks) / self.taps, self.count, 1
        )


@dataclass(frozen=True)
class _Tap:
    """What leaves the session for one input: positions, thinned; `axis` is the one of its columns."""

    key: tuple[object, ...]
    name: str
    axis: int
    taps: int


def collect(model: Model, places: Sequence[Contraction], images: Images, *, window: bool = True) -> list[Statistics]:
    """Statistics of each contraction's columns, in the order of `places`.

    Args:
        model: the graph, not edited. places: contractions of its nodes.
        images: inputs; an image is run once, and seen by all.
        window: lay out convolutions' windows where that is affordable (see `MAX_COLUMNS`).

    Raises:
        InputError: there is no image, or the Grams would need more than 1.5 GB.
    """
    if not places:
        return []
    total = len(images) if isinstance(images, Sequence) else 1 << 30
    graph = copy_graph(model.graph)
    by_name = {node.name: node for node in graph.nodes}
    name = Namer(graph)
    taps: dict[tuple[object, ...], _Tap] = {}
    keys: list[tuple[object, ...]] = []
    for place in places:
        key = _key(place, total if window else 0)
        keys.append(key)
        if key not in taps:
            taps[key] = _add_tap(graph, by_name[place.node.name], place, key, name)
    needed = sum(
        8 * (len(place.classes) * taps[key].taps) ** 2 for key, place in dict(zip(keys, places, strict=True)).items()
    )
    if needed > GRAM_BYTES:
        if window:
            return collect(model, places, images, window=False)
        raise InputError(
            f"calibrating this network needs {needed / 1e9:.1f} GB of statistics",
            file=model.source.file,
            hint="use --compensate constant",
        )
    graph.outputs = [gs.Variable(tap.name, np.float32) for tap in taps.values()]
    sums = _stream(Model(graph=graph), list(taps.values()), images)
    found = {key: sums[tap.name].statistics(tap.taps) for key, tap in taps.items()}
    return [found[key] for key in keys]


def _stream(model: Model, taps: list[_Tap], images: Images) -> dict[str, _Sums]:
    """What each tap's columns come to, by its name."""
    from onnxslim_yolo.runtime.onnx_run import session

    model.graph.nodes = toposort(model.graph)
    runner = session(model, optimise=True, threads=1)
    feed = model.graph.inputs[0].name
    names = [tap.name for tap in taps]
    sums: dict[str, _Sums] = {}
    for image in images:
        for tap, value in zip(taps, runner.run(names, {feed: image}), strict=True):
            columns = np.moveaxis(value, tap.axis, -1).reshape(-1, value.shape[tap.axis])
            if tap.name not in sums:
                sums[tap.name] = _Sums(_pivot(columns))
            sums[tap.name].add(columns)
    if not sums:
        raise InputError("there is no calibration image")
    return sums


class _Sums:
    """Sums over positions of columns and of their products, about a point near the mean: far from it the rounding of
    squares would drown small variances. Positions are gathered first: small maps have fewer than matrices pay for."""

    def __init__(self, pivot: Array) -> None:
        self._pivot, self._count = pivot, 0
        self._total, self._gram = np.zeros(len(pivot)), np.zeros((len(pivot), len(pivot)))
        self._waiting: list[Array] = []

    def add(self, columns: Array) -> None:
        """Shape (positions, columns)."""
        self._waiting.append(columns - self._pivot)
        if sum(map(len, self._waiting)) >= POSITIONS:
            self._sum()

    def _sum(self) -> None:
        columns = np.concatenate(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        self._total += columns.sum(axis=0, dtype=np.float64)
        self._gram += columns.T @ columns
        self._count += len(columns)
        self._waiting = []

    def statistics(self, taps: int) -> Statistics:
        """Of all positions that were added."""
        if self._waiting:
            self._sum()
        offset = self._total / self._count
        mean = self._pivot.astype(np.float64) + offset
        covariance = self._gram / self._count - np.outer(offset, offset)
        constant = np.diagonal(covariance) <= CONSTANT * mean**2
        covariance[constant] = 0.0
        covariance[:, constant] = 0.0
        return Statistics(mean, covariance, self._count, taps)


def _pivot(columns: Array) -> Array:
    return np.asarray(np.nan_to_num(columns.mean(axis=0), nan=0.0, posinf=0.0, neginf=0.0))


def _key(place: Contraction, images: int) -> tuple[object, ...]:
    """What tells apart which columns a contraction reads: the tensor, and a convolution's window if it is laid
    out."""
    node, tensor = place.node, place.node.inputs[place.index]
    weight, shape = input_constant(node, 1), static_shape(node.outputs[0])
    plain = (tensor.name, place.axis)
    if not is_conv(node) or weight is None or shape is None or int(np.prod(weight.shape[2:])) == 1:
        return plain
    columns = len(place.classes) * int(np.prod(weight.shape[2:]))
    samples = min(int(np.prod(shape[2:])), POSITIONS) * images
    if columns > MAX_COLUMNS or samples < SAMPLES_PER_COLUMN * columns or len(shape) != 4:
        return plain
    return (*plain, *weight.shape[2:], *(str(node.attrs.get(k)) for k in ("strides", "pads", "dilations", "auto_pad")))


def _add_tap(graph: gs.Graph, node: Node, place: Contraction, key: tuple[object, ...], name: Namer) -> _Tap:
    tensor = node.inputs[place.index]
    if len(key) > 2:
        return _add_window(graph, node, tensor, place, key, name)
    rank = len(tensor.shape)
    return _Tap(key, thin(graph, tensor, place.axis % rank, name), place.axis % rank, 1)


def thin(graph: gs.Graph, tensor: Tensor, axis: int, name: Namer) -> str:
    """Add a thinned copy of a tensor, whole along `axis`, in float32; returns its name."""
    tensor = _single(graph, tensor, name)
    output = gs.Variable(name(f"{tensor.name}_calibration"), np.float32)
    picks = picks_of(static_shape(tensor), len(tensor.shape), axis)
    far = np.iinfo(np.int64).max
    axes = [k for k, step in enumerate(picks) if step != 1]
    if not axes:
        # A sum of one: onnxruntime takes an Identity out, and then knows the tensor no more that a Pad reads (1.32).
        graph.nodes.append(gs.Node("Sum", name("calibration"), {}, [tensor], [output]))
        return output.name
    bounds = ([picks[k] // 2 for k in axes], [far] * len(axes), axes, [picks[k] for k in axes])
    constants = [gs.Constant(name("calibration_bounds"), np.asarray(b, dtype=np.int64)) for b in bounds]
    graph.nodes.append(gs.Node("Slice", name("calibration"), {}, [tensor, *constants], [output]))
    return output.name


def _single(graph: gs.Graph, tensor: Tensor, name: Namer) -> Tensor:
    """The tensor in float32, by a Cast where it is of another precision: moments of halves overflow."""
    if tensor.dtype is None or np.dtype(tensor.dtype) == np.float32:
        return tensor
    output = gs.Variable(name(f"{tensor.name}_single"), np.float32, tensor.shape)
    graph.nodes.append(gs.Node("Cast", name("calibration_single"), {"to": onnx.TensorProto.FLOAT}, [tensor], [output]))
    return output


def picks_of(shape: tuple[int, ...] | None, rank: int, axis: int) -> list[int]:
    """Per axis the step of thinning; 1 along `axis` and the batch. A tensor of unknown shape is taken whole."""
    steps = [1] * rank
    axes = [k for k in range(1, rank) if k != axis]
    if shape is not None:
        for k, step in zip(axes, _steps([shape[k] for k in axes]), strict=True):
            steps[k] = step
    return steps


def thinned(value: Array, axis: int) -> Array:
    """What `thin` makes of a value: shape (positions, channels)."""
    steps = picks_of(value.shape, value.ndim, axis)
    taken = value[tuple(slice(step // 2 if step > 1 else 0, None, step) for step in steps)]
    return np.moveaxis(taken, axis, -1).reshape(-1, value.shape[axis])


def _add_window(
    graph: gs.Graph, node: Node, tensor: Tensor, place: Contraction, key: tuple[object, ...], name: Namer
) -> _Tap:
    weight = input_constant(node, 1)
    shape = static_shape(node.outputs[0])
    if weight is None or shape is None:
        raise ValueError(f"'{node.name}' has no window")
    kernel, channels = weight.shape[2:], len(place.classes)
    taps = int(np.prod(kernel))
    one_hot = np.tile(np.eye(taps, dtype=np.float32).reshape(taps, 1, *kernel), (channels, 1, 1, 1))
    tensor = _single(graph, tensor, name)
    output = gs.Variable(name(f"{tensor.name}_window"), np.float32)
    steps = _steps(list(shape[2:]))
    strides = [s * k for s, k in zip(per_axis(node, "strides", len(steps)), steps, strict=True)]
    attrs = {k: v for k, v in node.attrs.items() if k in ("pads", "dilations", "auto_pad")}
    attrs |= {"group": channels, "strides": strides, "kernel_shape": list(kernel)}
    constant = gs.Constant(name("calibration_one_hot"), one_hot)
    graph.nodes.append(gs.Node("Conv", name("calibration"), attrs, [tensor, constant], [output]))
    return _Tap(key, output.name, 1, taps)


def _steps(extents: list[int]) -> list[int]:
    """Steps along the axes that leave at most `POSITIONS` positions; odd, so that they do not beat with strides."""
    steps = [1] * len(extents)
    while np.prod([-(-e // s) for e, s in zip(extents, steps, strict=True)]) > POSITIONS:
        steps[max(range(len(extents)), key=lambda k: extents[k] / steps[k])] += 2
    return steps
