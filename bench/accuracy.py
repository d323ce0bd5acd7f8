"""mAP of a pruned detector without training: by importance × compensation × allocation, at 10 to 70 % fewer MACs.

    python bench/accuracy.py                                       everything that is missing, the main rows first
    python bench/accuracy.py --model yolov5n-coco-v6.pt --size 640 --only output/reconstruct/global
    python bench/accuracy.py --latency                             the best method at the widths of a compilation
    python bench/accuracy.py --peers VENV/bin/python               with onnxsim and Torch-Pruning from that environment
    python bench/accuracy.py --table                               only write the table again

Calibrates on the data.yaml's `calib` images (or `train`, the first 64) without their labels, evaluates on its `val`
images with labels. Every figure is of an ONNX file as it was sliced, fused and written, run in onnxruntime. Rows that
are done are kept in the JSON and not run again, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from accuracy_table import IN_NCNN, SNAPPED, WITHOUT_QUARTER, write_table

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_ncnn
from onnxslim_yolo.errors import OnnxSlimError, UnsupportedError
from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.load import LoadOptions, read_model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.measure.evaluate import evaluate
from onnxslim_yolo.models.demo.train_digits import write_digits
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.passes import FoldBatchNorm, PruneChannels, Reconstruct
from onnxslim_yolo.passes.protocol import Pass
from onnxslim_yolo.pipeline import _folding, preparation, remainder
from onnxslim_yolo.runtime.dataset import read_calibration, read_dataset
from onnxslim_yolo.verify.detector import Detector, open_network

HERE = Path(__file__).resolve().parent
MATERIAL = HERE.parents[1] / "shared" / "material"
RESULT = HERE / "results" / "accuracy.json"
COCO, BCCD = (MATERIAL / "data" / name / "data.yaml" for name in ("coco-val128", "bccd"))
DIGITS = Path(tempfile.gettempdir()) / "onnxslim-yolo-digits" / "data.yaml"
"""Made on the spot; needs scikit-learn."""
CALIBRATION_IMAGES = 64


@dataclass(frozen=True)
class Subject:
    """A model, its input's (h, w), and its data.yaml."""

    file: Path
    size: tuple[int, int]
    data: Path

    @property
    def key(self) -> dict[str, Any]:
        """What its rows have in common. A square size is one number."""
        height, width = self.size
        return {"model": self.file.name, "size": height if height == width else f"{height}x{width}"}


SUBJECTS = (
    Subject(MATERIAL / "weights" / "yolov5n-coco-v6.pt", (640, 640), COCO),
    Subject(MATERIAL / "weights" / "v5lite-s-coco.pt", (416, 416), COCO),
    Subject(HERE.parent / "models" / "bccd-dense.onnx", (256, 320), BCCD),
    Subject(MATERIAL / "weights" / "yolo-fastest-1.1.cfg", (320, 320), COCO),
    Subject(HERE.parent / "models" / "bccd-sparse.onnx", (256, 320), BCCD),
    Subject(MATERIAL / "weights" / "yolov5n-coco-v6.pt", (320, 320), COCO),
    Subject(HERE.parent / "models" / "digits-dense.onnx", (192, 192), DIGITS),
    Subject(HERE.parent / "models" / "digits-sparse.onnx", (192, 192), DIGITS),
)

Method = tuple[str, str, str]
"""Importance, compensation, allocation."""

BEST: Method = ("output", "reconstruct", "global")
METHODS: tuple[Method, ...] = (
    BEST,
    ("variance", "constant", "global"),
    ("gamma", "none", "global"),
    ("gamma", "reconstruct", "global"),
    ("variance", "reconstruct", "global"),
    ("output", "constant", "global"),
    ("variance", "reconstruct", "curves"),
    ("output", "reconstruct", "curves"),
    ("gamma", "constant", "global"),
    ("variance", "none", "global"),
    ("weight", "reconstruct", "global"),
)
NEAR, FAR = (0.9, 0.8, 0.7), (0.6, 0.5, 0.3)

ABLATIONS = (
    "no views", "no match", "no window", "no fold", "not per MAC", "noise for gradients", "second order alone",
    "no convolution before Resize",
)  # fmt: skip
"""Parts of the best method, each switched off alone."""
ABLATED, ABLATED_AT = (0, 2), (0.9, 0.8, 0.7)

REPEATED = (0, 5)
"""Subjects whose best method is calibrated four times more, each time on three quarters of the images."""


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="only subjects whose file has this name")
    parser.add_argument("--size", type=int, help="only subjects of this height")
    parser.add_argument("--targets", type=float, nargs="+", default=())
    parser.add_argument("--only", nargs="*", default=[], help="importance/compensation/allocation, as in the table")
    parser.add_argument("--peers", type=Path, help="a Python with onnxsim and torch-pruning")
    parser.add_argument("--latency", action="store_true", help="the best method at default widths alone")
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    chosen = [s for s in SUBJECTS if given.model in (None, s.file.name) and given.size in (None, s.size[0])]
    if not given.table:
        if any(subject.data == DIGITS for subject in chosen) and not DIGITS.is_file():
            write_digits(DIGITS.parent)
        with tempfile.TemporaryDirectory(prefix="onnxslim-accuracy-") as folder:
            for step in _plan(chosen, given):
                _attempt(step, Path(folder))
    write_table(_rows(), RESULT.with_suffix(".md"))


@dataclass(frozen=True)
class Step:
    """Rows of one subject by one method (or one peer) at some shares of the MACs."""

    subject: Subject
    method: Method = BEST
    targets: tuple[float, ...] = ()
    variant: str = ""
    peers: Path | None = None


def _plan(chosen: Sequence[Subject], given: Any) -> list[Step]:
    """What to run, the most telling first: the best method everywhere, then rivals, then the rest."""
    if given.only:
        methods: list[Method] = [m for m in METHODS if "/".join(m) in given.only]
        return [Step(s, m, tuple(given.targets) or NEAR) for s in chosen for m in methods]
    near, far = (tuple(given.targets), ()) if given.targets else (NEAR, FAR)
    if given.latency:
        return [Step(s, BEST, near, SNAPPED) for s in chosen]
    steps = [Step(s, m, near) for m in METHODS[:3] for s in chosen]
    steps += [Step(s, BEST, far) for s in chosen]
    steps += [
        Step(SUBJECTS[i], BEST, ABLATED_AT, variant) for i in ABLATED if SUBJECTS[i] in chosen for variant in ABLATIONS
    ]
    steps += [
        Step(SUBJECTS[i], BEST, near, f"{WITHOUT_QUARTER}{quarter}")
        for i in REPEATED if SUBJECTS[i] in chosen for quarter in range(4)
    ]  # fmt: skip
    steps += [Step(s, BEST, near, variant) for variant in (IN_NCNN, SNAPPED) for s in chosen]
    if given.peers:
        steps += [Step(s, targets=(*near, *far), peers=given.peers) for s in chosen]
    return (
        steps
        + [Step(s, m, near) for m in METHODS[3:] for s in chosen]
        + [Step(s, m, far) for m in METHODS[1:] for s in chosen]
    )


def _attempt(step: Step, folder: Path) -> None:
    """Run a step's missing rows; what cannot be done is a row with its reason."""
    key = step.subject.key
    todo = [target for target in step.targets if not _known(_row(step, target))]
    if _known({**key, "importance": "source"}) and not todo and step.peers is None:
        return
    source, _ = read_model(step.subject.file, LoadOptions(step.subject.size, None, trust=False))
    PassManager(preparation(CompileOptions())).run(source)
    if not _known({**key, "importance": "source"}):
        _keep({**key, "importance": "source", "macs": 1.0, **_score(source, folder, step.subject.data)})
    if step.peers is not None:
        _run_peers(step, source, folder)
        return
    base = source.copy()
    for target in todo:
        try:
            found = _run(step, target, source, base, folder)
        except OnnxSlimError as error:
            found = {"failed": str(error)[:200]}
        _keep({**_row(step, target), **found})


def _row(step: Step, target: float) -> dict[str, Any]:
    importance, compensate, allocate = step.method
    row = {**step.subject.key, "importance": importance, "compensate": compensate, "allocate": allocate}
    return {**row, "target": target, **({"variant": step.variant} if step.variant else {})}


def _run(step: Step, target: float, source: Model, base: Model, folder: Path) -> dict[str, Any]:
    importance, compensate, allocate = step.method
    calibrated = compensate == "reconstruct" or importance == "output" or allocate == "curves"
    options = CompileOptions(
        importance=importance, compensate=compensate, allocate=allocate, target_macs=target,  # type: ignore[arg-type]
        snap="auto" if step.variant == SNAPPED else "none",
        calib=_calibration(step, folder) if calibrated else None,
    )  # fmt: skip
    start = time.perf_counter()
    model = base.copy()
    with _switched_off(step.variant):
        if step.variant == "not per MAC":
            options = replace(options, target_macs=None, prune=0.0)
            steps: list[Pass] = _without_per(options, model, target)
        else:
            steps = remainder(options, model)
        if base.plan is None:  # the ranking is made once, for all targets
            base.plan = model.plan
        PassManager([_changed(step.variant, one) for one in steps]).run(model)
    seconds = time.perf_counter() - start
    share = cost_of(model.graph).macs / cost_of(source.graph).macs
    score = _score_in_ncnn if step.variant == IN_NCNN else _score
    left = _latency(model) / _latency(_fused(source))
    found = {"macs": round(share, 4), "latency": round(left, 4), "seconds": round(seconds, 1)}
    return {**found, **score(model, folder, step.subject.data)}


def _fused(source: Model) -> Model:
    """The source as it is deployed, nothing pruned."""
    model = source.copy()
    PassManager(remainder(CompileOptions(prune=0.0, snap="none"), model)).run(model)
    return model


def _latency(model: Model) -> float:
    """µs in ncnn on x86 with AVX-512, by the table that a compilation for it judges by."""
    return table_for("ncnn", "x86-avx512").predict_graph(model.graph)


def _changed(variant: str, step: Pass) -> Pass:
    """The step with one part of the method switched off."""
    if isinstance(step, Reconstruct) and variant in ("no match", "no window"):
        return replace(step, match=variant != "no match", window=variant != "no window")
    if isinstance(step, Reconstruct) and variant == "no views":
        return replace(step, views=1)
    if isinstance(step, Reconstruct) and variant == "no fold":
        from onnxslim_yolo.passes import AbsorbConstants

        return AbsorbConstants()
    return step


def _without_per(options: CompileOptions, model: Model, target: float) -> list[Pass]:
    """The default steps, ranked by the loss alone instead of by the loss per MAC."""
    from onnxslim_yolo.passes import SnapWidths
    from onnxslim_yolo.reach import reach

    steps = remainder(replace(options, prune=0.1), model)
    prune = next(step for step in steps if isinstance(step, PruneChannels))
    found = reach(model, replace(prune, per="none", ratio=0.0), SnapWidths(to="none"), _folding(), macs=target)
    return [found if isinstance(step, PruneChannels) else step for step in steps]


def _refuse(*_: object, **__: object) -> None:
    raise UnsupportedError("switched off")


@contextmanager
def _switched_off(variant: str) -> Iterator[None]:
    """While this is open, a part is off: gradients as where an operator has none, further views, the variance."""
    with ExitStack() as patched:
        for name, value in _OFF.get(variant, {}).items():
            patched.enter_context(patch(f"onnxslim_yolo.{name}", value))
        yield


_OFF: dict[str, dict[str, Callable[..., Any]]] = {
    "noise for gradients": {"passes._second_order.curvatures": _refuse},
    "second order alone": {"passes._ranking.average": lambda fitted, variance: fitted},
    "no views": {"passes._ranking.views_for": lambda images: 1},
    "no convolution before Resize": {
        "analysis.plan_cost.enlarged_inputs": lambda graph: {},
        "passes.conv_before_resize.ConvBeforeResize.run": lambda *_: 0,
    },
}


def _calibration(step: Step, folder: Path) -> Path:
    """The data.yaml's calibration images; of many, the first ones, as a list; a quarter less for a repetition."""
    data = step.subject.data
    paths = read_calibration(data)
    if len(paths) <= CALIBRATION_IMAGES and not step.variant.startswith(WITHOUT_QUARTER):
        return data
    paths = paths[:CALIBRATION_IMAGES]
    if step.variant.startswith(WITHOUT_QUARTER):
        left_out = int(step.variant.removeprefix(WITHOUT_QUARTER))
        paths = tuple(path for i, path in enumerate(paths) if i % 4 != left_out)
    listed = folder / f"{data.parent.name}-calibration.txt"
    listed.write_text("\n".join(str(path.resolve()) for path in paths) + "\n")
    return listed


def _run_peers(step: Step, source: Model, folder: Path) -> None:
    """Other tools, each in its own process, on the graph as it is read (BatchNorm kept) and as exporters write it."""
    rows = [{**step.subject.key, "importance": "peer", "target": t, "peer": p} for t in step.targets for p in PEERS]
    if all(_known(row) for row in rows):
        return
    kept = source.save(folder / "kept.onnx")
    folded = source.copy()
    PassManager([FoldBatchNorm()]).run(folded)
    plain = folded.save(folder / "folded.onnx")
    for row in rows:
        if _known(row):
            continue
        out = folder / "peer.onnx"
        command = [step.peers, HERE / "accuracy_peers.py", row["peer"], kept, plain, out, "--macs", str(row["target"])]
        there = {**os.environ, "PYTHONPATH": str(HERE.parent)}  # counts MACs with this package
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=there)
        if done.returncode:
            _keep({**row, "failed": done.stderr.strip().splitlines()[-1][:200] if done.stderr.strip() else "fails"})
            continue
        _keep({**row, **json.loads(done.stdout.strip().splitlines()[-1]), **_score_file(out, step.subject.data)})


PEERS = ("onnxsim 0.8.1", "onnxsim 0.8.1, layer by layer", "Torch-Pruning 1.6.1, γ", "Torch-Pruning 1.6.1, L2")


def _score(model: Model, folder: Path, data: Path) -> dict[str, float]:
    return _score_file(model.save(folder / "result.onnx"), data)


def _score_in_ncnn(model: Model, folder: Path, data: Path) -> dict[str, float]:
    return _score_file(write_ncnn(emit_ncnn(model), folder / "result_ncnn", model.metadata), data)


def _score_file(path: Path, data: Path) -> dict[str, float]:
    dataset = read_dataset(data, ("val",))
    found = evaluate(Detector(open_network(path, threads=1), nc=len(dataset.names)), dataset)
    return {"map50": round(found.map50, 4), "map": round(found.map, 4)}


def _rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(RESULT.read_text()) if RESULT.is_file() else []
    return found


def _known(wanted: dict[str, Any]) -> bool:
    return any(
        all(row.get(k) == v for k, v in wanted.items()) and row.get("variant") == wanted.get("variant")
        for row in _rows()
    )


def _keep(row: dict[str, Any]) -> None:
    """Add a row to the files. They are read again, since another run may have added some."""
    print(json.dumps(row), flush=True)
    rows = [*_rows(), row]
    RESULT.parent.mkdir(exist_ok=True)
    write_atomically(RESULT, json.dumps(rows, indent=1) + "\n")
    write_table(rows, RESULT.with_suffix(".md"))


if __name__ == "__main__":
    main()
