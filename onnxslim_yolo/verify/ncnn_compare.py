"""Does the ncnn pair compute what the ONNX graph computes? And if not, from which layer on?

The difference of two tensors is the worst |Δ| over the reference's spread (its standard deviation, or its largest
magnitude where it does not vary), so a tensor of large mean and small variation is not let off lightly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from onnxslim_yolo.emit.ncnn.emitter import NcnnModel
from onnxslim_yolo.emit.ncnn.format import safe_name
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.files.atomic import private_folder
from onnxslim_yolo.ir.graph import Array, input_constant, replace_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import LINEAR
from onnxslim_yolo.runtime.ncnn_reader import read_ncnn
from onnxslim_yolo.runtime.ncnn_run import DEFAULT_TIMEOUT, NcnnSession, run_ncnn
from onnxslim_yolo.runtime.onnx_run import session
from onnxslim_yolo.verify.compare import Difference, told_apart
from onnxslim_yolo.verify.judge import Judge
from onnxslim_yolo.verify.ruler import Ruler, noise_between

TOLERANCE = 1e-3
"""Worst |Δ| / spread that is let pass.

Checks run ncnn without Winograd convolutions (`exact`), whose rounding would hide a small error: plain, it is 5e-5 of
the spread after a whole YOLO, with Winograd 3e-4, which the exp of a decoded box can carry beyond 1e-3. And a pair with
fp16 weights is compared with the graph whose weights are rounded to fp16: what the rounding itself does to the outputs
(up to 40 % of the spread on noise for FastestDet) says nothing about the conversion, and is measured apart.
"""


ROUNDING = 2e-4
"""Of a column's movement: what ncnn's summing in another order is seen to cost."""


SUMMED = 32.0
"""Units in the last place of a column's largest number that ncnn may be off by: the root of a map's thousand cells."""


@dataclass(frozen=True)
class BlobDifference:
    """How one tensor differs.

    Attributes:
        name: the ONNX name. blob: ncnn's.
        relative: worst |Δ| / spread; infinite where the shape differs or a value is not finite.
        index: flat index of the worst element. wanted, found: its two values.
        reason: what is wrong with the shape, if anything.
    """

    name: str
    blob: str
    relative: float
    index: int = 0
    wanted: float = 0.0
    found: float = 0.0
    reason: str = ""

    def __str__(self) -> str:
        detail = self.reason or f"worst element {self.index}: {self.found:.6g} instead of {self.wanted:.6g}"
        return f"'{self.name}' differs by {self.relative:.2e} of its spread ({detail})"


def difference(name: str, blob: str, wanted: Array, found: Array) -> BlobDifference:
    """Compare a blob with an ONNX tensor of the same elements, whatever their shapes."""
    if wanted.size != found.size:
        return BlobDifference(name, blob, math.inf, reason=f"{found.size} elements instead of {wanted.size}")
    a, b = wanted.astype(np.float64).reshape(-1), found.astype(np.float64).reshape(-1)
    if not np.isfinite(b).all():
        worst = int(np.flatnonzero(~np.isfinite(b))[0])
        return BlobDifference(name, blob, math.inf, worst, float(a[worst]), float(b[worst]))
    spread = float(a.std()) or float(np.abs(a).max(initial=0.0)) or 1.0
    deltas = np.abs(a - b)
    worst = int(deltas.argmax()) if deltas.size else 0
    return BlobDifference(name, blob, float(deltas.max(initial=0.0)) / spread, worst, float(a[worst]), float(b[worst]))


def compare_outputs(
    model: Model,
    ncnn: NcnnModel,
    feeds: Sequence[Mapping[str, Array]],
    *,
    threads: int = 1,
    timeout: float = DEFAULT_TIMEOUT,
    exact: bool = True,
    session: NcnnSession | None = None,
) -> list[BlobDifference]:
    """Per output its worst difference over all feeds (ONNX input name → array with batch 1).

    A `session` given is reused, with its own options; else a child process is started for this.
    """
    names = {blob: port.onnx for blob, port in ncnn.outputs.items()}
    if len(known_tensors(model, names)) != len(names):
        raise VerificationError(f"the model does not compute {sorted(names.values())}, it is not the one converted")
    runs = compare_blobs(model, ncnn, feeds, names, threads=threads, timeout=timeout, exact=exact, session=session)
    return [max(each, key=lambda d: d.relative) for each in zip(*runs, strict=True)]


def compare_blobs(
    model: Model,
    ncnn: NcnnModel,
    feeds: Sequence[Mapping[str, Array]],
    names: Mapping[str, str] | None = None,
    *,
    threads: int = 1,
    timeout: float = DEFAULT_TIMEOUT,
    exact: bool = True,
    session: NcnnSession | None = None,
) -> list[list[BlobDifference]]:
    """Per feed, the difference of each of these blobs (blob → ONNX name; default all), in the order of the layers."""
    wanted = known_tensors(model, ncnn.blobs if names is None else names)
    references = [run_tensors(model, list(dict.fromkeys(wanted.values())), feed) for feed in feeds]
    inputs = [{blob: feed[port.onnx].reshape(port.dims) for blob, port in ncnn.inputs.items()} for feed in feeds]
    with _pair(ncnn) as (param, weights):
        if session is None:
            results = run_ncnn(
                param, weights, inputs, outputs=list(wanted), threads=threads, timeout=timeout, exact=exact
            )
        else:
            read_ncnn(param, weights)
            session.load(param, weights)
            results = [session.run(each, list(wanted)) for each in inputs]
    return [
        [difference(name, blob, reference[name], result[blob]) for blob, name in wanted.items()]
        for reference, result in zip(references, results, strict=True)
    ]


def first_difference(
    model: Model, ncnn: NcnnModel, feed: Mapping[str, Array], tolerance: float
) -> BlobDifference | None:
    """The first blob, in the order of the layers, that is off by more than the tolerance."""
    (found,) = compare_blobs(model, ncnn, [feed])
    return next((each for each in found if each.relative > tolerance), None)


def verify_ncnn(
    model: Model,
    ncnn: NcnnModel,
    feeds: Sequence[Mapping[str, Array]],
    *,
    tolerance: float = TOLERANCE,
    threads: int = 1,
    timeout: float = DEFAULT_TIMEOUT,
) -> list[BlobDifference]:
    """Compare every output with the graph as stored (fp16 weights rounded); on failure name the first layer.

    What fp16 weights change is `compare_outputs` against the unrounded model.

    Raises:
        VerificationError: an output is off by more than `tolerance`.
    """
    reference = half_weights(model, ncnn.full) if ncnn.weights == "fp16" else model
    found = compare_outputs(reference, ncnn, feeds, threads=threads, timeout=timeout)
    bad = [each for each in found if not each.relative <= tolerance]
    if not bad:
        return found
    culprit = next(filter(None, (first_difference(reference, ncnn, feed, tolerance) for feed in feeds)), None)
    start = f"; the first layer that differs makes {culprit}" if culprit is not None else ""
    raise VerificationError(
        f"ncnn disagrees with onnxruntime by more than {tolerance:g}: {'; '.join(map(str, bad))}{start}",
        node=culprit.blob if culprit is not None else bad[0].blob,
        hint="please report this model; --emit onnx writes the ONNX file alone",
    )


def verify_pair(
    model: Model,
    ncnn: NcnnModel,
    feeds: Sequence[Mapping[str, Array]],
    judge: Judge,
    *,
    rounding: Callable[[], Judge] | None = None,
    tolerance: float = TOLERANCE,
    threads: int = 1,
    timeout: float = DEFAULT_TIMEOUT,
) -> list[Difference]:
    """Compare every output column by column; on failure name the first layer that differs.

    Args:
        model: the graph with its weights as the pair stores them. judge: of its outputs for `feeds`.
        rounding: the same with what rounding costs the graph, asked where `judge` is not content without.

    Raises:
        VerificationError: a column is off by more than `tolerance` and more than rounding explains.
    """
    names = {blob: port.onnx for blob, port in ncnn.outputs.items()}
    inputs = [{blob: feed[port.onnx].reshape(port.dims) for blob, port in ncnn.inputs.items()} for feed in feeds]
    wanted = [{name: run[name] for name in names.values()} for run in judge.expected]

    def outputs(exact: bool) -> list[dict[str, Array]]:
        with _pair(ncnn) as (param, weights):
            runs = run_ncnn(param, weights, inputs, outputs=list(names), threads=threads, timeout=timeout, exact=exact)
        return [
            {names[blob]: _like(value, expected[names[blob]]) for blob, value in run.items()}
            for run, expected in zip(runs, wanted, strict=True)
        ]

    got = outputs(exact=True)
    rulers = {name: judge.rulers[name] for name in names.values()}
    own = Judge(wanted, rulers, judge.ordered).with_floor(ROUNDING)
    found = own.compare(got, tolerance)
    bad = [each for each in found if not each.worst <= tolerance]
    if bad and all(np.isfinite(each.worst) for each in bad):
        # A network may amplify rounding more than most do: how much is seen by two ways in which ncnn itself computes.
        floors = rulers if rounding is None else rounding().rulers
        floors = {name: _summed(floors[name], [run[name] for run in wanted]) for name in rulers}
        wider = replace(own, rulers=floors, slips=judge.slips).with_floor(ROUNDING)
        found = wider.with_noise(noise_between(got, outputs(exact=False), rulers)).compare(got, tolerance)
        bad = [each for each in found if not each.worst <= tolerance]
    if not bad:
        return found
    culprit = next(filter(None, (first_difference(model, ncnn, feed, tolerance) for feed in feeds)), None)
    start = f"; the first layer that differs makes {culprit}" if culprit is not None else ""
    worst = max(bad, key=lambda each: each.worst)
    texts = told_apart(worst.worst, tolerance)
    raise VerificationError(
        f"ncnn disagrees with onnxruntime: {worst.place()} differs by {texts[0]} of its spread, allowed {texts[1]}"
        f"{f' ({worst.note})' if worst.note else ''}{start}",
        node=culprit.blob if culprit is not None else None,
        hint="please report this model; --emit onnx writes the ONNX file alone",
    )


def _summed(ruler: Ruler, values: Sequence[Array]) -> Ruler:
    """The same where a column may be off by what summing a whole map one by one costs, as a global pool does."""
    largest = np.max([np.abs(ruler.meaning.table(value)).max(axis=0, initial=0.0) for value in values], axis=0)
    cost = np.where(ruler.meaning.scores, 0.0, SUMMED * ruler.unit * largest)
    return replace(ruler, floor=np.maximum(ruler.floor, cost))


def _like(value: Array, expected: Array) -> Array:
    """ncnn knows no batch and drops extents of 1: the same elements count as the same shape."""
    return value.reshape(expected.shape) if value.size == expected.size else value


def half_weights(model: Model, full: frozenset[str] = frozenset()) -> Model:
    """A copy whose convolutions' and linear layers' weights are rounded to fp16, but for layers stored in `full`."""
    rounded = model.copy()
    for node in rounded.graph.nodes:
        weight = input_constant(node, 1) if node.op in LINEAR else None
        if weight is not None and weight.ndim > 1 and safe_name(node.name) not in full:
            replace_constant(node, 1, weight.astype(np.float16).astype(weight.dtype))
    return rounded


def known_tensors(model: Model, names: Mapping[str, str]) -> dict[str, str]:
    """Those of blob → ONNX name whose tensor the model has under that name and computes."""
    present = {tensor.name for node in model.graph.nodes for tensor in node.outputs}
    return {blob: name for blob, name in names.items() if name in present}


def run_tensors(model: Model, names: Sequence[str], feed: Mapping[str, Array]) -> dict[str, Array]:
    """Inner tensors and outputs by name, computed by onnxruntime without its optimisations."""
    proto = model.to_onnx()
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    runner = session(proto, optimise=False, threads=1)
    names_of = {"float": "float32", "double": "float64"}
    types = {given.name: given.type.removeprefix("tensor(").rstrip(")") for given in runner.get_inputs()}
    types = {name: names_of.get(kind, kind) for name, kind in types.items()}
    results = runner.run(list(names), {name: feed[name].astype(kind) for name, kind in types.items()})
    return dict(zip(names, results, strict=True))


@contextmanager
def _pair(ncnn: NcnnModel) -> Iterator[tuple[Path, Path]]:
    with private_folder("onnxslim-ncnn-") as folder:
        yield write_pair(ncnn, folder)
