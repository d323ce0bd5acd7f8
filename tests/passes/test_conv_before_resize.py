"""conv-before-resize: a 1×1 convolution gives the same on the small map, whatever enlarges it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.analysis.enlarged import enlarged_inputs
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import ConvBeforeResize
from tests.numeric import build, check_declines, check_rewrite, ops

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
WEIGHTS = """float[8,6,1,1] a.weight, float[8] a.bias, float[8,10,1,1] c.weight, float[4,10,1,1] d.weight,
    float[4] d.bias, float[8,16,1,1] e.weight, float[8,10,3,3] k.weight, float[8,5,1,1] g.weight,
    float[8] n.gamma, float[8] n.beta, float[8] n.mean, float[8] n.var, float[4] s, float[4] t,
    int64[4] sizes, int64[2] axes"""
VALUES = {"s": np.array([1.0, 1, 2, 2]), "t": np.array([1.0, 1, 4, 4]), "sizes": np.array([2, 6, 10, 14])}
UP = "u = Resize<{attrs}>(x, , s)"
NEAREST = 'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"'


def graph(body: str, outputs: str = "y", *, header: str = HEADER, batch: str = "2") -> str:
    shapes = ", ".join(f"float[{batch},c_{name},h_{name},w_{name}] {name}" for name in outputs.split())
    inputs = f"float[{batch},6,5,7] x, float[{batch},4,10,14] b, float[{batch},6,3,4] z"
    return f"{header} g ({inputs}) => ({shapes}) <{WEIGHTS}> {{ {body} }}"


def model_of(body: str, outputs: str = "y", **kwargs: str) -> Model:
    return build(graph(body, outputs, **kwargs), values=VALUES)


MODES = [
    NEAREST,
    'mode="nearest"',
    'mode="linear", coordinate_transformation_mode="half_pixel"',
    'mode="linear", coordinate_transformation_mode="align_corners"',
    'mode="cubic", cubic_coeff_a=-0.5',
]


@pytest.mark.parametrize("attrs", MODES)
@pytest.mark.parametrize("bias", ["", ", a.bias"])
def test_a_convolution_that_reads_it_alone(attrs: str, bias: str) -> None:
    body = f"{UP.format(attrs=attrs)} y = Conv(u, a.weight{bias})"
    assert ops(check_rewrite(model_of(body), ConvBeforeResize())) == ["Conv", "Resize"]


@pytest.mark.parametrize("attrs", MODES)
@pytest.mark.parametrize("order", ["u, b", "b, u"])
def test_one_that_reads_it_in_a_concat(attrs: str, order: str) -> None:
    body = f"{UP.format(attrs=attrs)} h = Concat<axis=1>({order}) y = Conv(h, c.weight, a.bias)"
    after = check_rewrite(model_of(body), ConvBeforeResize())
    assert sorted(ops(after)) == ["Add", "Conv", "Conv", "Resize"]


def test_multiplications_are_those_of_the_small_map() -> None:
    body = f"{UP.format(attrs=NEAREST)} h = Concat<axis=-3>(u, b) y = Conv(h, c.weight)"
    before = model_of(body)
    after = check_rewrite(before, ConvBeforeResize())
    assert cost_of(before.graph).macs == 2 * 8 * 10 * 140
    assert cost_of(after.graph).macs == 2 * 8 * (6 * 35 + 4 * 140)
    [(part,)] = enlarged_inputs(before.graph).values()
    assert (part.start, part.stop, part.share) == (0, 6, 0.25)


def test_two_readers_share_what_is_left_of_the_concat() -> None:
    body = f"""{UP.format(attrs=NEAREST)} v = Sin(b) h = Concat<axis=1>(b, u, v) y = Conv(h, e14) w = Conv(h, f14)"""
    text = graph(body, "y w").replace(WEIGHTS, WEIGHTS + ", float[8,14,1,1] e14, float[3,14,1,1] f14")
    after = check_rewrite(build(text, values=VALUES), ConvBeforeResize(), rewrites=2)
    assert sorted(ops(after)) == ["Add", "Add", "Concat", "Conv", "Conv", "Conv", "Conv", "Resize", "Resize", "Sin"]
    assert [len(node.inputs) for node in after.graph.nodes if node.op == "Concat"] == [2]


def test_several_scales_and_one_map_twice() -> None:
    body = """u = Resize(x, , s) o = Resize(z, , , sizes) h = Concat<axis=1>(u, b, o) y = Conv(h, e.weight, a.bias)"""
    after = check_rewrite(model_of(body), ConvBeforeResize())
    assert sorted(ops(after)) == ["Add", "Add", "Conv", "Conv", "Conv", "Resize", "Resize"]
    twice = f"{UP.format(attrs=NEAREST)} h = Concat<axis=1>(u, u) y = Conv(h, w12)"
    text = graph(twice).replace(WEIGHTS, WEIGHTS + ", float[8,12,1,1] w12")
    assert "Concat" not in ops(check_rewrite(build(text, values=VALUES), ConvBeforeResize()))


def test_sizes_of_all_axes_and_of_some() -> None:
    body = "u = Resize(x, , , sizes) y = Conv(u, a.weight)"
    check_rewrite(model_of(body), ConvBeforeResize())
    newer = '<ir_version: 8, opset_import: ["": 18]>'
    values = {**VALUES, "axes": np.array([10, 14])}
    body = "u = Resize<axes=[2,3]>(x, , , axes) y = Conv(u, a.weight)"
    check_rewrite(build(graph(body, header=newer), values=values), ConvBeforeResize())


def test_upsample_of_old_opsets() -> None:
    body = "u = Upsample(x, s) h = Concat<axis=1>(u, b) y = Conv(h, c.weight)"
    check_rewrite(model_of(body, header='<ir_version: 6, opset_import: ["": 9]>'), ConvBeforeResize())


def test_a_batch_without_a_number() -> None:
    body = f"{UP.format(attrs=NEAREST)} h = Concat<axis=1>(u, b) y = Conv(h, c.weight)"
    check_rewrite(model_of(body, batch="n"), ConvBeforeResize())


def test_a_map_without_a_size() -> None:
    text = graph(f"{UP.format(attrs=NEAREST)} y = Conv(u, a.weight, a.bias)").replace("2,6,5,7] x", "2,6,h,w] x")
    check_rewrite(build(text, values=VALUES), ConvBeforeResize())
    opposite = {**VALUES, "s": np.array([1.0, 1, 0.5, 0.5])}
    check_declines(build(text, values=opposite), ConvBeforeResize())


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("u = Resize(x, , s) y = Conv(u, a.weight)", "y u"),
        ("u = Resize(x, , s) y = Conv(u, a.weight) w = Sin(u)", "y w"),
        ("u = Resize(x, , s) h = Concat<axis=1>(u, b) y = Conv(h, c.weight)", "y h"),
        ("u = Resize(x, , s) h = Concat<axis=1>(u, b) y = Conv(h, c.weight) w = Sin(h)", "y w"),
        ("u = Resize(x, , s) h = Concat<axis=1>(u, b) y = Conv(h, c.weight) w = Conv(h, k.weight)", "y w"),
        ("u = Resize(x, , s) h = Concat<axis=1>(u, b) y = Conv<pads=[1,1,1,1]>(h, c.weight)", "y"),
        ("u = Resize(x, , s) h = Concat<axis=1>(u, b) y = Conv<strides=[2,2]>(h, c.weight)", "y"),
        ("u = Resize(x, , s) h = Concat<axis=1>(u, b) y = Conv<group=2>(h, g.weight)", "y"),
        ("u = Resize(x, , s) h = Concat<axis=2>(u, u) y = Conv(h, a.weight)", "y"),
        ("u = Resize(x, , s) r = Sin(u) y = Conv(r, a.weight)", "y"),
        ("u = Resize(b, , q) y = Conv(u, q.weight)", "y"),
        ("u = Resize(x, , c) y = Conv(u, w12)", "y"),
        ('u = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize">(x, roi, s) '
         "y = Conv(u, a.weight)", "y"),
    ],
)  # fmt: skip
def test_declines(body: str, outputs: str) -> None:
    """The large map or the Concat read otherwise or given out; other kernels; other axes; smaller maps; crops."""
    more = ", float[4] q, float[4] c, float[8,12,1,1] w12, float[8,4,1,1] q.weight, float[8] roi"
    values = {
        **VALUES,
        "q": np.array([1, 1, 0.5, 0.5]),
        "c": np.array([1.0, 2, 2, 2]),
        "roi": np.array([0, 0, 0, 0, 1, 1, 1.5, 1.5]),
    }
    check_declines(build(graph(body, outputs).replace(WEIGHTS, WEIGHTS + more), values=values), ConvBeforeResize())


def test_declines_in_front_of_a_batch_norm_and_then_beside_one() -> None:
    """One reader that stays where it is needs the Concat: the others stay as well."""
    norm = "n = BatchNormalization(y0, n.gamma, n.beta, n.mean, n.var)"
    body = f"u = Resize(x, , s) h = Concat<axis=1>(u, b) y0 = Conv(h, c.weight) {norm} y = Conv(h, d.weight, d.bias)"
    check_declines(model_of(body, "y n"), ConvBeforeResize())


def wide(narrow: int, channels: int, side: int) -> Model:
    """A `narrow`-filter convolution of `channels` enlarged ones beside four."""
    text = f"""{HEADER} g (float[1,{channels},{side},{side}] x, float[1,4,{2 * side},{2 * side}] b)
    => (float[1,{narrow},{2 * side},{2 * side}] y) <float[{narrow},{channels + 4},1,1] w, float[4] s> {{
    {UP.format(attrs=NEAREST)} h = Concat<axis=1>(u, b) y = Conv(h, w) }}"""
    return build(text, values=VALUES)


@pytest.mark.parametrize("runtime", ["ncnn", "onnxruntime"])
def test_moved_only_where_the_table_predicts_no_loss(runtime: str) -> None:
    from onnxslim_yolo.latency.shipped import table_for

    table = table_for(runtime, "avx512")  # type: ignore[arg-type]
    judged = ConvBeforeResize(runtime=runtime, isa="avx512")  # type: ignore[arg-type]
    moved = set()
    for narrow, channels, side in [(4, 4, 4), (8, 12, 8), (64, 4, 40), (16, 128, 20), (64, 256, 20), (128, 256, 40)]:
        before, always = wide(narrow, channels, side), wide(narrow, channels, side)
        was, after = table.predict_graph(before.graph), before.copy()
        judged.run(after)
        ConvBeforeResize().run(always)
        after.to_onnx()
        always.to_onnx()
        now, anyway = table.predict_graph(after.graph), table.predict_graph(always.graph)
        assert now <= was * 1.0001
        assert now <= anyway * 1.0001
        moved.add(len(after.graph.nodes) > len(before.graph.nodes))
    assert moved == {True, False}


def test_without_a_limit_of_another_kind_latency_decides() -> None:
    from onnxslim_yolo.options import CompileOptions
    from onnxslim_yolo.pipeline import _folding

    assert _folding(CompileOptions(target="onnxruntime"))[-1] == ConvBeforeResize(runtime="onnxruntime")
    assert _folding(CompileOptions(target_macs=0.5))[-1] == ConvBeforeResize()
