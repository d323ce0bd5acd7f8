"""Is a network told that was never trained to detect? What `verify.alive` goes by, of trained and of random ones.

    python bench/untrained.py            writes bench/results/untrained.md
    python bench/untrained.py NAME …     only these, printed

Trained: the bundled models and those of ../shared/material. Random: every detector of the zoo, as PyTorch initialises
it and with the weights under which tests run (`randomise`), two seeds each. Each is shown made-up photographs, as
where the user gives no images, and real ones where there are some. Two figures: the share of cells that fire (score
above 0.25), and by how many logits the highest hundredth of the cells' scores is above their median, which stays the
same whatever the last bias: where biases set for rare objects keep a random network from firing, it is all there is.

The threshold for the latter, `EVEN`, was chosen on few networks. Held out: for each network in turn (both weights and
all sizes of it) the geometric mean of what the others leave between trained and random is taken: is it right for this?
"""

from __future__ import annotations

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
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load import load
from onnxslim_yolo.load.trace import trace
from onnxslim_yolo.models.demo.train_digits import write_digits
from onnxslim_yolo.models.zoo.architectures import build, randomise
from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.runtime.onnx_run import Feeds, run_each
from onnxslim_yolo.verify.alive import CONFIDENCE, EVEN, FAINT, UNTRAINED, UNTRAINED_BEST, _Seen, _untrained
from onnxslim_yolo.verify.scenes import scene_feeds
from tests.zoo import DETECTORS, images

RESULT = HERE / "results" / "untrained.md"
COUNT, SIDE, CLASSES, SEEDS = 4, 256, 20, 2
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
    """One network on one kind of image: cells that fire, the highest score, logits of the best over the median."""

    name: str
    what: str
    trained: bool
    fires: float
    best: float
    over: float
    said: bool
    rows_only: bool

    @property
    def right(self) -> bool:
        """Whether it is told for what it is; where nothing scores at all, nothing is said and nothing follows."""
        return self.said != self.trained or (not self.trained and self.best < FAINT)

    @property
    def biased(self) -> bool | None:
        """Whether a random one would be told with any bias; of an end-to-end head's best rows that is no question."""
        return None if self.trained or self.rows_only else self.over < EVEN


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
            yield _row(name, f"trained, {at}, made-up", True, model, scene_feeds(model, COUNT))
            listed = sorted(p for p in (data.parent / "images").rglob("*") if p.suffix in (".jpg", ".png"))[:16]
            if listed:
                yield _row(name, f"trained, {at}, real", True, model, _real(model, listed))
    for name in DETECTORS:
        if names and name not in names:
            continue
        for seed in range(SEEDS):
            for what in ("initialised", "random"):
                try:
                    model = _random(name, seed, what == "random")
                except VerificationError as error:  # equal scores come in any order
                    print(f"left out: {name}, {what}, seed {seed}: {error.message}", flush=True)
                    continue
                yield _row(name, f"{what}, seed {seed}", False, model, scene_feeds(model, COUNT))


def _random(name: str, seed: int, randomised: bool) -> Model:
    module: nn.Module = build(name, nc=CLASSES, width=1.0, seed=seed)
    module = randomise(module, seed) if randomised else module.eval()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.onnx"
        onnx.save(trace(module, images(1, SIDE)), str(file))
        return load(file)


def _real(model: Model, listed: list[Path]) -> list[Feeds]:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "images.txt"
        text.write_text("\n".join(map(str, listed)) + "\n")
        found = CalibrationImages(text, model)
        return [{model.graph.inputs[0].name: found[k]} for k in range(len(found))]


def _row(name: str, what: str, trained: bool, model: Model, feeds: list[Feeds]) -> Row:
    seen = [_Seen.of(model, feed, out, out) for feed, out in zip(feeds, run_each(model, feeds), strict=True)]
    scores: Array = np.concatenate([one.scores for one in seen])
    only = any(one.best for one in seen)
    if not len(scores):
        return Row(name, what, trained, float("nan"), 0.0, float("nan"), False, True)
    said = _untrained(scores, only) != ""
    middle, high = (float(np.clip(np.quantile(scores, q), 1e-9, 1 - 1e-6)) for q in (0.5, 0.99))
    over = float(np.log(high / (1 - high)) - np.log(middle / (1 - middle)))
    fires = float((scores > CONFIDENCE).mean())
    return Row(name, what, trained, fires, float(scores.max()), over, said, only)


def held_out(found: list[Row]) -> list[str]:
    """Per network the threshold that the others give, and whether it is right for this one."""
    lines = []
    usable = [row for row in found if not row.rows_only and row.best >= FAINT]
    for name in dict.fromkeys(row.name for row in usable):
        others = [row for row in usable if row.name != name]
        low = max(row.over for row in others if not row.trained)
        high = min(row.over for row in others if row.trained)
        middle = float(np.sqrt(low * high))
        mine = [row for row in usable if row.name == name]
        wrong = [row.what for row in mine if (row.over >= middle) != row.trained]
        cells = (name, f"{low:.2f} to {high:.2f}", f"{middle:.2f}", "; ".join(wrong) or "right")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def table(found: list[Row]) -> str:
    """Markdown."""
    wrong = [row for row in found if not row.right]
    loose = [row for row in found if row.biased is False]
    head = ["| network | what | fires in | highest | logits over the median | told as | with any bias |",
            "|---|---|---:|---:|---:|---|---|"]  # fmt: skip
    lines = []
    for row in found:
        told = "never trained" if row.said else "sees nothing" if row.best < FAINT else "trained"
        biased = {None: "–", True: "told", False: "**not told**"}[row.biased]
        cells = (row.name, row.what, f"{row.fires:.1%}", f"{row.best:.2f}", f"{row.over:.2f}", told, biased)
        lines.append(f"| {' | '.join(cells)} |")
    said = f"{len(found)} rows, {len(wrong)} told for what they are not; {len(loose)} random ones would not be told"
    parts = [
        (__doc__ or "").split("    python")[0].strip(),
        f"{said} if their last bias kept them from firing. Thresholds: {UNTRAINED:g} of the cells ({UNTRAINED_BEST:g} "
        f"of an end-to-end head's rows), {EVEN:g} logits.",
        "\n".join([*head, *lines]),
        "Held out (the threshold in logits from all other networks; those whose scores count):",
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
