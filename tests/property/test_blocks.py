"""Any blocks of random networks taken out: what is left computes what the network with them masked does."""

from __future__ import annotations

import random

import pytest

from onnxslim_yolo.analysis.blocks import find_blocks
from onnxslim_yolo.ir.check import check_graph
from onnxslim_yolo.ir.graph import initializers
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.mask import mask_blocks
from onnxslim_yolo.rewrites.block_edits import take_out
from tests.numeric import assert_same, build, differences, random_feeds, run_onnx
from tests.passes.cutting import onnx_text
from tests.passes.test_drop_dead import conv, layer


class Writer:
    """Writes a random network, block by block."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.weights, self.body, self.count = rng, list[str](), list[str](), 0

    def layer(self, x: str, ins: int, outs: int, kernel: int = 3, group: int = 1) -> str:
        name = self.name("l")
        self.weights.append(conv(name, ins, outs, kernel, group))
        self.body.append(layer(name, x, kernel, group, act=self.rng.random() < 0.7))
        return name

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def op(self, text: str) -> str:
        name = self.name("t")
        self.body.append(f"{name} = {text}")
        return name

    def branch(self, x: str, width: int) -> str:
        inner = self.layer(x, width, self.rng.choice((3, 6)), self.rng.choice((1, 3)))
        inner = self.layer(inner, int(self.weights[-1].split("[")[1].split(",")[0]), width)
        if self.rng.random() < 0.3:
            gate = self.op(f"Sigmoid({self.op(f'GlobalAveragePool({inner})')})")
            inner = self.op(f"Mul({inner}, {gate})")
        return inner

    def block(self, x: str, width: int) -> tuple[str, int]:
        kind = self.rng.choice(("residual", "residual", "sum", "chain", "csp", "split", "dense", "depthwise", "pools"))
        if kind == "residual":
            pair = (x, self.branch(x, width))
            return self.op(f"Add({', '.join(pair if self.rng.random() < 0.5 else pair[::-1])})"), width
        if kind == "sum":
            return self.op(f"Sum({x}, {self.branch(x, width)}, {self.branch(x, width)})"), width
        if kind == "chain":
            return self.layer(self.layer(x, width, width), width, width), width
        if kind == "csp":
            one, two = self.layer(x, width, 4, 1), self.layer(x, width, 6, 1)
            one = self.op(f"Add({one}, {self.branch(one, 4)})")
            return self.layer(self.op(f"Concat<axis=1>({one}, {two})"), 10, 8), 8
        if kind == "split" and width == 8:
            a, b = self.name("t"), self.name("t")
            self.body.append(f"{a}, {b} = Split<axis=1, num_outputs=2>({x})")
            return self.layer(self.op(f"Concat<axis=-3>({a}, {b}, {self.branch(b, 4)})"), 12, 8), 8
        if kind == "dense":
            return self.op(f"Concat<axis=1>({x}, {self.layer(x, width, 4)})"), width + 4
        if kind == "depthwise":
            return self.layer(x, width, width, 3, width), width
        pool = f"MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>({self.layer(x, width, 4, 1)})"
        return self.layer(self.op(f"Concat<axis=1>({self.op(pool)}, {x})"), width + 4, 8), 8


def network(seed: int) -> Model:
    writer = Writer(random.Random(seed))
    x, width = writer.layer("x", 3, 8), 8
    for _ in range(5):
        x, width = writer.block(x, width)
    last = writer.layer(x, width, 4)
    text = " ".join([*writer.body, f"y = Relu({last})"])
    inputs = f"float[{'N' if seed % 3 == 0 else '2'},3,8,8] x"
    return build(onnx_text(inputs, "float[a,b,c,d] y", ", ".join(writer.weights), text, 18))


@pytest.mark.parametrize("seed", range(8))
def test_taken_out_is_masked(seed: int) -> None:
    model, rng = network(seed), random.Random(seed)
    blocks = find_blocks(model.graph)
    assert blocks
    moved = 0.0
    for count in (1, 2, len(blocks)):
        chosen = rng.sample(blocks, min(count, len(blocks)))
        after = model.copy()
        gone = take_out(after, chosen)
        check_graph(after.graph)
        reference = mask_blocks(model, gone)
        assert_same(reference, after, 1e-4)
        feeds = random_feeds(model)
        moved = max([moved, *differences(run_onnx(model, feeds), run_onnx(after, feeds)).values()])
        left = {tensor.name for tensor in initializers(after.graph)}
        names = {node.name: node for node in model.graph.nodes}
        for block in gone:
            assert not any(names[layer].inputs[1].name in left for layer in block.layers)
    assert moved > 1e-2, "no block mattered: the comparison would see nothing"
