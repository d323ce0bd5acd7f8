"""Dead channels go only where the network is predicted to be no slower for it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.passes import AbsorbConstants, PruneChannels, SliceChannels, SnapWidths
from onnxslim_yolo.pipeline import preparation
from onnxslim_yolo.pruning.not_slower import _widths
from onnxslim_yolo.pruning.problem import Unit
from tests.numeric import assert_same, build

HEAD = '<ir_version: 9, opset_import: ["" : 17]>\n'
POOLS = {
    "average": "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>",
    "strided": "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>",
    "max": "MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>",
    "sigmoid": "Sigmoid",
}
TABLE = table_for("ncnn", "avx512", None)


def network(width: int, dead: int, pool: str, layers: int = 2) -> Model:
    """`layers` 3×3 convolutions of one width, `dead` filters of each zero, `pool` behind each."""
    body, weights, rng = "", "", np.random.default_rng(width + dead)
    values: dict[str, np.ndarray] = {}
    before, x = 3, "image"
    for index in range(layers):
        weights += f"float[{width},{before},3,3] w{index}, float[{width}] b{index}, "
        weight, bias = rng.standard_normal((width, before, 3, 3)), rng.standard_normal(width)
        weight[:dead], bias[:dead] = 0, 0
        values |= {f"w{index}": weight / np.sqrt(9 * before), f"b{index}": bias}
        conv = f"c{index} = Conv<pads=[1,1,1,1]>({x}, w{index}, b{index})\nr{index} = Relu(c{index})\n"
        body += f"{conv}p{index} = {POOLS[pool]}(r{index})\n"
        before, x = width, f"p{index}"
    weights += f"float[4,{width},1,1] last"
    text = f"{HEAD}g (float[1,3,32,32] image) => (float[1,4,H,W] y) <{weights}>\n{{ {body}y = Conv({x}, last) }}"
    return build(text, values=values)


def cut(model: Model, to: str = "auto") -> tuple[Model, float, float]:
    """The network without its dead channels, and its predicted latency before and after."""
    PassManager(preparation(CompileOptions())).run(model)
    before = TABLE.predict_graph(model.graph)
    after = model.copy()
    snap, absorb = SnapWidths(to=to, isa="avx512"), AbsorbConstants(scope="exact")  # type: ignore[arg-type]
    PassManager([PruneChannels(), snap, absorb, SliceChannels()]).run(after)
    return after, before, TABLE.predict_graph(after.graph)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("width", "dead"), [(12, 2), (12, 1), (20, 3), (24, 6), (16, 1), (36, 5)])
def test_never_slower_than_the_source(width: int, dead: int, pool: str) -> None:
    model = network(width, dead, pool)
    after, was, now = cut(model)
    assert now <= 1.0001 * was
    assert_same(model, after)


def test_without_it_some_would_be_slower() -> None:
    """The control: cut as they are, not all of those networks are faster; and what stays is said."""
    found = [cut(network(12, 2, pool), "none")[1:] for pool in POOLS]
    assert any(now > 1.01 * was for was, now in found)
    pool = next(pool for pool, (was, now) in zip(POOLS, found, strict=True) if now > 1.01 * was)
    after, *_ = cut(network(12, 2, pool))
    assert any("channels stay though they contribute nothing" in note for note in after.notes)


def test_what_is_faster_without_still_goes() -> None:
    after, was, now = cut(network(64, 32, "max"))
    assert now < was and not any("channels stay" in note for note in after.notes)


@pytest.mark.parametrize(
    ("planned", "width", "step", "found"),
    [(3, 8, 1, [3, 4, 5, 6, 7, 8]), (4, 10, 3, [4, 6, 9, 10]), (6, 10, 3, [6, 9, 10]), (8, 8, 3, [8])],
)
def test_widths_to_grow_to_are_whole_steps(planned: int, width: int, step: int, found: list[int]) -> None:
    unit = Unit(np.arange(width), least=1, planned=planned, step=step, lost=(0.0,) * (width + 1))
    assert _widths(unit) == found
