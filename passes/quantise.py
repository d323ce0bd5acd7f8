"""quantise: which layers the files compute in int8, and with which numbers, from calibration images.

    y = Σ W·x + b   becomes   y ≈ s_x · s_o · (Σ w · (c − z) + β)        w, c, β whole numbers (see `quantisation.plan`)

per convolution or product with a constant matrix, with one step s_o per output channel and one range per tensor. The
graph computes what it did: weights of neighbours may be scaled by powers of two against each other, which is exact (see
`quantisation.equalise`). Else only the plan of what is int8 is made here, and the files are written by it (NCNN's pair:
see `emit.ncnn.int8`). So everything before this pass is verified as exactly as without it, and the files against a
simulation of the same whole numbers (`verify.quantised`, `verify.ncnn_int8`).

What stays float: the decode behind the last layers, whatever has no int8 kernel, what is not asked for, and with
`auto` what costs more of the detector's accuracy than is allowed, the most costly first, and what int8 does not make
faster by the latency table (see `quantisation.latency`). A result that the table calls slower than the float one stays
float as a whole. A table without int8 times says nothing of that; a note tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np

from onnxslim_yolo.errors import InputError, UnsupportedError, UsageError
from onnxslim_yolo.ir.attributes import since
from onnxslim_yolo.ir.graph import Array, Node
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.devices import DeviceName
from onnxslim_yolo.latency.int8 import knows_int8
from onnxslim_yolo.latency.packing import Runtime
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.latency.table import LatencyTable
from onnxslim_yolo.ops.linear import LINEAR
from onnxslim_yolo.passes.protocol import Effect
from onnxslim_yolo.passes.prune import matches_layer
from onnxslim_yolo.pruning.calibration_images import HELD_OUT, CalibrationImages, evenly
from onnxslim_yolo.quantisation.choose import BUDGET, quantise
from onnxslim_yolo.quantisation.equalise import equalise
from onnxslim_yolo.quantisation.latency import LEAST, NOTHING, faster_layers, plan_prediction
from onnxslim_yolo.quantisation.places import decoding, no_kernel
from onnxslim_yolo.quantisation.plan import Quantisation
from onnxslim_yolo.quantisation.weights import WHOLE
from onnxslim_yolo.runtime.processor import NARROW

ENOUGH = 8
"""Images that show something, at least: ranges of fewer are an accident."""

MOST = 32
"""Images at most, evenly picked."""

ALL, AUTO = "all", "auto"
UNKNOWN = (
    "int8: the latency table has no int8 times ({}), so layers that int8 slows down are not told apart: "
    "`onnxslim-yolo profile MODEL --int8` on the device measures them, for --table"
)


@dataclass(frozen=True)
class Quantise:
    """Choose what is int8 in the files.

    Args:
        layers: "auto", "all", or patterns of layers' names.
        calib: unlabelled images: a folder, a list, or a data.yaml.
        budget: the detector's error that "auto" allows (see `pruning.head_error`).
        narrow: weights of 7 bits, for processors whose kernels add pairs of products in 16 bits.
        runtime, isa, table, threads: what latency is judged by: see the pass `snap`.
    """

    name: ClassVar[str] = "quantise"
    effect: ClassVar[Effect] = "plan"

    layers: tuple[str, ...] = (AUTO,)
    calib: Path | None = None
    budget: float = BUDGET
    narrow: bool = False
    runtime: Runtime = "ncnn"
    isa: DeviceName = "host"
    table: Path | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise UsageError(f"the error allowed to int8 must be above 0, not {self.budget}")

    def run(self, model: Model) -> int:
        """Put the plan on the model; returns how many layers are int8.

        Raises:
            UsageError: no `calib`, or a pattern matches no layer. InputError: too few images, or numbers that are none.
            UnsupportedError: a layer asked for by name, or every one, has no int8 kernel.
        """
        if model.quantised is not None:
            return 0
        if self.calib is None:
            raise UsageError("int8 needs images to measure ranges on", hint="give unlabelled ones with --calib DIR")
        _require_opset(model)
        _require_float32(model)
        images = calibration(self.calib, model)
        wanted = _wanted(model, self.layers)
        auto = AUTO in self.layers
        table = table_for(self.runtime, self.isa, self.table, self.threads)
        known = knows_int8(table)
        if auto and known:
            wanted, predicted = faster_layers(model, table, wanted)
            if predicted.left == 1:
                model.note(f"int8: everything stays float: {NOTHING} ({table.name})")
                return 0
        elif auto:
            model.note(UNKNOWN.format(table.name))
        largest = NARROW if self.narrow else WHOLE
        plan = quantise(model, images, wanted, budget=self.budget if auto else None, largest=largest, judged=known)
        if known:
            slower = _slower(model, plan, table)
            if slower is not None and auto:
                model.note(f"int8: everything stays float: {slower}")
                return 0
            if slower is not None:
                model.note(f"int8: {slower}; --quantize int8 leaves float what it does not make faster")
        equalise(model, plan.links)
        model.quantised = plan
        return len(plan.layers)


def _slower(model: Model, plan: Quantisation, table: LatencyTable) -> str | None:
    """That the table calls a plan no faster than the float network, or None."""
    left = plan_prediction(model.graph, table, plan).left
    return (
        f"predicted {left:.2f} of the float network's latency ({table.name})" if left > LEAST[table.runtime] else None
    )


def calibration(calib: Path, model: Model) -> list[Array]:
    """Images to measure ranges on, those that show nothing left out.

    Raises:
        InputError: too few of them.
    """
    images = CalibrationImages(calib, model)
    held = HELD_OUT if images.splits else 0  # the loss is estimated on those
    shown = [index for index in range(len(images)) if not images.is_blank(index)]
    blank = len(images) - len(shown)
    first: dict[bytes, int] = {}
    for index in shown:
        first.setdefault(sha256(images.canvas(index).tobytes()).digest(), index)
    same, shown = len(shown) - len(first), list(first.values())
    if len(shown) < ENOUGH:
        few = f"{len(shown)} image{'' if len(shown) == 1 else 's'}"
        few += f" that show something ({blank} blank)" if blank else ""
        few += f", not counting {same} that are the same as others" if same else ""
        raise InputError(
            f"int8 needs at least {ENOUGH} images to measure ranges on, and there are {few}",
            file=calib,
            hint="give some 32 like those that the detector will see",
        )
    for count, what in ((blank, "blank"), (same, "the same as others")):
        if count:
            model.note(f"int8: {count} of {len(images)} calibration images are {what}, and left out")
    fitted = [index for index in shown if not held or index % held != held - 1]
    return [images[fitted[i]] for i in evenly(MOST, len(fitted))]


def _require_opset(model: Model) -> None:
    if model.opset < since("QuantizeLinear"):
        raise UnsupportedError(
            f"int8 is written with QuantizeLinear, which opset {model.opset} has not",
            file=model.source.file,
            hint="convert it with onnx.version_converter, or export it with opset_version=17",
        )


def _require_float32(model: Model) -> None:
    """Whole numbers are pixels, which the first layers make floats of; half precision is another arithmetic."""
    kinds = {np.dtype(t.dtype) for t in model.graph.inputs if t.dtype is not None}
    kinds = {str(kind) for kind in kinds if kind.kind not in "iu" and kind != np.float32}
    if kinds:
        raise UnsupportedError(
            f"int8 is made of float32 networks, and this one reads {', '.join(sorted(kinds))}",
            file=model.source.file,
            hint="export it in float32 (half=False), or leave --quantize out",
        )


def _wanted(model: Model, layers: tuple[str, ...]) -> Callable[[Node], str | None]:
    """Why a layer is to stay float, by what was asked for. Raises UsageError, UnsupportedError."""
    patterns = [each for each in layers if each not in (ALL, AUTO)]
    if not patterns:
        return lambda node: None
    tail = decoding(model.graph)
    nodes = [node for node in model.graph.nodes if node.op in LINEAR]
    for pattern in patterns:
        hits = [node for node in nodes if matches_layer(pattern, node) and id(node) not in tail]
        if not hits:
            hint = "`onnxslim-yolo inspect MODEL` lists the layers"
            raise UsageError(f"--quantize '{pattern}' matches no layer that could be int8", hint=hint)
        why = [no_kernel(node) for node in hits]
        if all(why):
            raise UnsupportedError(f"'{pattern}' cannot be int8: {why[0]}", node=hits[0].name)
    return lambda node: (
        None if any(matches_layer(each, node) for each in patterns) else "it is not among those asked for"
    )
