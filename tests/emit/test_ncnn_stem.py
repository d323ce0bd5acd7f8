"""A 6×6 convolution with stride 2 over an image becomes one 3×3 over its phases, with the same result."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnxslim_yolo.emit.ncnn import rewrites as ncnn_rewrites
from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.ncnn_run import NcnnSession
from onnxslim_yolo.verify.ncnn_compare import compare_outputs
from tests.emit.ncnn_session import fresh_session
from tests.numeric import build, random_feeds

TOLERANCE = 2e-5
SPLIT = ["Convolution", "Convolution"]


@pytest.fixture(scope="module")
def session() -> Iterator[NcnnSession]:
    with fresh_session() as opened:
        yield opened


def stem(
    attributes: str = "pads=[2,2,2,2]",
    *,
    channels: int = 3,
    size: str = "20,26",
    kernel: str = "6,6",
    strides: str = "strides=[2,2],",
    after: str = "Relu(a)",
) -> Model:
    return build(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[1,{channels},{size}] x) => (float[1,7,h,w] y)
        <float[7,{channels},{kernel}] w, float[7] b> {{ a = Conv<{strides} {attributes}>(x, w, b) y = {after} }}"""
    )


def lines(model: Model) -> list[str]:
    return [" ".join(line.split()) for line in emit_ncnn(model, weights="fp32").param.splitlines()[3:]]


def kinds(model: Model) -> list[str]:
    return [line.split()[0] for line in lines(model)]


def difference(wanted: Model, converted: Model, session: NcnnSession) -> float:
    pair = emit_ncnn(converted, weights="fp32")
    return max(found.relative for found in compare_outputs(wanted, pair, [random_feeds(wanted)], session=session))


SAME = {
    "YOLOv5": stem(),
    "one channel": stem(channels=1),
    "four channels": stem(channels=4),
    "odd sizes": stem(size="21,27"),
    "one odd size": stem(size="20,27"),
    "no pads": stem("pads=[0,0,0,0]"),
    "pads on one side": stem("pads=[0,4,3,1]"),
    "odd pads behind": stem("pads=[2,2,3,1]"),
    "SAME": stem('auto_pad="SAME_UPPER"'),
    "smallest": stem(size="2,3"),
    "many outputs, as pruning leaves them": build(
        """<ir_version: 8, opset_import: ["": 17]> g (float[1,3,33,64] x) => (float[1,45,h,w] y) <float[45,3,6,6] w>
        { y = Conv<strides=[2,2], pads=[2,2,2,2]>(x, w) }"""
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_agrees_with_onnxruntime(case: str, session: NcnnSession) -> None:
    assert kinds(SAME[case]) == SPLIT
    assert difference(SAME[case], SAME[case], session) < TOLERANCE


def test_what_is_written() -> None:
    first, second = lines(stem())
    assert first.endswith("0=16 1=2 2=1 3=2 4=0 5=0 6=192 11=2 12=1 13=2 14=0 15=0 16=0 -23330=4,3,13,10,16")
    assert second.endswith("0=7 1=3 2=1 3=1 4=1 5=1 6=1008 9=1 11=3 12=1 13=1 14=1 15=1 16=1 -23330=4,3,13,10,7")


def test_a_focus_as_well(session: NcnnSession) -> None:
    slices = [f"{name} = Slice(x, s{name}, e, ax, st)" for name in "abcd"]
    model = build(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[1,3,20,26] x) => (float[1,8,h,w] y)
        <float[8,12,3,3] w, int64[2] sa = {{0,0}}, int64[2] sb = {{1,0}}, int64[2] sc = {{0,1}}, int64[2] sd = {{1,1}},
        int64[2] e = {{99,99}}, int64[2] ax = {{2,3}}, int64[2] st = {{2,2}}>
        {{ {" ".join(slices)} f = Concat<axis=1>(a, b, c, d) y = Conv<pads=[1,1,1,1]>(f, w) }}"""
    )
    assert kinds(model) == SPLIT
    assert difference(model, model, session) < TOLERANCE


DECLINED = {
    "five channels": stem(channels=5),
    "odd pads before": stem("pads=[1,2,3,2]"),
    "other kernel": stem("pads=[1,1,1,1]", kernel="4,4"),
    "other kernel on one axis": stem("pads=[2,1,2,1]", kernel="6,3"),
    "stride 1": stem(strides=""),
    "stride 2 on one axis": stem(strides="strides=[2,1],"),
    "dilated": stem("pads=[2,2,2,2], dilations=[2,2]"),
}


@pytest.mark.parametrize("case", DECLINED)
def test_others_stay(case: str, session: NcnnSession) -> None:
    assert kinds(DECLINED[case]) == ["Convolution"]
    assert difference(DECLINED[case], DECLINED[case], session) < TOLERANCE


def test_control_one_weight_off_by_one_percent_is_noticed(session: NcnnSession) -> None:
    spoiled = stem()
    values = spoiled.graph.nodes[0].inputs[1].values.copy()
    values.flat[int(np.abs(values).argmax())] *= 1.01
    spoiled.graph.nodes[0].inputs[1].values = values
    assert difference(stem(), spoiled, session) > 10 * TOLERANCE


def test_control_phases_in_another_order_are_noticed(session: NcnnSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns before rows."""
    by_phase = ncnn_rewrites.split_stems.__globals__["by_phase"]
    monkeypatch.setitem(
        ncnn_rewrites.split_stems.__globals__,
        "by_phase",
        lambda weight: by_phase(weight.swapaxes(2, 3)).swapaxes(2, 3),
    )
    assert difference(stem(), stem(), session) > 0.1
