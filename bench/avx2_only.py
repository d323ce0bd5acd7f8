"""ncnn and onnxruntime as a processor without AVX-512 runs them, on one that has it: what AVX2 takes can be timed here.

    python bench/avx2_only.py [ROOT]      (default: $ONNXSLIM_AVX2_ROOT, else ~/.cache/onnxslim-yolo-avx2)

Both choose their kernels by `cpuid` and by `xgetbv`, which says what registers the system saves. In copies of the
installed packages every such `xgetbv` is replaced by "push 7; pop rax": x87, SSE and AVX, no AVX-512 and no AMX, as
under a Linux that is started with `clearcpuid=avx512f`. Nothing else is touched. Leaves ROOT/avx2-python, a launcher
for `--run-on`, and checks that ncnn packs by 8 and onnxruntime blocks by 8 under it.

What is timed so is this processor's AVX2: its caches, its clock, its two 256-bit pipes.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("ncnn", "onnxruntime")
XGETBV, SEVEN = b"\x0f\x01\xd0", b"\x6a\x07\x58"
CPUID = b"\x0f\xa2"
NEAR = 128
"""Bytes before an `xgetbv` within which `cpuid` stands: what has none there is data, or code that reads no features."""

LAUNCHER = """#!/bin/sh
# This Python with ncnn and onnxruntime kept from AVX-512.
exec env PYTHONPATH="{site}" "{python}" "$@"
"""
CHECK = """
import ncnn, onnx, os, tempfile
import numpy as np
import onnxruntime as ort
from onnx import helper, numpy_helper
folder = tempfile.mkdtemp()
path = os.path.join(folder, "net.param")
open(path, "w").write("7767517\\n2 2\\nInput a 0 1 a\\nReLU b 1 1 a b\\n")
net = ncnn.Net()
net.load_param(path), net.load_model(ncnn.DataReaderFromEmpty())
extractor = net.create_extractor()
image = ncnn.Mat(np.ones((32, 4, 4), np.float32)).clone()
extractor.input("a", image)
weight = numpy_helper.from_array(np.ones((40, 16, 1, 1), np.float32), "w")
ends = [helper.make_tensor_value_info(n, 1, [1, c, 8, 8]) for n, c in (("x", 16), ("y", 40))]
graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
options = ort.SessionOptions()
options.log_severity_level = 3
options.optimized_model_filepath = os.path.join(folder, "blocked.onnx")
ort.InferenceSession(model.SerializeToString(), options)
blocked = onnx.load(options.optimized_model_filepath).graph.initializer
print(extractor.extract("b", 1)[1].elempack, max(t.dims[0] for t in blocked if len(t.dims) == 4))
"""


def main() -> None:
    root = (Path(sys.argv[1]) if len(sys.argv) > 1 else default_root()).resolve()
    site = root / "site"
    for name in PACKAGES:
        package = Path(str(importlib.import_module(name).__file__)).parent
        shutil.rmtree(site / name, ignore_errors=True)
        shutil.copytree(package, site / name, ignore=shutil.ignore_patterns("__pycache__"))
        for beside in (*package.parent.glob(f"{name}-*.dist-info"), *package.parent.glob(f"{name}.libs")):
            shutil.copytree(beside, site / beside.name, dirs_exist_ok=True)
        for library in (site / name).rglob("*.so*"):
            code = library.read_bytes()
            kept, count = without_avx512(code)
            if count:
                library.write_bytes(kept)
                print(f"{library.name}: {count} places")
    launcher = root / "avx2-python"
    launcher.write_text(LAUNCHER.format(site=site, python=Path(sys.executable).absolute()))
    launcher.chmod(0o755)
    said = [_output(python, "-c", CHECK) for python in (sys.executable, launcher)]
    if said != ["16 48", "8 40"]:  # ncnn's pack of 32 channels, and 40 as onnxruntime pads them
        sys.exit(f"packs and blocks are {said[0]} here and {said[1]} there, wanted 16 48 and 8 40")
    print(f"{launcher}: packs and blocks of 8, not 16")


def _output(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout.strip()


def default_root() -> Path:
    """Where the copies lie unless said otherwise."""
    return Path(os.environ.get("ONNXSLIM_AVX2_ROOT") or Path.home() / ".cache" / "onnxslim-yolo-avx2")


def without_avx512(code: bytes) -> tuple[bytes, int]:
    """A library that is told of no AVX-512, and in how many places."""
    found = [m.start() for m in re.finditer(re.escape(XGETBV), code)]
    places = [at for at in found if CPUID in code[max(0, at - NEAR) : at]]
    changed = bytearray(code)
    for at in places:
        changed[at : at + len(SEVEN)] = SEVEN
    return bytes(changed), len(places)


if __name__ == "__main__":
    main()
