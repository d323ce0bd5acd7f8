"""Search ncnn's ARM kernels for layers that are wrong: one-layer networks under emulation, against onnxruntime.

    python bench/arm_layers.py [--cores a76,a72] [--arithmetic default,fp32,bf16] [--kinds conv3,dw3] [--root ROOT]

Every layer kind the emitter writes × widths × sizes 5 … 24 × strides. Needs what bench/arm_setup.py sets up; goes on
where it was stopped. Writes bench/results/arm_layers.json (what was tried, and all that is off) and .md.

A layer is off when ‖Δ‖ / ‖reference‖ exceeds what its arithmetic explains: 1e-4 in fp32, 0.03 in fp16 (Winograd's
rounding is 0.013), 0.05 in bf16.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from arm_setup import default_root

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.ncnn_run import NcnnSession
from onnxslim_yolo.runtime.onnx_run import run_onnx

RESULTS = Path(__file__).with_name("results")
WIDTHS = (1, 3, 4, 7, 8, 12, 16, 24, 33)
SIZES = tuple(range(5, 25))
LIMITS = {"fp32": 1e-4, "fp16": 0.03, "bf16": 0.05}
MOST_TOGETHER = 200
"""Sizes of networks that one session loads before a fresh one is started."""

_CONV = "y = Conv<kernel_shape=[{k},{k}], pads=[{p},{p},{p},{p}], strides=[{s},{s}], group={g}>(x, w, b)"
_WINDOWS = ((1, 1), (1, 2), (3, 1), (3, 2), (5, 1), (5, 2), (6, 2), (7, 2))
_NEAREST = 'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"'
KINDS = {
    **{f"conv{k}-s{s}": (_CONV, {"k": k, "s": s, "p": k // 2}) for k, s in _WINDOWS},
    **{f"dw{k}-s{s}": (_CONV, {"k": k, "s": s, "p": k // 2, "g": "c"}) for k in (3, 5, 7) for s in (1, 2)},
    "group2-s1": (_CONV, {"k": 3, "s": 1, "p": 1, "g": 2}),
    "conv3-relu": ("a = " + _CONV[4:] + " y = Relu(a)", {"k": 3, "s": 1, "p": 1}),
    "conv1-silu": ("a = " + _CONV[4:] + " t = Sigmoid(a) y = Mul(a, t)", {"k": 1, "s": 1, "p": 0}),
    "deconv2": ("y = ConvTranspose<kernel_shape=[2,2], strides=[2,2]>(x, v, b)", {"k": 2}),
    "deconv4": ("y = ConvTranspose<kernel_shape=[4,4], strides=[2,2], pads=[1,1,1,1]>(x, v, b)", {"k": 4}),
    "maxpool2-s2": ("y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)", {}),
    "maxpool3-s2": ("y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)", {}),
    "maxpool5-s1": ("y = MaxPool<kernel_shape=[5,5], strides=[1,1], pads=[2,2,2,2]>(x)", {}),
    "avgpool3-s2": ("y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)", {}),
    "globalpool": ("y = GlobalAveragePool(x)", {}),
    "resize-nearest": (f'y = Resize<{_NEAREST}>(x, "", r)', {}),
    "resize-linear": ('y = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(x, "", r)', {}),
    "concat": ("a = Relu(x) y = Concat<axis=1>(a, x)", {}),
    "add": ("a = Relu(x) y = Add(a, x)", {}),
    "gate": ("a = GlobalAveragePool(x) t = Sigmoid(a) y = Mul(x, t)", {}),
    "silu": ("t = Sigmoid(x) y = Mul(x, t)", {}),
    "hardswish": ("y = HardSwish(x)", {}),
    "mish": ("y = Mish(x)", {}),
    "gelu": ("e = Div(x, q) f = Erf(e) h = Add(f, one) i = Mul(x, h) y = Mul(i, half)", {}),
    "softmax": ("y = Softmax<axis=1>(x)", {}),
}  # fmt: skip


def network(kind: str, width: int, height: int, across: int) -> Model | None:
    """One layer of a width at a size; None where there is none."""
    body, facts = KINDS[kind]
    groups = {"c": width}.get(facts.get("g", 1), facts.get("g", 1))
    if width % groups or (groups == 2 and width == 2):
        return None
    k = facts.get("k", 1)
    head = f"float[1,{width},{height},{across}] x"
    shapes = {"w": (width, width // groups, k, k), "v": (width, width, k, k), "b": (width,), "r": (4,)}
    shapes |= {"q": (1,), "one": (1,), "half": (1,)}
    text = body.format(**{**facts, "g": groups})
    used = [n for n in shapes if f" {n})" in text or f" {n}," in text or f"({n}," in text]
    values = {n: constant(n, shapes[n], k * k * width // groups) for n in used}
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g ({head}) => (float[] y) {{ {text} }}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in values.items())
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return Model.from_onnx(onnx.shape_inference.infer_shapes(model))


def constant(name: str, shape: tuple[int, ...], fan: int) -> np.ndarray:
    fixed = {"r": [1, 1, 2, 2], "q": [2**0.5], "one": [1], "half": [0.5]}
    if name in fixed:
        return np.array(fixed[name], np.float32)
    rng = np.random.default_rng(len(name) + sum(shape))
    return rng.normal(0, 1 if name == "b" else (2 / fan) ** 0.5, shape).astype(np.float16).astype(np.float32)


def tried(kind: str, core: str, arithmetic: str, launcher: Path) -> Iterator[dict]:
    """Every width and size of a kind."""
    kept = {"default": "fp32" if core == "a72" else "fp16"}.get(arithmetic, arithmetic)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        session = None
        for number, (width, size) in enumerate((w, s) for w in WIDTHS for s in SIZES):
            model = network(kind, width, size, size)
            if model is None:
                continue
            try:
                pair = write_pair(emit_ncnn(model, weights="fp32"), Path(folder))
            except OnnxSlimError:
                continue
            if session is None or number % MOST_TOGETHER == 0:
                if session is not None:
                    session.close()
                session = NcnnSession(*pair, arithmetic=arithmetic, run_on=f"{launcher} {core} -", timeout=120)
            else:
                session.load(*pair)
            x = rng.normal(0, 1, (1, width, size, size)).astype(np.float32)
            wanted = run_onnx(model, [{"x": x}])[0]["y"].reshape(-1).astype(np.float64)
            found = session.run({"in0": x[0]})["out0"].reshape(-1).astype(np.float64)
            error = float(np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-9))
            yield {"width": width, "size": size, "error": error, "off": not error <= LIMITS[kept]}
        if session is not None:
            session.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", default="a76,a72")
    parser.add_argument("--arithmetic", default="default,fp32,bf16")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--root", type=Path, default=default_root())
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    file = options.out / "arm_layers.json"
    rows = json.loads(file.read_text()) if file.is_file() else {}
    for arithmetic in options.arithmetic.split(","):
        for core in options.cores.split(","):
            for kind in options.kinds.split(","):
                key = f"{kind} {core} {arithmetic}"
                if key in rows or (core == "a72" and arithmetic == "fp32"):
                    continue
                try:
                    cells = list(tried(kind, core, arithmetic, options.root / "arm-python"))
                except OnnxSlimError as error:
                    rows[key] = {"failed": str(error)}
                else:
                    errors = sorted(cell["error"] for cell in cells)
                    off = [[c["width"], c["size"], float(f"{c['error']:.3g}")] for c in cells if c["off"]]
                    rows[key] = {"tried": len(cells), "median": float(f"{errors[len(errors) // 2]:.3g}"), "off": off}
                file.write_text(json.dumps(rows, indent=1) + "\n")
                (options.out / "arm_layers.md").write_text(markdown(rows))
                print(
                    key, {k: v for k, v in rows[key].items() if k != "off"}, len(rows[key].get("off", [])), flush=True
                )


def markdown(rows: dict) -> str:
    lines = [
        "# Layers of ncnn under ARM emulation, against onnxruntime",
        "",
        "‖Δ‖ / ‖reference‖ of one-layer networks, square maps of 5 to 24 pixels a side, widths "
        f"{', '.join(map(str, WIDTHS))}. Off: above 1e-4 in fp32, 0.03 in fp16, 0.05 in bf16. A76 (Pi 5) computes in "
        "fp16 by default, A72 (Pi 4) in fp32.",
        "",
        "| layer | core, arithmetic | networks | median | off | where (width × size: error) |",
        "|---|---|---|---|---|---|",
    ]
    for key, row in sorted(rows.items()):
        kind, core, arithmetic = key.split()
        off = row.get("off", [])
        shown = "; ".join(f"{w} × {s}: {e:.2g}" for w, s, e in off[:6]) + (" …" if len(off) > 6 else "")
        count, middle = row.get("tried", "failed"), row.get("median", "")
        shown = shown or row.get("failed", "")[:120]
        lines.append(f"| {kind} | {core}, {arithmetic} | {count} | {middle} | {len(off)} | {shown} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
