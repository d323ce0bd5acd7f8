"""Is an int8 file what its plan says? Every tensor with codes, against the simulation of the same whole numbers.

The file is run as it is, its codes are looked at, and each is held against what the layer before it yields from the
file's own codes, in float arithmetic that knows nothing of int8 (see `quantisation.simulate`). A code may be no more
than half a step off, and `SLACK`. What the decode makes of the last codes has to agree as closely as outputs of float
graphs do, column by column. Both in onnxruntime as it optimises (int8 kernels) and as it does not.

The control: all quantised weights 1 % off, which has to show in every layer, and behind the last of them in every kind
of column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.files.atomic import private_folder
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.registry import INT8_LAYERS
from onnxslim_yolo.quantisation.plan import Quantisation, reasons
from onnxslim_yolo.quantisation.qdq import CODES_OF
from onnxslim_yolo.quantisation.simulate import Runner, Simulation, off_by
from onnxslim_yolo.quantisation.weights import overflows_here
from onnxslim_yolo.runtime.onnx_run import Feeds, run_onnx, with_outputs
from onnxslim_yolo.verify.chain import Check
from onnxslim_yolo.verify.compare import TOLERANCE, Difference
from onnxslim_yolo.verify.control import SPOILED_BY, Control
from onnxslim_yolo.verify.judge import Judge, judge_from
from onnxslim_yolo.verify.ruler import Ruler

if TYPE_CHECKING:
    from onnxslim_yolo.verify.files import Verification

SLACK = 2e-3
"""Of a code: the simulation's own float32 arithmetic. Seen: up to 2e-5."""

KERNELS = ("onnxruntime, int8", "onnxruntime, codes in float")


@dataclass
class Int8Verification:
    """The comparisons of an int8 file.

    Attributes:
        checks: of codes, and of outputs behind them. controls: what weights 1 % off show, per kind of output column,
            the least visible first. blind: layers in whose codes they do not show.
        kernels: how many layers onnxruntime computes in int8 here.
    """

    checks: list[Check] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)
    kernels: int = 0

    def as_json(self) -> dict[str, Any]:
        """What the report says beside the comparisons."""
        controls = [asdict(control) for control in self.controls]
        return {"spoiled_by": SPOILED_BY, "kinds": controls, "blind": self.blind, "kernels": self.kernels}

    @property
    def failed(self) -> Check | None:
        """The first comparison that does not pass."""
        return next((check for check in self.checks if not check.passed), None)


def verify_quantised(model: Model, plan: Quantisation, file: Path, feeds: Sequence[Feeds]) -> Int8Verification:
    """Run an int8 file and compare.

    Args:
        model: the float graph. plan: what is int8 of it. file: what was written of both.
        feeds: inputs.

    Raises:
        VerificationError: the file does not compute what the plan says; the message names the layer or the output.
    """
    found = Int8Verification(kernels=int8_kernels(file))
    simulation = Simulation.of(model, plan)
    runner, optimised = simulation.runner(), simulation.runner(optimise=True)
    named = [name + CODES_OF for name in simulation.tensors]
    label = f"simulation = {file.name}"
    ways = list(zip((True, False), KERNELS, strict=True))
    if overflows_here(plan):
        ways = ways[1:]  # int8 kernels of this machine overflow; those of the machine that it is for do not
    for optimise, runtime in ways:
        runs = run_onnx(with_outputs(file, named), list(feeds), optimise=optimise)
        plain = run_onnx(file, list(feeds), optimise=optimise)
        codes = [{name: run[name + CODES_OF] for name in simulation.tensors} for run in runs]
        expected = [runner.outputs(feed, one) for feed, one in zip(feeds, codes, strict=True)]
        judge = judge_from(model, feeds, expected, [optimised.outputs(feeds[-1], codes[-1])])  # what rounding costs
        found.checks.append(Check(label, runtime, _codes(runner, feeds, codes), SLACK))
        found.checks.append(Check(f"decode of its codes = {file.name}", runtime, judge.compare(plain), TOLERANCE))
        _require(found, file)
        if runtime == ways[0][1]:
            _control(found, model, plan, feeds[-1], codes[-1], (runner, judge, expected[-1]))
    return found


def add_quantised(found: Verification, model: Model, written: Model, file: Path) -> None:
    """Check an int8 file among the rest, and note on the model what is to be known. Raises as `verify_quantised`.

    Args:
        model: the float graph of known size. written: the same as it was written, its size open or not.
    """
    plan = model.quantised
    if plan is None:
        return
    here = verify_quantised(written, plan, file, found.feeds)
    found.int8 = here
    found.checks += here.checks
    for note in _notes(plan, here):
        model.note(note)


def _notes(plan: Quantisation, here: Int8Verification) -> list[str]:
    every, count = len(plan.layers) + len(plan.left), len(plan.layers)
    notes = [
        f"int8: {count} of {every} layers in the ONNX file, ranges by {plan.chosen}, head error {plan.error or 0:.2f}"
    ]
    if plan.links:
        notes.append(
            f"int8: channels behind {len(plan.links)} layers were made equally large ({plan.equalised}), exactly"
        )
    notes += [f"int8: {number} stay float: {why}" for why, number in reasons(plan.left.values()).items()]
    if overflows_here(plan):
        notes.append("int8: not run with this machine's kernels, which overflow (for such machines: --for x86-avx2)")
    if here.kernels < count:
        notes.append(f"int8: onnxruntime computes {here.kernels} of {count} layers in int8 here, the others in float")
    if here.blind:
        notes.append(f"blind: int8: weights 1 % off do not show in {', '.join(here.blind[:4])}")
    return notes


def int8_kernels(file: Path) -> int:
    """How many layers with weights onnxruntime computes on codes on this machine."""

    import onnx
    import onnxruntime as ort

    with private_folder() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(folder / "optimised.onnx")
        ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return sum(node.op_type in INT8_LAYERS for node in optimised.graph.node)


def _codes(runner: Runner, feeds: Sequence[Feeds], codes: Sequence[Feeds]) -> list[Difference]:
    """The tensors whose codes are farthest off, the worst first."""
    worst: dict[str, Difference] = {}
    for feed, one in zip(feeds, codes, strict=True):
        for name, real in runner.real(feed, one):
            off = _off(one[name], real)
            if name not in worst or not off.worst <= worst[name].worst:
                worst[name] = Difference(name, off.worst, off.absolute, 1.0, off.at, off.note, "code")
    return sorted(worst.values(), key=lambda d: -d.worst)[:4]


def _off(codes: Array, real: Array) -> Difference:
    if codes.shape != real.shape:
        return Difference("", float("inf"), float("inf"), 0.0, note=f"shape {codes.shape}, expected {real.shape}")
    if not codes.size:
        return Difference("", 0.0, 0.0, 0.0)
    off = np.nan_to_num(off_by(codes, real), nan=np.inf)
    at = np.unravel_index(int(off.argmax()), off.shape)
    return Difference("", max(float(off[at]), 0.0), float(off[at]) + 0.5, 1.0, tuple(int(i) for i in at))


def _control(
    found: Int8Verification,
    model: Model,
    plan: Quantisation,
    feed: Feeds,
    codes: Feeds,
    known: tuple[Runner, Judge, Feeds],
) -> None:
    """Weights 1 % off: in which layers' codes that shows, and in which kinds of columns."""
    spoiled = Simulation.of(model, plan, SPOILED_BY).runner()
    writers = {layer.writes: layer.name for layer in plan.layers.values()}
    wrong: Feeds = {}
    for name, real in spoiled.real(feed, codes):
        if name in writers:
            wrong[name] = np.clip(np.rint(real), 0, 255).astype(np.uint8)
            if not (off_by(codes[name], real) > 2 * SLACK).any():
                found.blind.append(writers[name])
    runner, judge, expected = known
    found.controls = _shown(judge, expected, runner.outputs(feed, codes | wrong))


def _shown(judge: Judge, expected: Feeds, spoiled: Feeds) -> list[Control]:
    shown: dict[str, Control] = {}
    for name, ruler in judge.rulers.items():
        if not expected[name].size or expected[name].shape != spoiled[name].shape:  # other rows are found: it shows
            continue
        share = ruler.delta(expected[name], spoiled[name]).max(axis=0) / ruler.scale(TOLERANCE)
        for kind, mine in _kinds(ruler):
            blind = bool(ruler.blind[mine].all())
            control = Control(kind, "all int8 layers", float(share[mine].min()), blind)
            if kind not in shown or control.worst < shown[kind].worst:
                shown[kind] = control
    return sorted(shown.values(), key=lambda control: (control.blind, control.worst))


def _kinds(ruler: Ruler) -> list[tuple[str, Array]]:
    kinds = np.array([ruler.meaning.kind(column) for column in range(ruler.meaning.count)])
    return [(kind, kinds == kind) for kind in dict.fromkeys(kinds.tolist())]


def _require(found: Int8Verification, file: Path) -> None:
    failed = found.failed
    if failed is None:
        return
    worst = max(failed.differences, key=lambda d: d.worst)
    what = f"{worst.worst:.2g} of a step" if failed.tolerance == SLACK else f"{worst.worst:.2e} of its spread"
    raise VerificationError(
        f"int8 is not what was planned ({failed.label}, in {failed.runtime}): {worst.place()} is off by {what}, "
        f"allowed {failed.tolerance:g}",
        file=file,
        hint="nothing was written; where this processor adds int8 products in 16 bits, --for x86-avx2 keeps to 7 bits",
    )
