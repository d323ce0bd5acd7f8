"""What `--compensate distil` adds to reconstruction: mAP without labels, beside the control of no rate.

    python bench/compensate.py [--share 0.7] [--epochs 12]      of the MACs, widths not snapped
    python bench/compensate.py --share 0.9x 0.8x                of the predicted latency, as users get it (snap, depth)
    python bench/compensate.py --network YOLOv5-Lite-s          another one
    python bench/compensate.py --table                          only the table

A network on COCO at 320 px: ranked, cut and fitted on the 32 images of calib.txt (28; 4 are held out), distilled on the
same, evaluated on the 96 images of val.txt (2 points are noise on so few). One ranking and one reconstruction a share:
the rows differ by the training alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from accuracy import COCO, MATERIAL, _score

from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.load import LoadOptions, read_model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.pipeline import preparation, remainder, shaping
from onnxslim_yolo.training.compensate import Distil

RESULT = Path(__file__).resolve().parent / "results" / "compensate.json"
SIZE = (320, 320)
NETWORKS = {
    "YOLOv5n": "yolov5n-coco-v6.pt",
    "YOLOv5-Lite-s": "v5lite-s-coco.pt",
    "Yolo-Fastest": "yolo-fastest-1.1.cfg",
}
RATES = (0.0, 3e-5, 1e-4)


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", nargs="+", default=["0.7"])
    parser.add_argument("--network", default="YOLOv5n", choices=list(NETWORKS))
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(RESULT.read_text()) if RESULT.exists() else []
    for share in [] if given.table else given.share:
        with tempfile.TemporaryDirectory() as folder:
            for row in measured(given.network, share, given.rates, given.epochs, Path(folder)):
                rows = [each for each in rows if _key(each) != _key(row)] + [row]
                print(json.dumps(row), flush=True)
                write_atomically(RESULT, json.dumps(rows, indent=1) + "\n")
    write_atomically(RESULT.with_suffix(".md"), table(rows))


def measured(network: str, share: str, rates: list[float], epochs: int, folder: Path) -> Any:
    """The rows of one share of the MACs, or of the latency: reconstruction alone, then with each rate."""
    given: dict[str, Any] = {"target_macs": float(share.rstrip("x")), "snap": "none", "importance": "output"}
    if share.endswith("x"):
        given = {"target_latency": share}
    options = CompileOptions(compensate="reconstruct", calib=COCO, **given)
    source, _ = read_model(MATERIAL / "weights" / NETWORKS[network], LoadOptions(SIZE, None, trust=False))
    PassManager(preparation(options)).run(source)
    teacher, cut = source.copy(), source.copy()
    PassManager(shaping(options)).run(teacher)
    steps = remainder(options, cut)
    last = max(index for index, step in enumerate(steps) if step.name == "slice") + 1
    PassManager(steps[:last]).run(cut)
    for rate in (None, *rates):
        model, facts, begun = cut.copy(), {}, time.process_time()
        if rate is not None:
            step = Distil(teacher, COCO, epochs=epochs if rate else 1, lr=rate)
            PassManager([step]).run(model)
            facts = {key: step.facts[key] for key in ("before", "after", "epoch", "images", "held_out", "norms")}
        seconds = time.process_time() - begun
        PassManager(steps[last:]).run(model)
        named = {"network": network, "share": share if share.endswith("x") else float(share)}
        row = named | {"rate": rate, "epochs": epochs, "seconds": round(seconds)} | facts
        yield row | _score(model, folder, COCO)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["network"], row["share"], row["rate"], row["epochs"]


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "# What distillation adds to reconstruction",
        "",
        "| network, 320 px | share of MACs, or (x) of latency | compensation | mAP50 | mAP | error held out,"
        " before → after | epoch kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(
        rows, key=lambda row: (row["network"], str(row["share"]), -1 if row["rate"] is None else row["rate"])
    ):
        named = "reconstruct" if row["rate"] is None else f"distil, rate {row['rate']:g}"
        held = (
            f"{row['before']:.3f} → {row['after']:.3f} | {row['epoch']} of {row['epochs']}" if "before" in row else "| "
        )
        scores = [f"{100 * row[key]:.1f}" for key in ("map50", "map")]
        cells = [row["network"], row["share"], named, *scores, held]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
