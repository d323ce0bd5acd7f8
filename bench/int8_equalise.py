"""What making channels equally large before int8 saves: the detector's error on calibration images, and mAP50.

    python bench/int8_equalise.py

Networks of ../shared/material with ReLU or leaky ReLU (through SiLU nothing can be scaled), deployed, all in int8 that
can be, from the 32 images of calib.txt: as it is chosen, and with no way to equalise. mAP50 of the ONNX files on the 96
images of val.txt (2 points are noise on so few). Writes bench/results/int8_equalise.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

from onnxslim_yolo.load import load
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.measure.evaluate import evaluate
from onnxslim_yolo.passes.quantise import calibration
from onnxslim_yolo.pipeline import parse_pipeline
from onnxslim_yolo.quantisation import choose
from onnxslim_yolo.quantisation.equalise import WAYS, equalise
from onnxslim_yolo.quantisation.qdq import quantised_graph
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.verify.detector import Detector, open_network

HERE = Path(__file__).resolve().parent
MATERIAL = HERE.parents[1] / "shared" / "material"
DATA, CALIB = MATERIAL / "data/coco-val128/data.yaml", MATERIAL / "data/coco-val128/calib.txt"
FILES = {
    "Yolo-Fastest 1.1": "yolo-fastest-1.1.cfg",
    "FastestDet": "FastestDet.onnx",
    "YOLOv5-Lite-s": "v5lite-s-coco.pt",
}
PASSES = (
    "canonicalise,shuffle-to-gather,canonicalise,focus-to-conv,spp-to-sppf,reparam,fold-bn,fold-affine,silu,pad-pool,"
    "canonicalise"
)


def main() -> None:
    """Run, write the table."""
    lines = ["| network | equalised | way | ranges | error | mAP50 |", "|---|---|---|---|---|---|"]
    data = read_dataset(DATA)
    for name, file in FILES.items():
        for ways in ({}, WAYS):
            model = load(MATERIAL / "weights" / file)
            PassManager(parse_pipeline(PASSES)).run(model)
            with patch.object(choose, "WAYS", ways):
                plan = choose.quantise(model, calibration(CALIB, model))
            equalise(model, plan.links)
            with tempfile.TemporaryDirectory() as folder:
                written = quantised_graph(model, plan).save(Path(folder) / "net.onnx")
                found = evaluate(Detector(open_network(written)), data)
            layers = f"{len(plan.links)} of {len(plan.layers)} layers" if ways else "not tried"
            error = f"{plan.error or 0:.3f}"
            lines.append(
                f"| {name} | {layers} | {plan.equalised} | {plan.chosen} | {error} | {100 * found.map50:.1f} |"
            )
            print(lines[-1], flush=True)
    (HERE / "results" / "int8_equalise.md").write_text("# Channels made equally large\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
