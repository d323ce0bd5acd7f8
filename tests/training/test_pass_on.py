"""Blocks that a model's own code can do without: found in the graph by their scope, and replaced by an identity."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.blocks import find_blocks
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import DropBlocks, PruneChannels, SliceChannels
from onnxslim_yolo.pruning.module_blocks import gone_modules, module_blocks
from onnxslim_yolo.pruning.removed import module_of
from onnxslim_yolo.rewrites.block_edits import take_out
from tests.numeric import assert_same, build, differences, random_feeds, run_onnx
from tests.passes.cutting import onnx_text
from tests.passes.test_drop_blocks import WIDTH, left, model, scaled
from tests.passes.test_drop_dead import conv, layer

torch = pytest.importorskip("torch")

from onnxslim_yolo.models.blocks_common import split_for  # noqa: E402
from onnxslim_yolo.training.slim_child import pass_on  # noqa: E402

nn = torch.nn


def traced(*sums: str, shift: float = 0.0) -> Model:
    """Three residual blocks, of the second of which nothing is left but a shift; of each the scope of its sum."""
    made = model(scaled(1e-4) | {"q1.beta": np.full(WIDTH, shift)})
    adds = [node for node in made.graph.nodes if node.op == "Add"]
    for k, (node, scope) in enumerate(zip(adds, sums, strict=True)):
        node.name = f"{scope}/Add"
        for other in made.graph.nodes:
            names = [tensor.name for tensor in other.inputs[1:] if other.op in ("Conv", "BatchNormalization")]
            if names and names[0].split(".")[0] in (f"p{k}", f"q{k}"):
                other.name = f"/body/body.{k}/{names[0].split('.')[0]}/{other.op}"
    made.equal_parts = True
    return made


OWN = ("/body/body.0", "/body/body.1", "/body/body.2")


def test_a_branch_goes_that_is_a_module() -> None:
    before = traced(*OWN)
    assert len(module_blocks(before.graph, find_blocks(before.graph))) == 3
    after = before.copy()
    for step in (DropBlocks(ratio=0.3), PruneChannels(ratio=0.3), SliceChannels()):
        step.run(after)
    gone = {"p1", "q1"}
    assert {name.split(".")[0] for name in left(before)} - {name.split(".")[0] for name in left(after)} == gone


@pytest.mark.parametrize("scope", ["/body", "", "/body/body.1/p1"])
def test_a_branch_stays_where_the_sum_is_of_a_wider_or_narrower_module(scope: str) -> None:
    before = traced(OWN[0], scope, OWN[2])
    assert len(module_blocks(before.graph, find_blocks(before.graph))) == 2
    assert DropBlocks(ratio=0.3).run(before) == 0


def test_a_constant_that_an_identity_cannot_add_keeps_its_branch() -> None:
    before = traced(*OWN, shift=0.5)
    assert DropBlocks(ratio=0.3).run(before) == 0
    before.equal_parts = False
    assert DropBlocks(ratio=0.3).run(before) > 0


def concatenated(shift: float, kernel: int = 1, body: str = "") -> Model:
    """A residual block of which a shift is left, read through a Concat and a Split by layers that do not pad."""
    weights = [
        conv("stem", 3, WIDTH),
        conv("p", WIDTH, WIDTH),
        conv("q", WIDTH, WIDTH),
        conv("k", 2 * WIDTH, 8, kernel),
    ]
    text = [layer("stem", "x"), layer("p", "stem"), layer("q", "p", act=False), "r = Add(stem, q)"]
    text += [body or "c = Concat<axis=1>(r, stem)", layer("k", "c", kernel), "y = Conv(k, h.weight)"]
    declared = ", ".join([*weights, "float[4,8,1,1] h.weight"])
    values = {"q.gamma": np.zeros(WIDTH), "q.beta": shift * np.linspace(-1, 1, WIDTH)}
    values |= {f"{name}.gamma": np.linspace(0.5, 1.5, size) for name, size in (("stem", WIDTH), ("p", WIDTH), ("k", 8))}
    made = build(onnx_text("float[1,3,16,16] x", "float[1,4,16,16] y", declared, " ".join(text), 17), values=values)
    for node in made.graph.nodes:
        names = [tensor.name for tensor in node.inputs[1:] if tensor.name.startswith(("p.", "q."))]
        if names or node.outputs[0].name == "r" or node.outputs[0].name.startswith(("p_", "p")):
            stem = names[0][0] if names else "p" if node.outputs[0].name.startswith("p") else ""
            node.name = f"/body/m.0/{stem}/{node.op}".replace("//", "/")
    made.equal_parts = True
    return made


@pytest.mark.parametrize("body", ["", "b = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(r) c = Concat<axis=1>(stem, b)"])
def test_a_constant_goes_into_the_biases_of_layers_that_do_not_pad(body: str) -> None:
    before = concatenated(0.5, body=body)
    after = before.copy()
    assert DropBlocks(ratio=0.1).run(after) == 1
    assert not any(node.op == "Add" for node in after.graph.nodes), "an identity stands for the block, and nothing else"
    assert_same(before, after)
    bare = before.copy()
    (block,) = [b for b in module_blocks(before.graph, find_blocks(before.graph)) if b.kind == "branch"]
    take_out(bare, [block])
    feeds = random_feeds(before)
    assert max(differences(run_onnx(before, feeds), run_onnx(bare, feeds)).values()) > 1e-2, "the control"


@pytest.mark.parametrize(("kernel", "body"), [(3, ""), (1, "s = Sigmoid(r) c = Concat<axis=1>(s, stem)")])
def test_where_that_is_not_exact_the_block_stays_and_it_is_said(kernel: int, body: str) -> None:
    before = concatenated(0.5, kernel, body)
    assert DropBlocks(ratio=0.1).run(before) == 0
    assert "yields a constant, and stays: no bias can take it over exactly" in before.notes[-1]


def test_without_that_demand_it_goes() -> None:
    before = traced(OWN[0], "/body", OWN[2])
    before.equal_parts = False
    assert DropBlocks(ratio=0.3).run(before) > 0


class Adds(nn.Module):
    """Returns x + f(x), or f(x) where its switch is off."""

    def __init__(self, add: bool = True) -> None:
        super().__init__()
        self.conv, self.add = nn.Conv2d(4, 4, 1), add

    def forward(self, x):
        return x + self.conv(x) if self.add else self.conv(x)


def test_an_identity_stands_where_a_module_was() -> None:
    body = nn.Sequential(nn.Sequential(Adds()), nn.Conv2d(4, 4, 1), Adds())
    body[2].i, body[2].f = 2, -1
    x = torch.rand(1, 4, 3, 3)
    expected = body[1](x)
    pass_on(body, {name for name in body.state_dict() if not name.startswith("1.")}, ["0.0.conv", "2.conv"])
    assert torch.equal(body(x), expected) and isinstance(body[0], nn.Sequential)
    assert isinstance(body[0][0], nn.Identity) and (body[2].i, body[2].f) == (2, -1) and "type" not in vars(body[2])


@pytest.mark.parametrize("gone", [{"0.conv.weight", "0.conv.bias"}, {"1.conv.bias"}, {"1.conv.weight"}])
def test_what_its_code_calls_cannot_go(gone: set[str]) -> None:
    body = nn.Sequential(Adds(add=False), Adds())
    with pytest.raises(UnsupportedError, match=r"whole layers \([01]\.conv"):
        pass_on(body, gone, ["0.conv", "1.conv"])


def test_the_outermost_module_goes_and_lists_stay() -> None:
    paths = ["", "a", "a.m", "a.m.0", "a.m.0.cv1", "a.m.1", "b"]
    gone, rest = ["a.m.0.cv1.weight", "a.m.0.bias", "b.bias"], ["a.m.1.weight", "b.weight"]
    assert gone_modules(gone, rest, paths, frozenset({"a.m"})) == (["a.m.0"], ["b.bias"])
    assert gone_modules(gone, ["b.weight"], paths, frozenset({"a", "a.m"})) == (["a.m.0"], ["b.bias"])


@pytest.mark.parametrize("first", [False, True])
def test_in_front_of_an_identity_what_is_read_is_halved(first: bool) -> None:
    parts = split_for(torch.rand(1, 6, 2, 2), nn.Identity(), 6, first=first)
    assert [part.shape[1] for part in parts] == [3, 3]


def test_a_chain_is_bridged_where_the_plan_says_so() -> None:
    body = nn.Sequential(nn.Conv2d(4, 4, 1), Adds(add=False), nn.Conv2d(4, 4, 1))
    x = torch.rand(1, 4, 3, 3)
    expected = body[2](body[0](x))
    pass_on(body, {"1.conv.weight", "1.conv.bias"}, ["1.conv"], ["1.conv"])
    assert torch.equal(body(x), expected) and isinstance(body[1], nn.Identity)


ROW = "c0 = Conv(stem, c0.weight) c1 = Conv(c0, c1.weight) c2 = Conv(c1, c2.weight) y = Conv(c2, h.weight)"


def row(*scopes: str) -> Model:
    """Three layers in a row between a stem and a head, of these modules."""
    shapes = ", ".join(f"float[4,4,1,1] {name}.weight" for name in ("c0", "c1", "c2", "h"))
    text = f"stem = Conv(x, stem.weight) {ROW}"
    made = build(onnx_text("float[1,3,8,8] x", "float[1,4,8,8] y", f"float[4,3,1,1] stem.weight, {shapes}", text, 17))
    for node, scope in zip(made.graph.nodes, ("/stem", *scopes, "/head"), strict=True):
        node.name = f"{scope}/Conv"
    return made


@pytest.mark.parametrize(
    ("scopes", "found"),
    [
        (("/m.0", "/m.1", "/m.2"), {("m.0",), ("m.1",), ("m.2",)}),
        (("/m.0/cv1", "/m.0/cv2", "/m.1"), {("m.0.cv1",), ("m.0.cv2",), ("m.1",), ("m.0.cv1", "m.0.cv2")}),
        (("/m.0/a", "/m.0/b", "/m.0/c"), {("m.0.a",), ("m.0.b",), ("m.0.c",)}),
    ],
)
def test_a_chain_goes_that_is_all_of_a_module(scopes: tuple[str, ...], found: set[tuple[str, ...]]) -> None:
    made = row(*scopes)
    blocks = [block for block in module_blocks(made.graph, find_blocks(made.graph)) if block.kind == "chain"]
    inner = [block for block in blocks if block.nodes != ("/stem/Conv",) and block.nodes != ("/head/Conv",)]
    assert {tuple(module_of(name) for name in block.nodes) for block in inner} == found
