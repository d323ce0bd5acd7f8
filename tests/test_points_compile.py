"""Detectors of faces and YOLOX, as their exporters write them: compiled at any ratio, with and without images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import onnxslim_yolo as oy
from onnxslim_yolo.heads.shown import classes_shown
from onnxslim_yolo.heads.values import recognise
from onnxslim_yolo.ir.model import Model
from tests.numeric import build, run_onnx
from tests.passes.cutting import onnx_text

SIDE = 64
LEVELS = (8, 16, 32)


def detector(heads: str, parts: tuple[int, ...], per_cell: int) -> Model:
    """A backbone of three levels; per part a convolution at each, flattened as YuNet's exporter does (rows last),
    or SCRFD's (no batch)."""
    rng = np.random.default_rng(0)
    body = ["s = Conv<strides=[4,4],pads=[1,1,1,1]>(x, w0) r = Relu(s)"]
    weights, values = ["float[16,3,4,4] w0"], {"w0": rng.normal(0, 0.3, (16, 3, 4, 4))}
    outputs, before, made = [], "r", []
    for level in range(3):
        w, d, f = f"p{level}", f"d{level}", f"f{level}"
        weights += [f"float[16,16,1,1] {w}", f"float[16,1,3,3] {d}"]
        values |= {w: rng.normal(0, 0.35, (16, 16, 1, 1)), d: rng.normal(0, 0.4, (16, 1, 3, 3))}
        body.append(f"a{level} = Conv({before}, {w}) b{level} = Relu(a{level})")
        body.append(f"c{level} = Conv<group=16,strides=[2,2],pads=[1,1,1,1]>(b{level}, {d}) {f} = Relu(c{level})")
        before = f
    for part, columns in enumerate(parts):
        for level in range(3):
            name, wide = f"h{part}_{level}", columns * per_cell
            weights.append(f"float[{wide},16,1,1] {name}")
            values[name] = rng.normal(0, 0.4, (wide, 16, 1, 1))
            body.append(f"g{name} = Conv(f{level}, {name})")
            made.append((name, columns))
    for name, columns in made:
        axes, shape = ("[0,2,3,1]", f"1,-1,{columns}") if heads == "yunet" else ("[2,3,0,1]", f"-1,{columns}")
        body.append(f"t{name} = Transpose<perm={axes}>(g{name}) n{name} = Constant<value_ints=[{shape}]>()")
        sigmoid = columns == 1
        body.append(f"{'q' if sigmoid else 'o'}{name} = Reshape(t{name}, n{name})")
        if sigmoid:
            body.append(f"o{name} = Sigmoid(q{name})")
        outputs.append(f"float[{'a,b,c' if heads == 'yunet' else 'a,b'}] o{name}")
    text = onnx_text(f"float[1,3,{SIDE},{SIDE}] x", ", ".join(outputs), ", ".join(weights), " ".join(body))
    return build(text, values=values)


NETWORKS = {
    "yunet": lambda: detector("yunet", (1, 1, 4, 10), 1),
    "scrfd": lambda: detector("scrfd", (1, 4, 10), 2),
    "scrfd without key points": lambda: detector("scrfd", (1, 4), 2),
    "yolox, parts apart": lambda: detector("yunet", (5, 1, 4), 1),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("prune", ["dead", 0.3, 0.5])
def test_compiled_at_any_ratio(name: str, prune: float | str, tmp_path: Path) -> None:
    model = NETWORKS[name]()
    image = np.random.default_rng(1).random((1, 3, SIDE, SIDE)).astype(np.float32)
    outputs = list(run_onnx(model, {"x": image}).values())
    assert recognise(outputs, (SIDE, SIDE)).kind == "points"
    path = model.save(tmp_path / "m.onnx")
    options = {} if prune != 0.5 else {"calib": _photo(tmp_path), "importance": "output", "compensate": "reconstruct"}
    result = oy.compile(path, out=tmp_path / "out", prune=prune, **options)
    assert all(check["passed"] for check in result.report["verification"]["checks"])
    assert result.ncnn is not None and (prune == "dead" or result.plan is not None)
    assert prune != 0.5 or result.report["estimate"]["decoded"]


def joint(order: str = "b,s,c", sigmoid: str = "Sigmoid", levels: int = 2) -> Model:
    """YOLOX's last layers: three branches a level, joined over channels."""
    values = {"w": noise(8, 3, 3, 3)}
    body, weights, outputs, feature = [], ["float[8,3,3,3] w"], [], "x"
    for level in range(levels):
        stride = 8 if not level else 2
        name = f"w{level}"
        weights.append(f"float[8,{3 if not level else 8},3,3] {name}")
        values[name] = noise(8, 3 if not level else 8, 3, 3)
        body.append(
            f"m{level} = Conv<strides=[{stride},{stride}],pads=[1,1,1,1]>({feature}, {name}) f{level} = Relu(m{level})"
        )
        feature = f"f{level}"
        for part, width in (("b", 4), ("s", 1), ("c", 3)):
            weights.append(f"float[{width},8,1,1] k{part}{level}")
            values[f"k{part}{level}"] = noise(width, 8, 1, 1)
            body.append(f"{'b' if part == 'b' else 'r' + part}{level} = Conv({feature}, k{part}{level})")
            if part != "b":
                body.append(f"{part}{level} = {sigmoid}(r{part}{level})")
        body.append(f"o{level} = Concat<axis=1>({', '.join(each + str(level) for each in order.split(','))})")
        outputs.append(f"float[1,8,{SIDE // 8 // 2**level},{SIDE // 8 // 2**level}] o{level}")
    del weights[0], values["w"]
    text = onnx_text(f"float[1,3,{SIDE},{SIDE}] x", ", ".join(outputs), ", ".join(weights), " ".join(body))
    return build(text, values=values)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, 0.5, shape).astype(np.float32)


def test_joint_maps_are_read_where_the_graph_shows_what_they_join(tmp_path: Path) -> None:
    model = joint()
    assert classes_shown(model.graph) == 3
    for other in (joint("s,b,c"), joint("b,c,s"), joint(sigmoid="Tanh")):
        assert classes_shown(other.graph) is None
    result = oy.compile(
        model.save(tmp_path / "m.onnx"), out=tmp_path / "out", prune=0.3, calib=_photo(tmp_path), importance="output"
    )
    assert all(check["passed"] for check in result.report["verification"]["checks"])
    assert result.report["estimate"]["decoded"]


def _photo(folder: Path) -> Path:
    path = folder / "photo.png"
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return path
