"""What int8 costs and gains without training: mAP50 and latency, ours beside onnxruntime's own quantisation.

    python bench/int8.py [NAME …]     what is missing of it; --table only writes the table again

Each network as it is, nothing cut, from the 32 images of calib.txt: in float; by `--quantize int8` (what the detector
bears) and `all`, as ONNX and as NCNN pair; by onnxruntime's `quantize_static` with its defaults, and by the recipe that
is usually recommended instead (convolutions only, a scale per channel). mAP50 on the 96 images of val.txt (2 points are
noise on so few). Latency is measured, not predicted: one thread, all files of a network and a runtime interleaved,
medians of per-round ratios to the float file in thread-CPU time, denormals flushed; the machine is named. Each file is
compiled for the runtime that it is run in (`--target`), whose table tells which layers gain; where it knows no int8, by
accuracy alone. Rows that are done are kept in the JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

import onnxslim_yolo as oy
from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.packing import RUNTIMES
from onnxslim_yolo.measure.benchmark import benchmark
from onnxslim_yolo.measure.evaluate import evaluate
from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.verify.detector import Detector, open_network

HERE = Path(__file__).resolve().parent
MATERIAL = HERE.parents[1] / "shared" / "material"
DATA, CALIB = MATERIAL / "data/coco-val128/data.yaml", MATERIAL / "data/coco-val128/calib.txt"
RESULT = HERE / "results" / "int8.json"
NETWORKS = {
    "YOLOv5n, 320 px": ("yolov5n-coco-v6.pt", 320),
    "FastestDet, 352 px": ("FastestDet.onnx", 352),
    "Yolo-Fastest 1.1, 320 px": ("yolo-fastest-1.1.cfg", 320),
    "YOLOv5-Lite-s, 416 px": ("v5lite-s-coco.pt", 416),
}
ROUNDS = 31


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--table", action="store_true", help="run nothing")
    parsed = parser.parse_args()
    rows: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in [] if parsed.table else parsed.names:
        if name not in rows:
            rows[name] = network(*NETWORKS[name])
            print(name, json.dumps(rows[name], indent=1), flush=True)
            write_atomically(RESULT, json.dumps(rows, indent=1) + "\n")
    write_atomically(RESULT.with_suffix(".md"), table(rows))


def network(file: str, size: int) -> dict[str, Any]:
    """Every variant of one network."""
    with tempfile.TemporaryDirectory() as text:
        folder, found = Path(text), {}
        files: dict[str, dict[str, Path]] = {"onnxruntime": {}, "ncnn": {}}
        for runtime in RUNTIMES:
            for label, quantize in (("float", "none"), ("int8", "int8"), ("int8, all", "all")):
                options: dict[str, Any] = {"imgsz": size} if not file.endswith(".cfg") else {}
                options |= {"calib": None if quantize == "none" else CALIB, "target": runtime, "quantize": quantize}
                out = folder / f"{runtime}-{quantize}"
                result = oy.compile(MATERIAL / "weights" / file, prune=0, emit="onnx,ncnn", out=out, **options)
                written = result.onnx if runtime == "onnxruntime" else result.ncnn
                assert written is not None
                files[runtime][label] = written
                if quantize != "none" and result.report["int8"] is not None:
                    found[f"{label}, {runtime}"] = result.report["int8"] | {"verdict": result.report["verdict"]}
        for label, options in (
            ("onnxruntime's defaults", {}),
            ("onnxruntime, convolutions only", {"op_types_to_quantize": ["Conv"], "per_channel": True}),
        ):
            made = theirs(files["onnxruntime"]["float"], folder / f"{len(options)}.onnx", options)
            if isinstance(made, Path):
                files["onnxruntime"][label] = made
            else:
                found[label] = {"failed": made}
        rows = [row for runtime, each in files.items() for row in measured(runtime, each)]
    return {"rows": rows, "plans": found}


def theirs(source: Path, target: Path, options: dict[str, Any]) -> Path | str:
    """onnxruntime's own quantisation of a file, or why there is none."""
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    model = Model.from_onnx(onnx.load(source))
    image = model.graph.inputs[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images: Iterator[Array] = iter(CalibrationImages(CALIB, model))

        def get_next(self) -> dict[str, Array] | None:
            found = next(self.images, None)
            return None if found is None else {image: found}

    try:
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            **options,
        )
        ort.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    except Exception as error:  # of whatever kind: it is a result
        return str(error).strip().splitlines()[0][:200]
    return target


def measured(runtime: str, files: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """mAP and latency of files of one runtime, the float one first."""
    timed = benchmark(list(files.values()), names=list(files), rounds=ROUNDS)
    dataset = read_dataset(DATA)
    for (label, file), time in zip(files.items(), timed.models, strict=True):
        found = evaluate(Detector(open_network(file)), dataset)
        weights = sum(f.stat().st_size for f in file.iterdir()) if file.is_dir() else file.stat().st_size
        yield {
            "runtime": runtime,
            "label": label,
            "map50": round(found.map50, 4),
            "map": round(found.map, 4),
            "ms": round(time.ms, 3),
            "ratio": round(time.ratio, 4),
            "quartiles": [round(value, 4) for value in time.ratio_quartiles],
            "control": round(timed.control, 4),
            "bytes": weights,
            "machine": ", ".join(f"{key} {value}" for key, value in timed.machine.items()),
        }


def table(networks: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| network | runtime | weights | mAP50 | lost | latency left, measured | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    machines: dict[str, None] = {}
    for name, each in networks.items():
        for row in each["rows"]:
            whole = next(r for r in each["rows"] if r["runtime"] == row["runtime"] and r["label"] == "float")
            lost = 100 * (whole["map50"] - row["map50"])
            left = f"{row['ratio']:.2f}" if row is not whole else f"1 ({row['ms']:.2f} ms)"
            cells = [name, row["runtime"], row["label"], f"{100 * row['map50']:.1f}", f"{lost:.1f}", left]
            lines.append(f"| {' | '.join(cells)} | {row['bytes'] / 1e6:.2f} |")
            machines[str(row["machine"])] = None
        for label, plan in each["plans"].items():
            if "failed" in plan:
                lines.append(f"| {name} | onnxruntime | {label} | refused by onnxruntime | | | |")
    return "# int8\n\n" + "\n".join(lines) + "\n\nMachine: " + "; ".join(machines) + "\n"


if __name__ == "__main__":
    main()
