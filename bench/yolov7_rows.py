"""A pruned YOLOv7-tiny built by YOLOv7's own parser: are its widths kept, and does it compute what was written?

    python bench/yolov7_rows.py CHECKOUT --commit a207844 --python PYTHON --out bench/results/yolov7_rows.md

CHECKOUT is a clone of WongKinYiu/yolov7, PYTHON an interpreter with torch and its requirements. A checkpoint is
written there with random weights, compiled here with `--emit ultralytics`, and its yaml given to the repository's
`Model` as its train.py does; forward and backward are run. The control is the yaml that the checkpoint had. train.py
itself is not run: it was written for a torch that loads whole pickles.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WRITE = """
import sys, torch
from models.yolo import Model
torch.manual_seed(0)
random = torch.Generator().manual_seed(1)
model = Model("cfg/training/yolov7-tiny.yaml", ch=3, nc=3).train()
norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
with torch.no_grad():
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5, generator=random)
        norm.bias.uniform_(-0.3, 0.3, generator=random)
        norm.momentum = 0.5
    for _ in range(4):
        model(torch.rand(2, 3, 160, 160, generator=random))
for norm in norms:
    norm.momentum = 0.03
model.names = ["a", "b", "c"]
torch.save({"epoch": -1, "model": model.eval().half(), "ema": None, "optimizer": None}, sys.argv[1])
"""
BUILD = """
import sys, torch
from models.yolo import Model
from utils.torch_utils import intersect_dicts
slim, wide = (torch.load(path, map_location="cpu", weights_only=False)["model"].float() for path in sys.argv[1:3])
print()
for name, yaml in (("its yaml", slim.yaml), ("control: the source's yaml", wide.yaml)):
    model = Model(yaml, ch=3, nc=3)
    fitting = intersect_dicts(slim.state_dict(), model.state_dict(), exclude=[])
    model.load_state_dict(fitting, strict=False)
    x = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        apart = float((model.eval()(x)[0] - slim.eval()(x)[0]).abs().max())
    model.train()(torch.rand(2, 3, 160, 160))[0].sum().backward()
    moved, size = f"{len(fitting)}/{len(model.state_dict())} tensors fit", sum(p.numel() for p in model.parameters())
    print(f"ROW| {name} | {moved} | {size:,} | {apart:.1e} |")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--commit", default="?", help="which one it is, for the table")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    def there(code: str, *words: object) -> str:
        own = {"PYTHONPATH": f"{arguments.checkout.resolve()}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
        line = [arguments.python, "-c", code, *map(str, words)]
        done = subprocess.run(
            line, cwd=arguments.checkout, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout

    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "tiny.pt"), Path(folder, "out")
        there(WRITE, source)
        line = [sys.executable, "-m", "onnxslim_yolo", "compile", str(source), "--prune", "0.3", "--imgsz", "160", "-q"]
        subprocess.run([*line, "--emit", "onnx,ultralytics", "--will-train", "-o", str(out)], check=True)
        said = there(BUILD, out / "tiny-slim.pt", source)
    rows = [row.removeprefix("ROW") for row in said.splitlines() if row.startswith("ROW")]
    title = f"YOLOv7-tiny, random weights, --prune 0.3, built by WongKinYiu/yolov7 at {arguments.commit}."
    head = ["| built from | tensors | parameters | difference from what was written |", "|---|---|---|---|"]
    text = "\n".join(["# YOLOv7's own parser with a pruned checkpoint", "", title, "", *head, *rows]) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
