"""mAP of a pruned detector without training: by importance × compensation × allocation, at 10 to 50 % fewer MACs.

    python bench/accuracy.py --model ../shared/material/weights/yolov5n-coco-v6.pt --size 640

Calibrates on the data.yaml's `calib` images without their labels, evaluates on its `val` images with labels. Every
figure is of an ONNX file as it was sliced, fused and written, run in onnxruntime. Rows that are done are kept in the
JSON and not run again, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.emit.onnx import write_onnx
from onnxslim_yolo.files import write_atomically
from onnxslim_yolo.graph import Model
from onnxslim_yolo.load import LoadOptions, read_model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.pipeline import preparation, remainder
from onnxslim_yolo.verify.dataset import read_dataset
from onnxslim_yolo.verify.detector import Detector, open_network
from onnxslim_yolo.verify.evaluate import evaluate

HERE = Path(__file__).resolve().parent
MATERIAL = HERE.parents[1] / "shared" / "material"
RESULT = HERE / "results" / "accuracy.json"

TARGETS = (0.9, 0.8, 0.7, 0.5)
METHODS: tuple[tuple[str, str, str], ...] = (
    ("gamma", "none", "global"),
    ("gamma", "constant", "global"),
    ("gamma", "reconstruct", "global"),
    ("variance", "none", "global"),
    ("variance", "constant", "global"),
    ("variance", "reconstruct", "global"),
    ("output", "reconstruct", "global"),
    ("variance", "reconstruct", "curves"),
    ("output", "reconstruct", "curves"),
)
"""Importance, compensation, allocation."""


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MATERIAL / "weights" / "yolov5n-coco-v6.pt")
    parser.add_argument("--data", type=Path, default=MATERIAL / "data" / "coco-val128" / "data.yaml")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--targets", type=float, nargs="+", default=TARGETS)
    parser.add_argument("--only", nargs="*", default=[], help="importance/compensation/allocation, as in the table")
    given = parser.parse_args()
    source, _ = read_model(given.model, LoadOptions((given.size, given.size), None, trust=False))
    PassManager(preparation(CompileOptions())).run(source)
    todo = [m for m in METHODS if not given.only or "/".join(m) in given.only]
    key = {"model": given.model.name, "size": given.size}
    with tempfile.TemporaryDirectory(prefix="onnxslim-accuracy-") as folder:
        if not _known({**key, "importance": "source"}):
            _keep({**key, "importance": "source", "macs": 1.0, **_score(source, Path(folder), given.data)})
        for method in todo:
            _run_method(key, method, source, given, Path(folder))


def _run_method(
    key: dict[str, Any],
    method: tuple[str, str, str],
    source: Model,
    given: Any,
    folder: Path,
) -> None:
    importance, compensate, allocate = method
    base = source.copy()
    for target in given.targets:
        row = {
            **key, "importance": importance, "compensate": compensate, "allocate": allocate, "target": target,
        }  # fmt: skip
        if _known(row):
            continue
        calibrated = compensate == "reconstruct"
        options = CompileOptions(
            importance=importance, compensate=compensate, allocate=allocate, target_macs=target, snap="none",  # type: ignore[arg-type]
            calib=given.data if calibrated else None,
        )  # fmt: skip
        start = time.perf_counter()
        model = base.copy()
        steps = remainder(options, model)
        if base.plan is None:  # the ranking is made once, for all targets
            base.plan = None if model.plan is None else model.plan.copy()
        PassManager(steps).run(model)
        seconds = time.perf_counter() - start
        share = cost_of(model.graph).macs / cost_of(source.graph).macs
        _keep({**row, "macs": round(share, 4), "seconds": round(seconds, 1), **_score(model, folder, given.data)})


def _score(model: Model, folder: Path, data: Path) -> dict[str, float]:
    path = write_onnx(model, folder / "result.onnx")
    dataset = read_dataset(data, ("val",))
    found = evaluate(Detector(open_network(path, threads=1), nc=len(dataset.names)), dataset)
    return {"map50": round(found.map50, 4), "map": round(found.map, 4)}


def _rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(RESULT.read_text()) if RESULT.is_file() else []
    return found


def _known(wanted: dict[str, Any]) -> bool:
    return any(all(row.get(k) == v for k, v in wanted.items()) for row in _rows())


def _keep(row: dict[str, Any]) -> None:
    """Add a row to the files. They are read again, since another run may have added some."""
    print(json.dumps(row), flush=True)
    rows = [*_rows(), row]
    RESULT.parent.mkdir(exist_ok=True)
    write_atomically(RESULT, json.dumps(rows, indent=1) + "\n")
    write_atomically(RESULT.with_suffix(".md"), _table(rows))


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Accuracy without training",
        "",
        "mAP50 / mAP50-95 in per cent of the ONNX file as written, in onnxruntime, on the 96 images of val.txt;",
        "calibrated on calib.txt without labels. The columns are MACs removed. `bench/accuracy.py`; – means not run.",
        "",
        "Read with care: which rows look best, the order that `--importance auto` takes and the price that curves",
        "use were chosen by looking at mAP on these same 96 images (three prices were tried, one kept), so the best",
        "figures are optimistic; no image was held out from that choice, and nothing was repeated. About 2 points are",
        "noise.",
    ]
    for model, size in dict.fromkeys((row["model"], row["size"]) for row in rows):
        mine = [row for row in rows if (row["model"], row["size"]) == (model, size)]
        targets = sorted({row["target"] for row in mine if "target" in row}, reverse=True)
        dense = next((row for row in mine if row["importance"] == "source"), None)
        lines += ["", f"## {model}, {size} px" + ("" if dense is None else f" (dense: {_cell(dense)})"), ""]
        lines.append("| importance | compensation | allocation | " + " | ".join(f"{1 - t:.0%}" for t in targets) + " |")
        lines.append("|---|---|---|" + "---|" * len(targets))
        for method in dict.fromkeys(
            (row["importance"], row["compensate"], row["allocate"]) for row in mine if "target" in row
        ):
            cells = []
            for target in targets:
                hit = [
                    row for row in mine
                    if row.get("target") == target and (row["importance"], row["compensate"], row["allocate"]) == method
                ]  # fmt: skip
                cells.append(_cell(hit[-1]) if hit else "–")
            lines.append(f"| {' | '.join(method)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any]) -> str:
    return f"{100 * row['map50']:.1f} / {100 * row['map']:.1f}"


if __name__ == "__main__":
    main()
