"""Make the latency tables that come with the package, on this machine.

    python bench/make_tables.py [--runtime ncnn,onnxruntime] [--threads 1] [--int8] [--out DIR] [MODEL …]

MODEL: NAME@SIZE of models/zoo, or a file (default: see `MODELS`; those of ../shared/material where it is). Besides the
networks themselves, random width assignments of them take part in the calibration as wholes. --int8 measures the int8
forms as well: on x86 only a processor with VNNI is like those that such a table is used on.

    python bench/make_tables.py --avx2 ~/.cache/onnxslim-yolo-avx2/avx2-python …

makes those of AVX2 on a processor that has AVX-512, in the Python that bench/avx2_only.py leaves.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest import mock

from models_for_bench import model_of
from random_widths import fused, prepared, with_random_widths

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency import host_isa
from onnxslim_yolo.latency.shipped import DATA, table_file
from onnxslim_yolo.latency.table import LatencyTable
from onnxslim_yolo.latency.table_format import write_table
from onnxslim_yolo.load import load
from onnxslim_yolo.measure.measurer import Measurer
from onnxslim_yolo.measure.profile import profile
from onnxslim_yolo.runtime.boards import Board

MATERIAL = Path(__file__).resolve().parents[2] / "shared" / "material" / "weights"
MODELS = (
    *(f"{name}@{size}" for name in ("yolov5n", "yolov8n") for size in (640, 320)),
    *("yolov6n@320", "mobilenetv2@320", "v5lite-s@320"),
    *(str(MATERIAL / name) for name in ("yolo-fastest-1.1.cfg", "FastestDet.onnx")),
)
"""SiLU, ReLU and ReLU6, LeakyReLU; convolutions of all kinds, depthwise ones of 3×3 and 5×5, channels shuffled."""
RANDOM_WIDTHS = (1, 4, 8, 16)
"""Steps of the random assignments."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", default="ncnn,onnxruntime")
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--threads", default="1", help="1,2: a table of each; more than one: an idle machine only")
    parser.add_argument("--avx2", help="launcher of a Python whose runtimes are kept from AVX-512")
    parser.add_argument("--out", type=Path, default=DATA)
    options = parser.parse_args()
    isa = "avx2" if options.avx2 else host_isa()
    graphs = []
    for name in options.models:
        base = prepared(read(name))
        graphs.append(fused(base.copy()).graph)
        # Seeds that no test of the predictions uses.
        graphs += [with_random_widths(base, 1000 + seed, step).graph for seed, step in enumerate(RANDOM_WIDTHS)]
    for threads in map(int, options.threads.split(",")):
        for runtime in options.runtime.split(","):
            start = time.perf_counter()
            with ExitStack() as stack:
                if options.avx2:  # the processor says AVX-512 there, too
                    stack.enter_context(mock.patch.object(Measurer, "board", as_avx2))
                table = profile(graphs, target=runtime, threads=threads, run_on=options.avx2, int8=options.int8)
            if options.avx2:
                table = replace(table, cpu=f"{table.cpu}, kept from AVX-512", _cache={})
            path = write_table(in_short(table), options.out / table_file(runtime, isa, threads).name)
            cells = sum(len(grid.us) for grid in table.families.values())
            print(
                f"{path}: {len(table.families)} families, {cells} layers, {path.stat().st_size / 1024:.0f} KB, "
                f"scale {table.scale:.3f}, {time.perf_counter() - start:.0f} s",
                flush=True,
            )


def read(name: str) -> Model:
    """A network by name and size, or a file."""
    known, at, size = name.partition("@")
    return model_of(known, int(size)) if at else load(Path(name))


def in_short(table: LatencyTable) -> LatencyTable:
    """With three digits, which are more than noise leaves: a package holds many numbers."""
    families = {
        family: replace(grid, us={cell: float(f"{us:.3g}") for cell, us in grid.us.items()})
        for family, grid in table.families.items()
    }
    return replace(table, families=families, _cache={})


board = Measurer.board


def as_avx2(self: Measurer) -> Board | None:
    """What the launched Python is, apart from what its runtimes may not use."""
    found = board(self)
    return None if found is None else replace(found, isa="avx2")


if __name__ == "__main__":
    main()
