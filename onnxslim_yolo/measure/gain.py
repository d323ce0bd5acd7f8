"""What compiling gained and cost, measured: latency against the source, and mAP before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from onnxslim_yolo.files.atomic import private_folder
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.measure.benchmark import benchmark
from onnxslim_yolo.measure.evaluate import evaluate
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.verify.detector import Detector, open_network
from onnxslim_yolo.verify.input_size import FIXED


def measure_speed(
    source: Model, result: Path, *, rounds: int = 21, threads: int = 1, run_on: str | None = None
) -> dict[str, Any]:
    """Latency of a written file as a ratio to the unpruned source in the same runtime, interleaved.

    Args:
        source: the source graph in canonical form. For ncnn it is converted like any other model, unpruned.
        result: the ONNX file or NCNN folder.
        run_on: a command that starts the Python to measure in (see `runtime.launchers`); None: this machine.

    Raises:
        UnsupportedError: the source cannot be converted to the runtime. VerificationError: measuring failed.
    """
    with private_folder("onnxslim-speed-") as folder:
        base = folder / "source.onnx"
        if result.is_dir():
            from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
            from onnxslim_yolo.emit.ncnn.write import write_ncnn
            from onnxslim_yolo.passes import FoldBatchNorm

            plain = source.copy()
            FoldBatchNorm().run(plain)
            base = write_ncnn(emit_ncnn(plain), folder / "source_ncnn_model", plain.metadata)
        else:
            source.save(base)
        names = ["source", result.name]
        found = benchmark([base, result], names=names, rounds=rounds, threads=threads, run_on=run_on)
    before, after = found.models
    return {
        "runtime": after.runtime,
        "source_ms": before.ms,
        "result_ms": after.ms,
        "ratio": after.ratio,
        "quartiles": list(after.ratio_quartiles),
        "control": found.control,
        "resolution": found.resolution,
        "threads": threads,
        "rounds": rounds,
        **({} if run_on is None else {"machine": found.machine["cpu"]}),
    }


def measure_accuracy(reference: onnx.ModelProto, files: list[Path], data: Path) -> dict[str, Any]:
    """mAP of the source and of every written file on labelled images.

    Raises:
        InputError: the data or a file cannot be read. UnsupportedError: the head is not one that can be decoded.
    """
    dataset = read_dataset(data, ("val",))
    with private_folder("onnxslim-map-") as folder:
        base = folder / "source.onnx"
        onnx.save(reference, str(base))
        networks = {path.name: open_network(path) for path in files}
        source = open_network(base)
        if source.sure != FIXED:  # where it leaves its size open, it is seen at the result's
            source = open_network(base, size=next(iter(networks.values())).size)
        results = {}
        for name, network in ({"source": source} | networks).items():
            result = evaluate(Detector(network, nc=len(dataset.names)), dataset)
            results[name] = {"map50": result.map50, "map": result.map}
    worst = min(row["map50"] for name, row in results.items() if name != "source")
    drop = results["source"]["map50"] - worst
    return {"data": data.name, "images": len(dataset.images), "models": results, "map50_drop": drop}


def verdict(speed: dict[str, Any]) -> str | None:
    """A plain sentence if the result is slower than its source beyond what measuring can tell."""
    if speed["ratio"] <= 1 + speed["resolution"]:
        return None
    return f"the result is SLOWER than its source in {speed['runtime']}: {speed['ratio']:.2f} of its latency"
