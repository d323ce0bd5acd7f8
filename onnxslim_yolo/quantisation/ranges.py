"""What tensors hold on calibration images, and which range of it gets codes.

    minmax       all that was seen
    percentile   all but the 0.01 % at either end; `few`: all but the 0.003 %
    mse          the smallest mean squared error of the codes, over shrunken ends
    entropy      the least information lost (Kullback and Leibler's, of histograms), over the same ends

What is beyond saturates. A Sigmoid's result is [0, 1] and the image's range is that of its format, whatever was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.graph import Array, Tensor, producer, tensors
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.quantisation.plan import CODES, Range
from onnxslim_yolo.runtime.onnx_run import as_fed, bytes_of, session, with_outputs

SAMPLES = 1 << 17
"""Values kept of a tensor, over all images."""

AT_ONCE = 64
"""Tensors that one run gives out."""

TAILS, FEW = 1e-4, 3e-5
SHRUNK = tuple(0.97**k for k in range(0, 64, 2))
BINS = 2048
SEARCHED = 1 << 13
"""Values that ends are searched on."""


@dataclass
class Seen:
    """What a tensor held on the images.

    Attributes:
        low, high: its extremes. kept: some of its values, per image.
        mean: per channel (axis 1), summed over the images; count: of them. largest: size per channel.
    """

    low: float = 0.0
    high: float = 0.0
    kept: list[Array] = field(default_factory=list)
    mean: Array = field(default_factory=lambda: np.zeros(0))
    count: int = 0
    largest: Array = field(default_factory=lambda: np.zeros(1))

    @property
    def values(self) -> Array:
        """The values that were kept, ascending."""
        return np.sort(np.concatenate(self.kept))

    @property
    def average(self) -> Array:
        """Per channel, over images and places."""
        return self.mean / max(self.count, 1)


def observe(model: Model, names: Sequence[str], images: Sequence[Array]) -> dict[str, Seen]:
    """Run the float network on the images and look at these tensors.

    Raises:
        InputError: one of them is NaN or infinite on an image.
    """
    feed, dtype = model.graph.inputs[0].name, model.graph.inputs[0].dtype or np.float32
    inner = [name for name in dict.fromkeys(names) if name != feed]
    found = {name: Seen() for name in names}
    data = bytes_of(model)
    share = max(SAMPLES // max(len(images), 1), 256)
    outputs = {tensor.name for tensor in model.graph.outputs}
    for start in range(0, len(inner), AT_ONCE):
        part = inner[start : start + AT_ONCE]
        runner = session(with_outputs(data, [n for n in part if n not in outputs]), optimise=False, threads=1)
        for image in images:
            for name, value in zip(part, runner.run(part, {feed: image.astype(dtype, copy=False)}), strict=True):
                _look(found[name], name, value, share)
    if feed in found:
        for image in images:
            _look(found[feed], feed, image, share)
    return found


def _look(seen: Seen, name: str, value: Array, share: int) -> None:
    flat = value.reshape(-1)
    low, high = float(flat.min(initial=0)), float(flat.max(initial=0))
    if not np.isfinite(flat.sum()) and not (np.isfinite(low) and np.isfinite(high)):
        hint = "int8 has no code for that; leave --quantize out, or look at the network's weights and images"
        raise InputError(f"'{name}' is NaN or infinite on a calibration image", node=name, hint=hint)
    seen.low, seen.high = min(seen.low, low), max(seen.high, high)
    seen.kept.append(flat[:: max(len(flat) // share, 1)][: 2 * share].astype(np.float32))
    if value.ndim >= 2:
        mean = value.mean(axis=(0, *range(2, value.ndim)), dtype=np.float64)
        seen.mean = mean if not seen.count else seen.mean + mean
        seen.count += 1
        seen.largest = np.maximum(seen.largest, np.abs(value).max(axis=(0, *range(2, value.ndim)), initial=0.0))


Method = Callable[[Seen], Range]


def minmax(seen: Seen) -> Range:
    """All that was seen."""
    return Range.of(seen.low, seen.high)


def percentile(seen: Seen) -> Range:
    """All but the rarest."""
    return Range.of(*np.quantile(seen.values, [TAILS, 1 - TAILS]))


def few(seen: Seen) -> Range:
    """All but the very rarest."""
    return Range.of(*np.quantile(seen.values, [FEW, 1 - FEW]))


def mse(seen: Seen) -> Range:
    """The smallest mean squared error."""
    values = _few(seen.values)
    return _best(seen, lambda tried: float(np.square(tried.rounded(values) - values).mean()))


def entropy(seen: Seen) -> Range:
    """The least information lost."""
    values = _few(seen.values)
    ends = min(values[0], 0.0), max(values[-1], 0.0)  # 0 has a code: a narrow range far from it is one bin
    counts, edges = np.histogram(values.astype(np.float64), BINS, ends)
    centres = (edges[:-1] + edges[1:]) / 2
    p = counts / max(counts.sum(), 1)

    def lost(tried: Range) -> float:
        codes = np.clip(np.rint(centres / tried.step) + tried.zero, 0, CODES).astype(int)
        filled = np.bincount(codes, weights=counts > 0, minlength=CODES + 1)
        mass = np.bincount(codes, weights=p, minlength=CODES + 1)
        q = np.where(counts > 0, (mass / np.maximum(filled, 1))[codes], 0)
        # What saturates is nowhere near its code: it counts as lost.
        inside = (centres >= tried.low) & (centres <= tried.high)
        there = (p > 0) & (q > 0)
        return float((p[there] * np.log(p[there] / q[there])).sum() + 8 * p[~inside].sum())

    return _best(seen, lost)


METHODS: dict[str, Method] = {
    "minmax": minmax,
    "percentile": percentile,
    "few": few,
    "mse": mse,
    "entropy": entropy,
}


def _few(values: Array) -> Array:
    """Every so many of the values, the extremes among them."""
    return values[:: max(len(values) // SEARCHED, 1)] if len(values) else np.zeros(1, np.float32)


def _best(seen: Seen, cost: Callable[[Range], float]) -> Range:
    """The cheapest range, its upper end shrunk first, then its lower one."""
    best = Range.of(seen.low, seen.high)
    for upper in (True, False):
        tried = [_shrunk(best, share, upper) for share in SHRUNK]
        best = min(tried, key=cost)
    return best


def _shrunk(whole: Range, share: float, upper: bool) -> Range:
    return Range.of(whole.low, whole.high * share) if upper else Range.of(whole.low * share, whole.high)


def known_ranges(model: Model) -> dict[str, Range]:
    """Ranges that no image has to tell: of the network's image, of Sigmoids' results, and those that a file said which
    was int8."""
    found = {name: Range.of(*ends) for name, ends in model.ranges.items()}
    found |= {t.name: Range.of(0, 1) for t in _made_by(model, "Sigmoid")}
    image = model.graph.inputs[0]
    if len(image.shape or ()) == 4 and image.shape[1] == 3:
        ends = [as_fed(model, np.full((1, 3, 1, 1), value, np.float32)) for value in (0, 1)]
        found[image.name] = Range.of(min(map(np.min, ends)), max(map(np.max, ends)))
    return found


def _made_by(model: Model, op: str) -> Iterator[Tensor]:
    for tensor in tensors(model.graph):
        node = producer(tensor)
        if node is not None and node.op == op:
            yield tensor
