"""ncnn's ARM kernels that are wrong: which layers are kept from them, and that it is right then."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
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
