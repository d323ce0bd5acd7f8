"""DeformConv: channels as of Conv; where it looks stays, and every offset group keeps equally many channels."""

from __future__ import annotations

import pytest

from onnxslim_yolo.analysis.channels import NO_CHANNEL
from tests.analysis.graphs import Labelled, distinct, onnx_text

WEIGHTS = """float[4,3,1,1] a.weight, float[6,4,3,3] d.weight, float[6] d.bias, float[36,3,1,1] o.weight,
    float[18,3,1,1] p.weight, float[2,6,1,1] y.weight, float[6,2,3,3] g.weight"""


def deformed(groups: int, weight: str = "d.weight", attributes: str = "") -> Labelled:
    offsets = "o.weight" if groups == 2 else "p.weight"
    body = f"""a = Conv(x, a.weight) o = Conv(x, {offsets})
        d = DeformConv<offset_group={groups}, pads=[1,1,1,1]{attributes}>(a, {weight}, o, d.bias)
        y = Conv(d, y.weight)"""
    return Labelled(onnx_text("float[1,3,8,8] x", "float[i,j,k,l] y", WEIGHTS, body, 19))


@pytest.mark.parametrize("groups", [1, 2])
def test_offset_groups_keep_equally_many(groups: int) -> None:
    found = deformed(groups)
    assert distinct(found["a"]) and distinct(found["d"]) and found.free("a") and found.free("d")
    assert not found.free("o") or NO_CHANNEL in found["o"]
    parts = [balance.parts.tolist() for balance in found.channels.balances]
    assert parts == ([] if groups == 1 else [[found["a"][:2], found["a"][2:]]])
    uses = [use for use in found.channels.uses if use.node.op == "DeformConv"]
    assert sorted((use.constant.name, use.axis, use.labels.tolist()) for use in uses) == [
        ("d.bias", 0, found["d"]),
        ("d.weight", 0, found["d"]),
        ("d.weight", 1, found["a"]),
    ]


def test_of_groups_of_the_layer_itself() -> None:
    found = deformed(2, "g.weight", ", group=2")
    parts = [balance.parts.tolist() for balance in found.channels.balances]
    halves = [found["a"][:2], found["a"][2:]]
    assert parts == [[found["d"][:3], found["d"][3:]], halves, halves]
