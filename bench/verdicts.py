"""Is the verdict right? Networks compiled at several ratios, with images and without: the verdict beside the mAP left.

    python bench/verdicts.py [NAME …]      what is missing, of these subjects or all; then the table
    python bench/verdicts.py --table       only the table

COCO subjects on val.txt's 96 images; with images means `--calib calib.txt --compensate reconstruct`. What has to hold:
"alive" never with less than half of the source's mAP50, "needs training" never with more than 0.9 of it. The script
exits with 1 where it does not. The digits are made on the spot, which needs scikit-learn.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
from accuracy import BCCD, COCO, DIGITS, HERE, MATERIAL, Subject

from onnxslim_yolo.compiler import build
from onnxslim_yolo.load import LoadOptions, read_model
from onnxslim_yolo.measure.evaluate import evaluate
from onnxslim_yolo.models.demo.train_digits import write_digits
from onnxslim_yolo.options import options_from
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.verify.detector import Detector, open_network

RESULT = HERE / "results" / "verdicts.json"
IMAGES = 32
SUBJECTS = {
    "yolov5n": Subject(MATERIAL / "weights" / "yolov5n-coco-v6.pt", (320, 320), COCO),
    "v5lite-s": Subject(MATERIAL / "weights" / "v5lite-s-coco.pt", (320, 320), COCO),
    "yolo-fastest": Subject(MATERIAL / "weights" / "yolo-fastest-1.1.cfg", (320, 320), COCO),
    "yolov5n-640": Subject(MATERIAL / "weights" / "yolov5n-coco-v6.pt", (640, 640), COCO),
    "fastestdet": Subject(MATERIAL / "weights" / "FastestDet.onnx", (352, 352), COCO),
    "bccd-dense": Subject(HERE.parent / "models" / "bccd-dense.onnx", (256, 320), BCCD),
    "bccd-sparse": Subject(HERE.parent / "models" / "bccd-sparse.onnx", (256, 320), BCCD),
    "digits-dense": Subject(HERE.parent / "models" / "digits-dense.onnx", (192, 192), DIGITS),
    "digits-sparse": Subject(HERE.parent / "models" / "digits-sparse.onnx", (192, 192), DIGITS),
}
ALL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
RATIOS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "yolov5n": ((0.02, 0.05, *ALL), ALL),
    "v5lite-s": ((0.05, 0.1, 0.3), (0.1, 0.3)),
    "yolo-fastest": ((0.02, 0.05, 0.1, 0.3), (0.1, 0.3)),
    "yolov5n-640": ((0.05, 0.1, 0.3), (0.1, 0.3)),
    "fastestdet": ((0.02, 0.05, 0.1, 0.3), (0.1, 0.3)),
    "bccd-dense": ((0.1, 0.3, 0.5), (0.1, 0.3, 0.5, 0.7)),
    "bccd-sparse": ((0.5, 0.8, 0.9), (0.8, 0.9)),
    "digits-dense": ((0.1, 0.3, 0.5), (0.1, 0.3, 0.5)),
    "digits-sparse": ((0.5, 0.8), (0.8, 0.9)),
}
"""Per subject the ratios without images, and with them."""


def main(words: list[str]) -> int:
    """Run what is missing, write the table; 1 where a verdict is wrong."""
    rows: list[dict[str, Any]] = json.loads(RESULT.read_text()) if RESULT.is_file() else []
    for name in [] if "--table" in words else words or list(SUBJECTS):
        for images, ratios in zip((False, True), RATIOS[name], strict=True):
            for ratio in ratios:
                if not any((r["name"], r["ratio"], r["images"]) == (name, ratio, images) for r in rows):
                    rows.append(_row(name, ratio, images, rows))
                    print(json.dumps(rows[-1]), flush=True)
                    RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    rows.sort(key=lambda row: (list(SUBJECTS).index(row["name"]), row["images"], row["ratio"]))
    wrong = [row for row in rows if not _right(row)]
    (RESULT.parent / "verdicts.md").write_text(_table(rows, wrong), encoding="utf-8")
    return bool(wrong)


def _row(name: str, ratio: float, images: bool, rows: list[dict[str, Any]]) -> dict[str, Any]:
    subject = SUBJECTS[name]
    if subject.data == DIGITS and not DIGITS.is_file():
        write_digits(DIGITS.parent)
    with tempfile.TemporaryDirectory() as folder:
        known = [row["source"] for row in rows if row["name"] == name]
        source = known[0] if known else _source(subject, Path(folder))
        options: dict[str, Any] = {"prune": ratio, "emit": "onnx", "out": Path(folder) / "o", "isa": "avx2"}
        if subject.file.suffix != ".onnx":
            options["imgsz"] = subject.size
        if images:
            options |= {"calib": _calib(subject, Path(folder)), "compensate": "reconstruct"}
        result = build(subject.file, options_from(options), lambda stage: None)
        if result.onnx is None:
            raise RuntimeError("no ONNX was written")
        found = _map(result.onnx, subject.data)
    verdict = result.verdict
    alive = {k: verdict["alive"][k] for k in ("state", "images", "kind", "detections", "kept", "found", "response")}
    said = {"exit": result.report["exit"], "word": verdict["word"], "alive": alive}
    return {"name": name, "ratio": ratio, "images": images, "source": source, "map50": found} | said


def _source(subject: Subject, folder: Path) -> float:
    _, proto = read_model(subject.file, LoadOptions(None if subject.file.suffix == ".onnx" else subject.size))
    onnx.save(proto, str(folder / "source.onnx"))
    return _map(folder / "source.onnx", subject.data)


def _map(file: Path, data: Path) -> float:
    dataset = read_dataset(data, ("val",))
    return evaluate(Detector(open_network(file, threads=1), nc=len(dataset.names)), dataset).map50


def _calib(subject: Subject, folder: Path) -> Path:
    if subject.data == COCO:
        return subject.data.parent / "calib.txt"
    images = sorted((subject.data.parent / "images" / "train").iterdir())[:IMAGES]
    listed = folder / "calib.txt"
    listed.write_text("\n".join(map(str, images)) + "\n")
    return listed


def _right(row: dict[str, Any]) -> bool:
    left, state = row["map50"] / row["source"], row["alive"]["state"]
    return not (state == "alive" and left < 0.5) and not (state == "needs training" and left > 0.9)


def _table(rows: list[dict[str, Any]], wrong: list[dict[str, Any]]) -> str:
    said = "every verdict is right" if not wrong else f"{len(wrong)} verdicts are WRONG"
    parts = [
        (__doc__ or "").split("    python")[0].strip(),
        "",
        f"`bench/verdicts.py`; {len(rows)} results, {said}.",
        "",
    ]
    intro = (
        "COCO at 320 px (FastestDet 352, yolov5n-640 640) on 96 images of val.txt, BCCD on 72, digits on 120. With "
        "images: `--calib` (32, of which 4 are held out and seen twice) and `--compensate reconstruct`. “Alike”: of "
        "the scores’ columns the least (see onnxslim_yolo/verify/alive.py). The thresholds were chosen from a first "
        "run of seven networks; FastestDet and YOLOv5n at 640 px were first run after that: they are held out."
    )
    head = ["| network | images | ratio | mAP50 left | verdict | exit | detections kept | alike | size |"]
    head.append("|---|---|---:|---:|---|---:|---:|---:|---:|")
    return "\n".join(["# Verdicts", "", *parts, intro, "", *head, *map(_line, rows), ""])


def _line(row: dict[str, Any]) -> str:
    alive = row["alive"]
    deciding = [one for one in alive["response"] if one["scores"]] or alive["response"]
    alike = f"{min(one['alike'] for one in deciding):.2f}" if deciding else "–"
    size = f"{min(one['size'] for one in deciding):.1g}" if deciding else "–"
    kept = "–" if alive["detections"] is None else f"{alive['kept']} of {alive['detections']}"
    cells = (row["name"], alive["kind"] or "none needed", f"{row['ratio']:g}", f"{row['map50'] / row['source']:.2f}",
             alive["state"], row["exit"], kept, alike, size)  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
