"""Is a network told that was never trained to detect? What `verify.alive` goes by, of trained and of random ones.

    python bench/untrained.py            writes bench/results/untrained.md
    python bench/untrained.py NAME …     only these, printed

Trained: the bundled models and those of ../shared/material, on made-up photographs, as where the user gives no images,
and on real ones where there are some. Random: every detector of the zoo as PyTorch initialises it; the same with the
last biases of its trainers, set for rare objects; with the weights under which tests run (`randomise`); and these with
such biases and every BatchNorm's gain a tenth larger. The figures are those of `verify.disorder`: by how many logits
the highest hundredth of the scores, and the best, are above those of the same images in disorder, noise + 2 phase.

One that fires in more than half of its cells is told by that. The thresholds were chosen on these rows. Held out, of
those that do not: for each network in turn (all weights and sizes of it) the mean of what the others leave between
trained and random is taken for the hundredth: is it right for this?
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
from accuracy import BCCD, COCO, DIGITS, HERE, MATERIAL
from torch import nn

from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load import load
from onnxslim_yolo.load.trace import trace
from onnxslim_yolo.models.demo.train_digits import write_digits
from onnxslim_yolo.models.heads import AnchorDetect
from onnxslim_yolo.models.heads_dfl import Detect
from onnxslim_yolo.models.yolov6 import Detect as DetectV6
from onnxslim_yolo.models.zoo.architectures import build, randomise
from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.runtime.onnx_run import Feeds, run_each
from onnxslim_yolo.verify.alive import CONFIDENCE, FAINT, _Seen, scores_of
from onnxslim_yolo.verify.disorder import BEST, HALF, HUNDREDTH, SHOWN, disordered, looks_trained, rises
from onnxslim_yolo.verify.scenes import scene_feeds
from tests.zoo import DETECTORS, images

RESULT = HERE / "results" / "untrained.md"
COUNT, SIDE, CLASSES = 4, 256, 20
KINDS = ("initialised", "initialised, rare", "random", "random, rare, louder")
WEIGHTS = MATERIAL / "weights"
TRAINED: dict[str, tuple[Path, tuple[tuple[int, int] | None, ...], Path]] = {
    "yolov5n": (WEIGHTS / "yolov5n-coco-v6.pt", ((320, 320), (640, 640)), COCO),
    "v5lite-s": (WEIGHTS / "v5lite-s-coco.pt", ((320, 320), (416, 416)), COCO),
    "yolo-fastest": (WEIGHTS / "yolo-fastest-1.1.cfg", ((320, 320),), COCO),
    "FastestDet": (WEIGHTS / "FastestDet.onnx", (None,), COCO),
    "bccd-dense": (HERE.parent / "models" / "bccd-dense.onnx", (None,), BCCD),
    "bccd-sparse": (HERE.parent / "models" / "bccd-sparse.onnx", (None,), BCCD),
    "digits-dense": (HERE.parent / "models" / "digits-dense.onnx", (None,), DIGITS),
    "digits-rep": (HERE.parent / "models" / "digits-rep.onnx", (None,), DIGITS),
    "digits-sparse": (HERE.parent / "models" / "digits-sparse.onnx", (None,), DIGITS),
}


@dataclass(frozen=True)
class Row:
    """One network on one kind of image: cells that fire, the highest score, both rises above disorder, what is said."""

    name: str
    what: str
    trained: bool
    fires: float
    best: float
    hundredth: float
    rise: float
    said: bool

    @property
    def silent(self) -> bool:
        """Whether nothing scores at all: then nothing is said, and nothing follows."""
        return self.best < FAINT

    @property
    def right(self) -> bool:
        """Whether it is told for what it is."""
        return self.silent or self.said == self.trained


def rows(names: list[str]) -> Iterator[Row]:
    """All of them, or those of the names."""
    for name, (file, sizes, data) in TRAINED.items():
        if names and name not in names:
            continue
        if data == DIGITS and not DIGITS.is_file():
            write_digits(DIGITS.parent)
        for size in sizes if file.is_file() else ():
            model = load(file, imgsz=size)
            at = "x".join(map(str, model.graph.inputs[0].shape[2:]))
            shown = {"made-up": scene_feeds(model, COUNT)}
            listed = sorted(p for p in (data.parent / "images").rglob("*") if p.suffix in (".jpg", ".png"))[:16]
            if listed:
                shown["real"] = _real(model, listed)
            for kind, feeds in shown.items():
                row = _row(name, f"trained, {at}, {kind}", True, model, feeds)
                if row is not None:
                    yield row
    for name in DETECTORS:
        if names and name not in names:
            continue
        for what in KINDS:
            try:
                model = _random(name, what)
            except VerificationError as error:  # equal scores come in any order
                print(f"left out: {name}, {what}: {error.message}", flush=True)
                continue
            if model is None:
                continue
            row = _row(name, what, False, model, scene_feeds(model, COUNT))
            if row is None:
                print(f"left out: {name}, {what}: its head is not known", flush=True)
            else:
                yield row


def _random(name: str, what: str) -> Model | None:
    module: nn.Module = build(name, nc=CLASSES, width=1.0, seed=0)
    module = randomise(module, 0) if what.startswith("random") else module.eval()
    if "rare" in what and not _make_rare(module):
        return None
    for part in module.modules() if "louder" in what else ():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data *= 1.1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.onnx"
        proto = trace(module, images(1, SIDE))
        onnx.helper.set_model_props(proto, _metadata(name))
        onnx.save(proto, str(file))
        return load(file)


def _metadata(name: str) -> dict[str, str]:
    """As an exporter writes it: without, masks and points would be taken for scores."""
    task = {"seg": "segment", "pose": "pose", "obb": "obb"}.get(name.rpartition("-")[2], "detect")
    found = {"task": task, "stride": "32", "names": str({i: str(i) for i in range(CLASSES)})}
    return found | ({"kpt_shape": "[17, 3]"} if task == "pose" else {})


def _make_rare(module: nn.Module) -> int:
    """The last biases as trainers set them: eight objects an image of 640 pixels, or five. How many were set."""
    count = 0
    for part in module.modules():
        if isinstance(part, AnchorDetect):
            for layer, stride in zip(part.m, part.stride, strict=True):
                bias = layer.bias.data.view(part.na, -1)
                bias[:, 4] += math.log(8 / (640 / stride) ** 2)
                bias[:, 5 : 5 + CLASSES] += math.log(0.6 / (CLASSES - 1))
                count += 1
        elif isinstance(part, Detect):
            for name in ("cv3", "one2one_cv3"):
                for tower, stride in zip(getattr(part, name) or (), part.stride, strict=False):
                    tower[-1].bias.data[:] = math.log(5 / CLASSES / (640 / stride) ** 2)
                    count += 1
        elif isinstance(part, DetectV6):
            for layer in part.cls_preds:
                layer.bias.data[:] = -math.log(99)
                count += 1
    return count


def _real(model: Model, listed: list[Path]) -> list[Feeds]:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "images.txt"
        text.write_text("\n".join(map(str, listed)) + "\n")
        found = CalibrationImages(text, model)
        return [{model.graph.inputs[0].name: found[k]} for k in range(len(found))]


def _row(name: str, what: str, trained: bool, model: Model, feeds: list[Feeds]) -> Row | None:
    seen = [_Seen.of(model, feed, out, out) for feed, out in zip(feeds, run_each(model, feeds), strict=True)]
    scores = np.concatenate([one.scores for one in seen])
    head = seen[0].head
    if head is None or not len(scores):
        return None
    disorder = [scores_of(model, each, head) for each in disordered(feeds)]
    fires = float((scores > CONFIDENCE).mean())
    first = np.concatenate([one.scores for one in seen[:SHOWN]])
    said = looks_trained(first, *disorder, every=head.kind != "end2end")
    return Row(name, what, trained, fires, float(first.max()), *rises(first, *disorder), said)


def held_out(found: list[Row]) -> list[str]:
    """Per network the threshold that the others give, and whether it is right for this one."""
    lines = []
    usable = [row for row in found if not row.silent and row.fires <= HALF]
    for name in dict.fromkeys(row.name for row in usable):
        others = [row for row in usable if row.name != name]
        low = max(row.hundredth for row in others if not row.trained)
        high = min(row.hundredth for row in others if row.trained)
        middle = (low + high) / 2
        mine = [row for row in usable if row.name == name]
        wrong = [row.what for row in mine if (row.hundredth >= middle) != row.trained]
        cells = (name, f"{low:.2f} to {high:.2f}", f"{middle:.2f}", "; ".join(wrong) or "right")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def table(found: list[Row]) -> str:
    """Markdown."""
    wrong = [row for row in found if not row.right]
    head = ["| network | what | fires in | highest | hundredth rises by | best rises by | told as |",
            "|---|---|---:|---:|---:|---:|---|"]  # fmt: skip
    lines = []
    for row in found:
        told = "sees nothing" if row.silent else "trained" if row.said else "never trained"
        told = told if row.right else f"**{told}**"
        cells = (row.name, row.what, f"{row.fires:.1%}", f"{row.best:.2f}", f"{row.hundredth:.2f}", f"{row.rise:.2f}")
        lines.append(f"| {' | '.join((*cells, told))} |")
    parts = [
        (__doc__ or "").split("    python")[0].strip(),
        (__doc__ or "").split("only these, printed")[1].strip(),
        f"{len(found)} rows, {len(wrong)} told for what they are not. Thresholds: {HUNDREDTH:g} logits of the highest "
        f"hundredth, or {BEST:g} of the best.",
        "\n".join([*head, *lines]),
        "Held out (the hundredth's threshold from all other networks; those whose scores count):",
        "\n".join(["| network | others leave | middle | this one |", "|---|---|---:|---|", *held_out(found)]),
    ]
    return "# Trained or not\n\n" + "\n\n".join(parts) + "\n"


def main(names: list[str]) -> int:
    """Measure; write where all were asked for. 1 where one is told for what it is not."""
    found = []
    for row in rows(names):
        found.append(row)
        print(row, flush=True)
    text = table(found)
    print(text)
    if not names:
        RESULT.write_text(text, encoding="utf-8")
    return int(any(not row.right for row in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
