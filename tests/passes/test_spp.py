"""spp-to-sppf: parallel max-pools give the same bits as a chain."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.passes import SppToSppf
from tests.numeric import assert_same, build, check_declines, check_rewrite

HEADER = '<ir_version: 8, opset_import: ["": 17]>'


def pool(kernel: int, more: str = "", source: str = "h") -> str:
    pads = f"pads=[{kernel // 2},{kernel // 2},{(kernel - 1) // 2},{(kernel - 1) // 2}]"
    return f"MaxPool<kernel_shape=[{kernel},{kernel}], {pads}{more}>({source})"


def spp(*pools: str, size: str = "17,11", outputs: str = "") -> str:
    body = " ".join(f"p{n} = {p}" for n, p in enumerate(pools))
    names = ", ".join(f"p{n}" for n in range(len(pools)))
    return f"""{HEADER} g (float[1,3,{size}] x) => (float[1,4,n,m] y{outputs}) <float[4,{3 * len(pools) + 3},1,1] w> {{
        h = Sin(x) {body} z = Concat<axis=1>(h, {names}) y = Conv(z, w) }}"""


def kernels(model: object) -> list[list[int]]:
    return sorted(n.attrs["kernel_shape"] for n in model.graph.nodes if n.op == "MaxPool")  # type: ignore[attr-defined]


@pytest.mark.parametrize("order", [(5, 9, 13), (13, 5, 9)])
def test_spp_becomes_sppf(order: tuple[int, ...]) -> None:
    model = build(spp(*map(pool, order)))
    after = check_rewrite(model, SppToSppf(), rewrites=2, rtol=1e-6)
    assert kernels(after) == [[5, 5]] * 3
    assert_same(model, after, rtol=0, optimise=(False,))


def test_pools_larger_than_the_map() -> None:
    after = check_rewrite(build(spp(*map(pool, (5, 9, 13)), size="4,3")), SppToSppf(), rewrites=2, rtol=1e-6)
    assert kernels(after) == [[5, 5]] * 3


def test_other_sizes_even_and_oblong_kernels() -> None:
    oblong = "MaxPool<kernel_shape=[9,3], pads=[4,1,4,1]>(h)"
    after = check_rewrite(build(spp(pool(3), oblong, pool(10), pool(12))), SppToSppf(), rewrites=3, rtol=1e-6)
    assert kernels(after) == [[2, 8], [3, 3], [3, 3], [7, 1]]


def test_auto_pad_dynamic_size_and_graph_output() -> None:
    same = 'MaxPool<kernel_shape=[7,7], auto_pad="SAME_UPPER">(h)'
    text = spp(pool(5), same, size="a,b", outputs=", float[1,3,k,l] p0")
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 9, 8)).astype(np.float32)}
    assert kernels(check_rewrite(build(text), SppToSppf(), rtol=1e-6, feeds=feeds)) == [[3, 3], [5, 5]]


def test_opset_without_dilations() -> None:
    text = spp(*map(pool, (5, 9))).replace('"": 17', '"": 9')
    after = check_rewrite(build(text), SppToSppf(), rtol=1e-6)
    assert all("dilations" not in node.attrs for node in after.graph.nodes)


DECLINED = {
    "one pool": (pool(5),),
    "equal pools": (pool(5), pool(5)),
    "different inputs": (pool(5), pool(9, source="x")),
    "strides": (pool(5, ", strides=[2,2]"), pool(9, ", strides=[2,2]")),
    "dilations": (
        "MaxPool<kernel_shape=[3,3], pads=[2,2,2,2], dilations=[2,2]>(h)",
        "MaxPool<kernel_shape=[5,5], pads=[4,4,4,4], dilations=[2,2]>(h)",
    ),
    "size changes": (
        "MaxPool<kernel_shape=[5,5], pads=[1,1,1,1]>(h)",
        "MaxPool<kernel_shape=[9,9], pads=[3,3,3,3]>(h)",
    ),
    "neither contains the other": (
        "MaxPool<kernel_shape=[3,5], pads=[1,2,1,2]>(h)",
        "MaxPool<kernel_shape=[5,3], pads=[2,1,2,1]>(h)",
    ),
    "padded to the other side": (
        "MaxPool<kernel_shape=[3,3], pads=[2,2,0,0]>(h)",
        "MaxPool<kernel_shape=[4,4], pads=[1,1,2,2]>(h)",
    ),
}


@pytest.mark.parametrize("case", DECLINED)
def test_declines(case: str) -> None:
    text = spp(*DECLINED[case])
    if case in ("strides", "size changes"):
        text = text.replace("Concat<axis=1>(h, p0", "Concat<axis=1>(p1, p0")
    check_declines(build(text), SppToSppf())


def test_declines_indices() -> None:
    text = spp(*map(pool, (5, 9)), outputs=", int64[1,3,k,l] i").replace("p1 = ", "p1, i = ")
    check_declines(build(text), SppToSppf())
