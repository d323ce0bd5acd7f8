"""What pairs compute on ARM cores, under emulation, beside onnxruntime: fp16, fp32 and bf16 arithmetic, A76 and A72.

    python bench/arm_accuracy.py [--images 4] [--map-images 24] [--networks …] [--core a76,a72]

Needs bench/arm_setup.py's Python, and for real networks ../shared/material. Each row is one network, core and
arithmetic: relative difference of the outputs, detections of the ONNX file (confidence 0.25) that the core finds too,
their least IoU, and the most that a score is off; for some, mAP50 of both. `unmasked` rows have ncnn's defective
depthwise kernel in them (emit/ncnn/defects.py), as pairs did before it was worked around. With arm_counter.sh's
plugin, instructions of one run as well. Of networks of models/zoo, whose weights are random, outputs are compared and
not what they take for objects. Goes on where it stopped; writes bench/results/arm_accuracy.json and .md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arm_counting import Counter
from arm_setup import default_root
from models_for_bench import onnx_of

import onnxslim_yolo as oy
from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.measure.evaluate import evaluate
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.runtime.images import load_input
from onnxslim_yolo.runtime.ncnn_run import NcnnRunner, ncnn_files
from onnxslim_yolo.verify.detector import Detector, Network, open_network
from onnxslim_yolo.verify.on_device import compare_there, head_of

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
MATERIAL = HERE.parents[1] / "shared" / "material"
MODELS = HERE.parent / "models"
ARITHMETICS = {"a76": ("default", "fp32", "bf16"), "a72": ("default", "bf16")}
MEANING = {("a76", "default"): "fp16 (default)", ("a72", "default"): "fp32 (default)"}


@dataclass(frozen=True)
class Subject:
    """A network: its file, its size, its images; whether mAP is measured, and whether it has the defect in it.

    Without a file it is one of models/zoo: the name says which, and how large.
    """

    name: str
    file: Path | None
    data: Path
    size: int | None = None
    scored: bool = False
    hit: bool = False

    def opened(self) -> Path | None:
        """Its file; None where there is none."""
        if self.file is None:
            name, _, size = self.name.partition(" ")
            return onnx_of(name, int(size), head="decoded")
        return self.file if self.file.exists() else None

    def wants_score(self, key: dict[str, Any]) -> bool:
        """Whether mAP is measured of it there."""
        return self.scored and not key["unmasked"] and (key["core"], key["arithmetic"]) in MEANING


_COCO, _BCCD = MATERIAL / "data/coco-val128/data.yaml", MATERIAL / "data/bccd/data.yaml"
_WEIGHTS = MATERIAL / "weights"
SUBJECTS = (
    Subject("FastestDet 352", _WEIGHTS / "FastestDet.onnx", _COCO, 352, hit=True, scored=True),
    Subject("Yolo-Fastest 320", _WEIGHTS / "yolo-fastest-1.1.cfg", _COCO, 320, hit=True),
    Subject("bccd-sparse", MODELS / "bccd-sparse.onnx", _BCCD, scored=True),
    Subject("bccd-dense", MODELS / "bccd-dense.onnx", _BCCD),
    Subject("YOLOv5n 320", _WEIGHTS / "yolov5n-coco-v6.pt", _COCO, 320),
    Subject("v5lite-s 320", _WEIGHTS / "v5lite-s-coco.pt", _COCO, 320, hit=True),
    Subject("digits-sparse", MODELS / "digits-sparse.onnx", _BCCD),
    Subject("digits-dense", MODELS / "digits-dense.onnx", _BCCD),
    Subject("digits-rep", MODELS / "digits-rep.onnx", _BCCD),
    *(Subject(f"{name} 320", None, _COCO, 320) for name in ("yolov8n", "yolo11n", "yolov10n", "yolo26n")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--map-images", type=int, default=24)
    parser.add_argument("--networks", default=",".join(subject.name for subject in SUBJECTS))
    parser.add_argument("--cores", default="a76,a72")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    file = options.out / "arm_accuracy.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []

    def keep(row: dict[str, Any]) -> None:
        rows[:] = [other for other in rows if not same(other, row)] + [row]
        rows.sort(key=place)
        file.write_text(json.dumps(rows, indent=1) + "\n")
        (options.out / "arm_accuracy.md").write_text(markdown(rows))
        print(row, flush=True)

    order = {subject.name: index for index, subject in enumerate(SUBJECTS)}

    def place(row: dict[str, Any]) -> tuple[int, bool, str, int]:
        columns = ("default", "fp32", "bf16")
        core = "" if row["core"] == "a76" else row["core"]
        return order.get(row["network"], len(order)), not row["unmasked"], core, columns.index(row["arithmetic"])

    wanted = [subject for subject in SUBJECTS if subject.name in options.networks.split(",")]
    for subject in wanted:
        if subject.opened() is None:
            print(f"{subject.name}: no {subject.file}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            for device in ("pi5", "pi4") if subject.hit else ("pi5",):
                measure(subject, device, Path(folder), options, rows, keep)


def measure(subject: Subject, device: str, folder: Path, options: argparse.Namespace, rows: Any, keep: Any) -> None:
    """All cores and arithmetics of a network compiled for a device; for `pi4` without the mask, where that matters."""
    unmasked = device == "pi4"
    todo = []
    for core in options.cores.split(","):
        for arithmetic in ("default",) if unmasked and core == "a76" else () if unmasked else ARITHMETICS[core]:
            key = {"network": subject.name, "core": core, "arithmetic": arithmetic, "unmasked": unmasked}
            known = [row for row in rows if same(row, key)]
            if not known or (subject.wants_score(key) and "map50" not in known[0]):
                todo.append(key)
    if not todo:
        return
    given = {} if subject.size is None else {"imgsz": subject.size}
    result = oy.compile(
        subject.opened(),
        out=folder / device,
        name="m",
        emit="onnx,ncnn",
        device=device,
        trust=True,
        verify=False,
        **given,
    )
    pair, onnx = result.ncnn, result.onnx
    assert pair is not None and onnx is not None
    reference = open_network(onnx, threads=1)
    paths = read_dataset(subject.data, ("val",)).images
    images = [reference.form.feed(load_input(path, reference.size)[0]) for path in paths[: options.images]]
    expected = [list(reference.run(image)) for image in images]
    head = None if subject.file is None else head_of(reference, expected[0])
    for key in todo:
        launcher = f"{default_root()}/arm-python {key['core']} -"
        try:
            runner = NcnnRunner(pair, arithmetic=key["arithmetic"], run_on=launcher, timeout=600)
        except OnnxSlimError as error:
            keep({**key, "failed": str(error)[:200]})
            continue
        got = [list(runner(image)) for image in images]
        names = [f"output{index}" for index in range(len(expected[0]))]
        there = compare_there(expected, got, names, head, arithmetic=key["arithmetic"])
        row = {**key, "images": len(images), "state": there.state, "detections": there.detections, "kept": there.kept}
        row |= {"iou": round(there.iou, 4), "score": round(there.score, 4)}
        row["relative"] = float(f"{max(output.relative for output in there.outputs):.3g}")
        if subject.wants_score(key):
            row |= scored(subject, reference, runner, options.map_images)
        runner.close()
        keep(row | instructions(pair, key))


def same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows are of one network under one arithmetic."""
    return all(row.get(name) == other[name] for name in ("network", "core", "arithmetic", "unmasked"))


def scored(subject: Subject, reference: Network, runner: NcnnRunner, count: int) -> dict[str, Any]:
    """mAP50 of the ONNX file in onnxruntime, and of the pair there, on the first so many images."""
    dataset = read_dataset(subject.data, ("val",))
    few = type(dataset)(**{**vars(dataset), "images": dataset.images[:count]})
    found = {}
    for name, run in (("map50_onnx", reference.run), ("map50", runner)):
        network = Network(reference.file, reference.size, reference.metadata, run, reference.form)
        found[name] = round(evaluate(Detector(network, nc=len(dataset.names)), few).map50, 4)
    return found | {"map_images": len(few.images)}


def instructions(pair: Path, key: dict[str, Any]) -> dict[str, float]:
    """10⁶ instructions of one run, where the plugin is there to count them."""
    if key["arithmetic"] != "default" or not (default_root() / "counting" / "libarm_counter.so").is_file():
        return {}
    net = ncnn_files(pair)
    size = next(line.split() for line in net[0].read_text().splitlines()[2:] if line.startswith("Input"))
    facts = dict(part.split("=") for part in size if "=" in part)
    with Counter(key["core"]) as counter:
        counts = counter.whole(*net, [[int(facts[name]) for name in ("2", "1", "0")]])
    return {} if counts is None else {"instructions": round(sum(counts) / 1e6, 2)}


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Pairs on ARM cores, under emulation, beside onnxruntime",
        "",
        "ncnn 1.0.20261020 in emulated Cortex-A76 (Pi 5) and Cortex-A72 (Pi 4). Kept: detections of the ONNX file "
        "(confidence 0.25) found there, too. *Unmasked*: with ncnn's defective depthwise kernel in it, as it was "
        "before it was worked around.",
        "",
        "| network | core, arithmetic | images | kept | IoU ≥ | scores within | outputs, relative | mAP50 (ONNX) "
        "| 10⁶ instructions |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = f"{row['network']}{', *unmasked*' if row['unmasked'] else ''}"
        where = f"{row['core'].upper()}, {MEANING.get((row['core'], row['arithmetic']), row['arithmetic'])}"
        if "failed" in row:
            lines.append(f"| {name} | {where} | {row['failed'][:80]} | | | | | | |")
            continue
        score = f"{row['map50']:.3f} ({row['map50_onnx']:.3f}), {row['map_images']} images" if "map50" in row else ""
        kept = f"{row['kept']} of {row['detections']}" if row["detections"] is not None else ""
        lines.append(
            f"| {name} | {where} | {row['images']} | {kept} | {row['iou']:.2f} | {row['score']:.3f} "
            f"| {row['relative']:.1e} | {score} | {row.get('instructions', '')} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
