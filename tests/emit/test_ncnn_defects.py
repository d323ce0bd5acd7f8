"""ncnn's ARM kernels that are wrong: which layers are kept from them, and that it is right then."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.emit.ncnn.defects import is_wrong, note_of, work_around
from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.format import Layer, Param
from onnxslim_yolo.emit.ncnn.write import write_ncnn, write_pair
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.ncnn_run import NcnnSession, run_ncnn
from onnxslim_yolo.verify.files import NcnnFiles
from onnxslim_yolo.verify.pair_there import verify_there
from tests.emulator import emulated, launcher
from tests.numeric import build, random_feeds, run_onnx


def depthwise(
    channels: int = 8,
    size: int = 12,
    height: int = 0,
    *,
    kernel: int = 3,
    stride: int = 2,
    dilation: int = 1,
    mult: int = 1,
) -> Model:
    """A depthwise convolution alone, its output `size` / `stride` wide."""
    pad, out, height = dilation * (kernel // 2), -(-size // stride), height or size
    return build(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[1,{channels},{height},{size}] x)
        => (float[1,{channels * mult},{-(-height // stride)},{out}] y) <float[{channels * mult},1,{kernel},{kernel}] w>
        {{ y = Conv<group={channels}, kernel_shape=[{kernel},{kernel}], strides=[{stride},{stride}],
        dilations=[{dilation},{dilation}], pads=[{pad},{pad},{pad},{pad}]>(x, w) }}"""
    )


def changed(model: Model, **options: bool | None) -> str:
    """How the pair keeps clear of the kernel: "masked", "cropped" or "" where it does not."""
    pair = emit_ncnn(model, weights="fp32", **options)
    found = "masked" if re.search(r"^ConvolutionDepthWise .* 31=1$", pair.param, re.MULTILINE) else ""
    found += "cropped" if re.search(r"^Crop ", pair.param, re.MULTILINE) else ""
    assert bool(found) == any("ARM kernel" in note for note in pair.notes)
    return found


@pytest.mark.parametrize("width", range(4, 17))
def test_the_layers_that_are_hit_are_masked(width: int) -> None:
    hit = width % 4 in (2, 3)
    assert changed(depthwise(size=2 * width)) == ("masked" if hit else "")
    assert changed(depthwise(size=2 * width), half=True) == ("cropped" if hit else "")


@pytest.mark.parametrize(
    "other", [{"channels": 12}, {"channels": 4}, {"kernel": 5}, {"stride": 1, "size": 6}, {"dilation": 2}, {"mult": 2}]
)
def test_no_other_layer_is_touched(other: dict[str, int]) -> None:
    assert not changed(depthwise(**{"size": 12, **other}))


def test_where_there_is_no_fp16_arithmetic_nothing_is_masked() -> None:
    assert changed(depthwise()) and not changed(depthwise(), half=False)


@pytest.mark.parametrize("size", [(12, 12), (13, 11), (22, 20), (5, 6)])
def test_what_is_computed_stays_the_same(size: tuple[int, int], tmp_path: Path) -> None:
    model = depthwise(16, *size)
    feed = random_feeds(model)
    wanted = run_onnx(model, feed)["y"][0]
    for half in (None, True, False):
        (found,) = run_ncnn(*write_pair(emit_ncnn(model, weights="fp32", half=half), tmp_path), [{"in0": feed["x"][0]}])
        np.testing.assert_allclose(found["out0"], wanted, atol=1e-5)


def there(pair: tuple[Path, Path], models: list[Model], core: str) -> list[float]:
    """‖Δ‖ / ‖reference‖ of pairs in a core's own arithmetic."""
    errors = []
    with NcnnSession(*pair, arithmetic="default", run_on=launcher(core)) as session:
        for model in models:
            for half in (False, None, True):
                session.load(*write_pair(emit_ncnn(model, weights="fp32", half=half), pair[0].parent))
                feed = random_feeds(model)
                wanted, found = run_onnx(model, feed)["y"][0], session.run({"in0": feed["x"][0]})["out0"]
                errors.append(float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)))
    return errors


@emulated
def test_wrong_before_and_right_after_on_a_pi_5(tmp_path: Path) -> None:
    models = [depthwise(size=12), depthwise(16, 22), depthwise(24, 20), depthwise(8, 16)]
    errors = there(write_pair(emit_ncnn(models[0], weights="fp32"), tmp_path), models, "a76")
    before, after = errors[0::3], errors[1::3] + errors[2::3]
    assert all(error > 0.1 for error in before[:3]), "ncnn has mended it: say so in emit/ncnn/defects.py"
    assert all(error < 5e-3 for error in (*after, before[3])), errors


@emulated
def test_what_half_precision_does_not_hold_is_computed_in_fp32(tmp_path: Path) -> None:
    model = build(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[1,8,6,6] x) => (float[1,8,6,6] y)
        <float[8,8,1,1] w1, float[8,8,1,1] w2, float[8,8,1,1] w3> { a = Conv(x, w1) b = Relu(a) c = Conv(b, w2)
        d = Relu(c) y = Conv(d, w3) }""",
        values={f"w{n}": np.eye(8).reshape(8, 8, 1, 1) * scale for n, scale in ((1, 3e4), (2, 8.0), (3, 1e-5))},
    )
    source = emit_ncnn(model, weights="fp32")
    files = NcnnFiles(write_ncnn(source, tmp_path / "m_ncnn_model"), source, model)
    feeds = [{"x": np.full((1, 8, 6, 6), 1.5, np.float32)}]
    mended, there, notes = verify_there(files, launcher("a76"), feeds)
    assert there.state == "the same" and there.outputs[0].relative < 1e-2
    lines = mended.pair.param.splitlines()[2:]
    assert all(line.endswith("31=3") for line in lines) and any("the whole pair is kept in fp32" in n for n in notes)
    assert (mended.folder / "model.ncnn.param").read_text() == mended.pair.param
    assert "31=3" not in source.param


def conv(**changed: int | None) -> Layer:
    """The layer that is hit, with parameters changed (as `p7=4`) or left out (None)."""
    params: dict[int, Param] = {0: 8, 1: 3, 11: 3, 2: 1, 12: 1, 3: 2, 13: 2, 7: 8, 15: 1}
    params.update({int(key[1:]): value for key, value in changed.items() if value is not None})
    gone = [int(key[1:]) for key, value in changed.items() if value is None]
    return Layer("ConvolutionDepthWise", "c", ["x"], ["y"], {k: v for k, v in params.items() if k not in gone})


@pytest.mark.parametrize(
    ("layer", "size", "wrong"),
    [
        (conv(), (8, 6, 6), True),
        (conv(), (8, 6, 7), True),
        (conv(), (8, 6, 4), False),
        (conv(), (8, 6, 5), False),
        (conv(), (8, 6), False),
        (conv(), (), False),
        (conv(p2=None, p12=None), (8, 6, 6), True),
        (conv(p1=1), (8, 6, 6), False),
        (conv(p11=1), (8, 6, 6), False),
        (conv(p11=None), (8, 6, 6), False),
        (conv(p2=2), (8, 6, 6), False),
        (conv(p12=2), (8, 6, 6), False),
        (conv(p3=1), (8, 6, 6), False),
        (conv(p13=None), (8, 6, 6), False),
        (conv(p7=4), (8, 6, 6), False),
        (conv(p0=16), (8, 6, 6), False),
        (conv(p0=4, p7=4), (4, 6, 6), False),
        (conv(p0=12, p7=12), (12, 6, 6), False),
        (conv(p0=16, p7=16), (16, 6, 6), True),
        (replace(conv(), type="Convolution"), (8, 6, 6), False),
    ],
)
def test_which_layer_is_hit(layer: Layer, size: tuple[int, ...], wrong: bool) -> None:
    assert is_wrong(layer, size) == wrong


@pytest.mark.parametrize(("width", "more"), [(6, 2), (7, 1), (10, 2), (11, 1)])
@pytest.mark.parametrize("right", [None, 0, 1])
def test_the_least_width_that_is_right(width: int, more: int, right: int | None) -> None:
    dims: dict[str, tuple[int, ...]] = {"y": (8, 6, width)}
    (wide, crop), names = work_around([conv(p15=right)], dims, known=True)
    assert names == ["c"] and dims == {"y": (8, 6, width), "y/wide": (8, 6, width + more)}
    assert wide.params == {**conv().params, 15: (right or 0) + 2 * more} and wide.outputs == ["y/wide"]
    assert (crop.type, crop.name, crop.inputs, crop.outputs) == ("Crop", "c/crop", ["y/wide"], ["y"])
    assert crop.params == {9: [0], 10: [width], 11: [2]}


def test_where_the_machine_is_not_known_the_layer_is_masked() -> None:
    other = Layer("Noop", "n", ["y"], [])
    layers, names = work_around([conv(), other, replace(conv(), name="d")], {"y": (8, 6, 6)}, known=False)
    assert names == ["c", "d"] and [each.params for each in layers] == [
        conv().params | {31: 1},
        {},
        conv().params | {31: 1},
    ]
    assert work_around([conv()], {}, known=False) == ([conv()], [])


@pytest.mark.parametrize(
    ("names", "known", "parts"),
    [
        (["c"], True, ["kernel of 'c' is wrong", "a width that is right is computed, and cropped"]),
        (["c", "d"], True, ["kernel of 2 depthwise layers ('c' …) is wrong"]),
        (["c"], False, ["kernel of 'c' is wrong", "it is kept from it (31=1)"]),
        (["c", "d", "e"], False, ["3 depthwise layers ('c' …)", "they are kept from it (31=1)"]),
    ],
)
def test_what_a_report_says(names: list[str], known: bool, parts: list[str]) -> None:
    assert all(part in note_of(names, known=known) for part in parts)
