"""Files of a fixed size made for another: every architecture of the zoo, beside what the exporter writes for that size.

    python bench/other_size.py [NAME …] [--from 320x320] [--to 256x192]

Each is traced at both sizes with the same weights, with its decode and without. The first file is read with `--imgsz`
of the second's size, and both are run on one random image: "same" is the largest difference of any output as a share of
its largest value, of at most 1e-4. What is refused is told with its reason. Writes bench/results/other_size.md.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from models_for_bench import model_of  # noqa: F401  (finds the package)

from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.load import LoadOptions, read_model
from onnxslim_yolo.load.trace import trace
from onnxslim_yolo.models.zoo.architectures import ARCHITECTURES, build, randomise
from onnxslim_yolo.options.spellings import parse_size
from onnxslim_yolo.runtime.onnx_run import run_onnx

RESULT = Path(__file__).with_name("results") / "other_size.md"
SAME = 1e-4


def main() -> None:
    """Make every file, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=sorted(ARCHITECTURES))
    parser.add_argument("--from", dest="before", default="320x320")
    parser.add_argument("--to", dest="after", default="256x192")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sizes = parse_size(options.before), parse_size(options.after)
    rows = []
    for name in options.names:
        for head in ("decoded", "raw"):
            rows.append((name, head, outcome(name, head, *sizes)))
            print(*rows[-1], flush=True)
    kinds = {word: sum(row[2].startswith(word) for row in rows) for word in ("same", "refused", "not traced", "OTHER")}
    text = [f"# {options.before} made {options.after}", "", ", ".join(f"{n} {kind}" for kind, n in kinds.items()), ""]
    text += ["| architecture | head | |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    write_atomically(RESULT, "\n".join(text) + "\n")


def outcome(name: str, head: str, before: tuple[int, int], after: tuple[int, int]) -> str:
    """What becomes of one file, in words."""
    try:
        module = randomise(build(name, head=head))
        fixed, wanted = (trace(module, torch.rand(1, 3, *size)) for size in (before, after))
    except OnnxSlimError as error:
        return f"not traced: {error.message}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fixed.onnx"
        path.write_bytes(fixed.SerializeToString())
        try:
            _, made = read_model(path, LoadOptions(imgsz=after))
        except OnnxSlimError as error:
            return f"refused: {error.message.partition('cannot be made: ')[2] or error.message} (`{error.node}`)"
    image = np.random.default_rng(0).random((1, 3, *after), np.float32)
    found, expected = (run_onnx(file, [{file.graph.input[0].name: image}])[0] for file in (made, wanted))
    if [value.shape for value in found.values()] != [value.shape for value in expected.values()]:
        return "OTHER shapes"
    pairs = zip(found.values(), expected.values(), strict=True)
    off = max(float(np.abs(one - other).max() / max(np.abs(other).max(), 1e-9)) for one, other in pairs)
    return f"{'same' if off <= SAME else 'OTHER values'} ({off:.0e})" if off else "same, bit for bit"


if __name__ == "__main__":
    main()
