"""int8 by a latency table: what is measured, and that a layer is int8 only where the table says that it gains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.ir.graph import Node
from onnxslim_yolo.latency import Family, Grid, LatencyTable, LayerKey, devices, layers_of
from onnxslim_yolo.latency.int8 import (
    ENDS,
    clipped_form,
    codes_form,
    end_of_chain,
    float_form,
    gives_codes,
    has_form,
    int8_form,
    int8_us,
    is_int8,
    knows_int8,
    scaled_int8,
)
from onnxslim_yolo.latency.packing import Runtime
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.latency.table_format import read_table, write_table
from onnxslim_yolo.measure.int8_profile import MADE_UP, calibrated_int8, everything
from onnxslim_yolo.measure.measurer import Measurer
from onnxslim_yolo.measure.profile import profile
from onnxslim_yolo.passes.quantise import Quantise
from onnxslim_yolo.quantisation.latency import SLOWER, _Judge, faster_layers, plan_prediction
from onnxslim_yolo.quantisation.places import places_of
from onnxslim_yolo.quantisation.qdq import quantised_graph
from onnxslim_yolo.runtime import processor
from onnxslim_yolo.verify.quantised import int8_kernels
from tests.latency.models import small
from tests.quantisation.test_quantise import built, images

__all__ = ["images"]
KINDS = [
    LayerKey(Family("conv", kernel=(3, 3), stride=(2, 2), size=(8, 8)), (16,), (16,)),
    LayerKey(Family("depthwise", kernel=(3, 3), size=(8, 8)), (12,), (12,)),
    LayerKey(Family("group-conv", kernel=(3, 3), groups=4, size=(8, 8)), (16,), (8,)),
    LayerKey(Family("maxpool", kernel=(3, 3), size=(8, 8)), (12,), (12,)),
    LayerKey(Family("resize", "nearest", kernel=(2, 2), size=(8, 8)), (12,), (12,)),
    LayerKey(Family("concat", size=(8, 8)), (12, 12), (24,)),
    LayerKey(Family("split", size=(8, 8)), (24,), (12, 12)),
    LayerKey(Family("binary", "add", size=(8, 8)), (12, 12), (12,)),
    *(LayerKey(Family("unary", op, size=(8, 8)), (12,), (12,)) for op in ("silu", "sigmoid", "leaky")),
    *(LayerKey(Family("matmul", size=(rows, 1)), (12,), (20,)) for rows in (1, 64)),
]


@pytest.mark.parametrize("runtime", ["ncnn", "onnxruntime"])
def test_int8_forms_are_measured(runtime: Runtime) -> None:
    keys = [LayerKey(int8_form(key.family), key.ins, key.outs) for key in KINDS if has_form(key.family, runtime)]
    keys += [end_of_chain(which, (8, 8), 12) for which in ENDS if runtime == "onnxruntime"]
    for key in KINDS[:2] if runtime == "ncnn" else []:
        forms = [int8_form(key.family), codes_form(key.family)]
        keys += [LayerKey(form, key.ins, key.outs) for form in (*forms, *map(clipped_form, forms))]
    with Measurer(runtime, 1) as measure:
        times = measure(keys)
    assert [key for key, us in zip(keys, times, strict=True) if us is None or us <= 0] == []


def made_up(factors: dict[str, float], runtime: Runtime = "ncnn", model: oy.Model | None = None) -> LatencyTable:
    """A table whose int8 forms take so many times their float layer's time, by kind; others are not in it."""

    def measure(keys: Sequence[LayerKey]) -> list[float | None]:
        def us(key: LayerKey) -> float | None:
            work = key.family.area * sum(key.outs) / 10 * (sum(key.ins) if key.family.kind == "conv" else 1)
            if key.family.op.split(" ")[0] in ENDS:
                return factors.get("ends", 0.0) * work
            if gives_codes(key.family) and "codes" in factors:
                return factors["codes"] * work
            return work * factors.get(key.family.kind, 1.0) if is_int8(key.family) else work

        return [us(key) for key in keys]

    return profile([(model or small()).graph], target=runtime, int8=bool(factors), measure=measure)


def test_a_table_holds_them_beside_the_floats(tmp_path: Path) -> None:
    old, new = made_up({}), made_up({"conv": 0.5})
    assert not knows_int8(old) and knows_int8(new)
    again = read_table(write_table(new, tmp_path / "t.json"))
    assert again.families.keys() == new.families.keys()
    for key in layers_of(small().graph):
        assert again.predict(key) == pytest.approx(old.predict(key), rel=1e-3)
        if key.family.kind == "conv" and key.ins[0] > 3:
            assert int8_us(again, key) == pytest.approx(old.predict(key) / 2, rel=2e-3)
    assert int8_us(old, KINDS[0]) is None and int8_us(new, KINDS[2]) is None


def test_what_was_not_measured_is_not_made_of_int8_times() -> None:
    """A float layer of a size never seen is judged by float layers alone."""
    family, cells = Family("conv", kernel=(3, 3), size=(8, 8)), {(16, 16): 10.0}
    floats = LatencyTable("ncnn", "avx512", families={family: Grid((16,), (16,), cells)})
    both = replace(
        floats, families=floats.families | {int8_form(family): Grid((16,), (16,), {(16, 16): 1e4})}, _corrections={}
    )
    for other in (replace(family, size=(16, 16)), replace(family, kernel=(5, 5))):
        assert both.lookup(other, (16,), (16,)) == floats.lookup(other, (16,), (16,))


def test_the_rest_stays_float(images: Path) -> None:
    model = built("clip and depthwise")
    table = made_up({"conv": 0.5, "depthwise": 3.0}, model=model)
    wanted, predicted = faster_layers(model, table, lambda node: None)
    depthwise = next(node for node in model.graph.nodes if node.op == "Conv" and node.attrs.get("group") == 8)
    assert wanted(depthwise) == SLOWER and predicted.left < 1
    assert sum(wanted(node) is None for node in model.graph.nodes if node.op == "Conv") == 2
    control, _ = faster_layers(model, made_up({"conv": 0.5, "depthwise": 0.5}, model=model), lambda node: None)
    assert control(depthwise) is None


@pytest.mark.parametrize(
    ("factors", "note", "layers"),
    [
        ({"conv": 0.5, "depthwise": 3.0}, None, 2),
        ({"conv": 1.2, "depthwise": 3.0}, "everything stays float", 0),
        ({}, "profile MODEL --int8", 3),
    ],
)
def test_the_pass_goes_by_the_table(
    factors: dict[str, float], note: str | None, layers: int, images: Path, tmp_path: Path
) -> None:
    model = built("clip and depthwise")
    path = write_table(made_up(factors, model=model), tmp_path / "t.json")
    assert Quantise(("auto",), images, budget=9.0, table=path).run(model) == layers
    assert (model.quantised is None) == (layers == 0)
    said = [each for each in model.notes if each.startswith("int8")]
    assert all("\n" not in each for each in said) and (not said if note is None else note in said[0])


def test_all_is_done_and_told_where_it_is_slower(images: Path, tmp_path: Path) -> None:
    model = built("clip and depthwise")
    path = write_table(made_up({"conv": 1.2, "depthwise": 3.0}, model=model), tmp_path / "t.json")
    assert Quantise(("all",), images, table=path).run(model) == 3
    assert any("--quantize int8 leaves float" in note for note in model.notes)


TOKENS = (
    "float[6,3,1,1] w, float[6] b, float[6,24] p, float[24,6] q, float[6,6,1,1] e,"
    " int64[3] flat = {1, 6, 768}, int64[4] map = {1, 6, 24, 32}",
    """c = Conv <kernel_shape = [1, 1]> (x, w, b)
    r = Relu (c)
    f = Reshape (r, flat)
    t = Transpose <perm = [0, 2, 1]> (f)
    u = MatMul (t, p)
    v = Relu (u)
    m = MatMul (v, q)
    s = Transpose <perm = [0, 2, 1]> (m)
    n = Reshape (s, map)
    y = Conv <kernel_shape = [1, 1]> (n, e)""",
)


@pytest.mark.parametrize("runtime", ["ncnn", "onnxruntime"])
@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_products_with_a_weight_go_by_the_table(runtime: Runtime, factor: float) -> None:
    model = built("tokens", bodies={"tokens": TOKENS})
    table = made_up({"matmul": factor, "conv": 3.0}, runtime, model)
    wanted, predicted = faster_layers(model, table, lambda node: None)
    kept = {node.op for node in model.graph.nodes if node.op in ("MatMul", "Conv") and wanted(node) is None}
    assert (kept, predicted.left < 1) == (({"MatMul"}, True) if factor < 1 else (set(), False))


POOLED = (
    "float[16,3,3,3] w, float[16] b, float[8,16,1,1] p, float[6,8,1,1] q",
    """c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w, b)
    r = Relu (c)
    m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r)
    d = Conv <kernel_shape = [1, 1]> (m, p)
    s = Relu (d)
    t = Transpose <perm = [0, 1, 3, 2]> (s)
    u = Transpose <perm = [0, 1, 3, 2]> (t)
    y = Conv <kernel_shape = [1, 1]> (u, q)""",
)


@pytest.mark.parametrize("opset", [11, 17])
def test_in_onnxruntime_a_pool_of_codes_behind_a_float_convolution_is_slow(opset: int) -> None:
    """It makes the codes of a maximum before it, and pools them with channels first; before opset 12 it cannot."""
    model = built("pooled", opset, {"pooled": POOLED})
    table = made_up({"conv": 1.0, "maxpool": 1.0}, "onnxruntime", model)
    judge = _Judge(model.graph, table)
    first = next(node for node in model.graph.nodes if node.op == "Conv")
    [pool] = [key for key in layers_of(model.graph) if key.family.kind == "maxpool"]

    def us(wanted: Callable[[Node], str | None]) -> float:
        places = places_of(model.graph, wanted)
        return judge.us([node.name for node in places.layers], places.shares)

    partly, wholly = us(lambda node: "float" if node is first else None), us(lambda node: None)
    assert partly - wholly == pytest.approx(39 * table.predict(pool) if opset > 11 else 0, rel=1e-6)


def test_in_onnxruntime_channels_are_moved_at_a_price() -> None:
    """Codes are there with channels last behind an int8 convolution; a Transpose wants them first."""
    model = built("pooled", bodies={"pooled": POOLED})
    tables = [made_up({"conv": 1.0, "maxpool": 1.0, "ends": ends}, "onnxruntime", model) for ends in (0.0, 1.0)]
    places = places_of(model.graph)
    names, coded = [node.name for node in places.layers], places.shares
    free, paid = (_Judge(model.graph, table).us(names, coded) for table in tables)
    area = 24 * 32 / 10 * tables[0].scale
    # Codes of 3 channels of the image are made and turned; the first Transpose wants 8 channels first, the last
    # convolution wants them last; the 6 that the network gives out become floats, and are turned.
    assert paid - free == pytest.approx(area * (2 * 3 + 8 + 8 + 2 * 6), rel=0.01)


def test_an_x86_without_vnni_is_not_judged_by_int8_times_of_one_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for runtime in ("ncnn", "onnxruntime"):
        assert knows_int8(table_for(runtime, "x86-avx512")) and not knows_int8(table_for(runtime, "x86-avx2"))
        assert knows_int8(table_for(runtime, "pi4")) == (runtime == "ncnn")
        monkeypatch.setattr(devices, "host_isa", lambda: "avx512")
        found = {}
        for without in (True, False):
            monkeypatch.setattr(processor, "adds_in_16_bits", lambda without=without: without)
            found[without] = table_for(runtime)
        assert not knows_int8(found[True]) and knows_int8(found[False])
        assert found[True].families.items() <= found[False].families.items(), "the floats' times are the same"


@pytest.mark.parametrize(("ends", "kept"), [(0.0, True), (9.0, False)])
def test_codes_are_made_and_read_at_a_price(ends: float, kept: bool) -> None:
    """onnxruntime: a convolution between floats gains less than it does by itself."""
    model = built("concat, pool, residual")
    table = made_up({"conv": 0.8, "ends": ends}, "onnxruntime", model)
    wanted, _ = faster_layers(model, table, lambda node: None)
    assert any(node.op == "Conv" and wanted(node) is None for node in model.graph.nodes) == kept


def handed_us(model: oy.Model, *, end: str = "") -> tuple[float, float]:
    """What a layer that hands on codes takes, and what a whole network is predicted to by a table that knows it."""
    if end:
        node = next(node for node in model.graph.nodes if node.name == end)
        model.graph.outputs.append(node.outputs[0])
    table = made_up({"conv": 0.5, "depthwise": 0.5, "codes": 0.1}, model=model)
    made = everything(model.graph)
    assert made is not None and made.quantised is not None
    plain = replace(
        table, families={f: g for f, g in table.families.items() if not gives_codes(f)}, _cache={}, _near={}
    )
    known, unknown = (plan_prediction(made.graph, each, made.quantised).int8_us for each in (table, plain))
    return unknown - known, known


def test_what_hands_on_codes_has_a_time_of_its_own() -> None:
    """Of `small` that is one convolution: through its ReLU only one in int8 reads it. Not behind a SiLU or a pool."""
    model = small()
    [layer] = [key for key in layers_of(model.graph) if key.family.kind == "conv" and key.outs == (24,)]
    work = layer.family.area * 24 / 10 * 16
    saved, _ = handed_us(small())
    assert saved == pytest.approx(0.4 * work * made_up({}).scale, rel=0.01)
    relu = next(node.name for node in model.graph.nodes if node.op == "Relu")
    assert handed_us(small(), end=relu)[0] == 0, "what the network gives out are floats"
    assert float_form(codes_form(layer.family)) == float_form(int8_form(layer.family)) == layer.family


@pytest.mark.parametrize("device", ["pi4", "pi5"])
def test_a_pi_s_depthwise_layers_that_hand_on_codes_take_less(device: str) -> None:
    """Eight channels in a register: a Pi 4's float layers take four, and packing anew costs more than the layer."""
    key = LayerKey(Family("depthwise", kernel=(3, 3), size=(22, 22)), (32,), (32,))
    table = table_for("ncnn", device)
    floats, codes = (int8_us(table, key, codes=given) for given in (False, True))
    assert floats is not None and codes is not None
    assert codes < 0.5 * floats if device == "pi4" else codes == floats


@pytest.mark.parametrize("device", ["pi4", "pi5"])
def test_a_clip_behind_a_pi_s_depthwise_layer_takes_time_in_int8(device: str) -> None:
    key = LayerKey(Family("depthwise", kernel=(3, 3), size=(22, 22)), (32,), (32,))
    table = table_for("ncnn", device)
    for codes in (False, True):
        plain, clipped = (int8_us(table, replace(key, activation=a), codes=codes) for a in ("relu", "clip"))
        assert plain is not None and clipped is not None and clipped > 1.15 * plain
    conv = LayerKey(Family("conv", size=(22, 22)), (32,), (32,), "clip")
    assert int8_us(table, conv) == int8_us(table, replace(conv, activation="")), "not counted"
    assert float_form(clipped_form(codes_form(key.family))) == key.family
    assert codes_form(clipped_form(int8_form(key.family))) == clipped_form(codes_form(key.family))


def test_whole_networks_put_the_times_right() -> None:
    table, factor = made_up({"conv": 0.5, "depthwise": 0.5}), 1.7
    true = scaled_int8(table, factor)
    graph = small().graph
    right = calibrated_int8(table, [graph], lambda g, plan: plan and plan_prediction(g, true, plan).int8_us)
    for family, grid in right.families.items():
        want = {cell: us * (factor if is_int8(family) else 1) for cell, us in table.families[family].us.items()}
        assert grid.us == pytest.approx(want)
    assert calibrated_int8(table, [graph], lambda g, plan: None).families == table.families


@pytest.mark.parametrize("runtime", ["ncnn", "onnxruntime"])
def test_a_whole_network_in_int8_is_run(runtime: Runtime) -> None:
    made = everything(small().graph)
    assert made is not None and made.quantised is not None
    with Measurer(runtime, 1) as measure:
        assert (measure.whole(made.graph, made.quantised) or 0) > 0


def test_a_report_counts_int8(images: Path, tmp_path: Path) -> None:
    model = built("silu")
    path = write_table(made_up({"conv": 0.3}, model=model), tmp_path / "t.json")
    source = model.save(tmp_path / "net.onnx")
    options = {"prune": 0, "calib": images, "emit": "onnx", "table": path, "head": "keep"}
    plain = oy.compile(source, out=tmp_path / "plain", **options)
    result = oy.compile(source, quantize="all", out=tmp_path / "out", **options)
    assert result.report["after"]["latency_us"] < 0.8 * plain.report["after"]["latency_us"]


def int8_left(device: str, kernel: int, width: int, size: int) -> float:
    key = LayerKey(Family("conv", kernel=(kernel, kernel), size=(size, size)), (width,), (width,))
    table = table_for("ncnn", device)
    us = int8_us(table, key)
    assert us is not None
    return us / table.predict(key)


def test_a_pi_s_table_tells_what_int8_gains() -> None:
    """As ncnn publishes it: 3×3 convolutions lose on a Pi 5, where floats have Winograd in fp16, and gain on a Pi 4."""
    for width in (64, 128):
        assert int8_left("pi5", 3, width, 20) > 1.2 and int8_left("pi4", 3, width, 20) < 0.9
        assert int8_left("pi5", 1, width, 20) < 0.9  # dot products
    assert int8_left("pi5", 1, 16, 20) > 1.3 and int8_left("pi4", 1, 16, 20) > 1.1  # making codes is not earned back


@pytest.mark.parametrize("device", ["pi5", "pi4", "rk3588", "pi3"])
def test_on_a_pi_int8_is_decided_by_its_table(device: str, images: Path) -> None:
    assert knows_int8(table_for("ncnn", device))
    model = built("clip and depthwise")
    Quantise(("auto",), images, budget=9.0, isa=device).run(model)  # type: ignore[arg-type]
    assert not any("has no int8 times" in note for note in model.notes)
    other = built("clip and depthwise")
    Quantise(("auto",), images, budget=9.0, isa="neon").run(other)
    assert any("has no int8 times" in note for note in other.notes)  # the control: a formula knows none


@pytest.mark.parametrize("body", ["relu", "clip and depthwise", "silu"])
def test_made_up_ranges_leave_every_layer_a_kernel(body: str, tmp_path: Path) -> None:
    """An activation is the codes' ends: of a range that goes below zero onnxruntime computes the layer in floats."""
    found = everything(built(body).graph)
    assert found is not None and found.quantised is not None
    file = quantised_graph(found, found.quantised).save(tmp_path / "m.onnx")
    assert int8_kernels(file) == len(found.quantised.layers)
    wide = replace(found.quantised, ranges=dict.fromkeys(found.quantised.ranges, MADE_UP))
    control = int8_kernels(quantised_graph(found, wide).save(tmp_path / "control.onnx"))
    assert (control < len(wide.layers)) == (body != "silu")
