"""Plain rows of layers between two equal shapes: bridged by identity, fitted, planned, written, verified."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import onnxslim_yolo as oy
from onnxslim_yolo.analysis.blocks import Block, find_blocks
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import DropBlocks, Reconstruct
from onnxslim_yolo.pruning.bridge import bridged, bridges
from onnxslim_yolo.pruning.depth import Offer, best_set
from onnxslim_yolo.pruning.mask import mask_blocks
from onnxslim_yolo.pruning.plan import plan_as_json
from onnxslim_yolo.rewrites.block_edits import take_out
from tests.numeric import assert_same, build, differences, random_feeds, run_onnx
from tests.passes.cutting import onnx_text, run
from tests.passes.test_drop_dead import conv, layer

WIDTH = 8


def network(row: str = "abc") -> Model:
    """A stem, a row of layers without a shortcut (b a linear one), a head."""
    sizes = {"stem": (3, WIDTH), "h": (WIDTH, 4)} | dict.fromkeys(row, (WIDTH, WIDTH))
    weights = [conv(name, *size, kernel=1) for name, size in sizes.items()]
    text, here = [layer("stem", "x", 1)], "stem"
    for name in row:
        text += [f"b = Conv({here}, b.weight)" if name == "b" else layer(name, here, 1)]
        here = name
    text += [layer("h", here, 1, act=False), "y = Relu(h)"]
    curved = {f"{name}.gamma": np.full(WIDTH, 30.0) for name in ("stem", *row) if name != "b"}
    written = onnx_text("float[1,3,16,16] x", "float[1,4,16,16] y", ", ".join(weights), " ".join(text), 17)
    return build(written, values=curved)


def chains(model: Model) -> list[Block]:
    return [block for block in find_blocks(model.graph) if block.kind == "chain"]


def of(model: Model, *weights: str) -> Block:
    """The chain of these layers."""
    names = {node.name: node.inputs[1].name.split(".")[0] for node in model.graph.nodes if node.op == "Conv"}
    return next(block for block in chains(model) if [names[name] for name in block.layers] == [*weights])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("calib"), np.random.default_rng(0)
    for index in range(6):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def test_every_row_of_up_to_two_layers_is_found_and_none_begins_within_a_layer() -> None:
    model = network()
    names = {node.name: node.inputs[1].name.split(".")[0] for node in model.graph.nodes if node.op == "Conv"}
    assert {tuple(names[name] for name in block.layers) for block in chains(model)} == {
        *(("a",), ("b",), ("c",), ("a", "b"), ("b", "c"))
    }
    ops = {node.name: node.op for node in model.graph.nodes}
    assert all(ops[block.nodes[0]] == "Conv" for block in chains(model))


def silu(name: str, x: str) -> str:
    return f"{name}_c = Conv({x}, {name}.weight) {name}_s = Sigmoid({name}_c) {name} = Mul({name}_c, {name}_s)"


def test_rows_are_found_through_x_times_sigmoid() -> None:
    text = f"{silu('stem', 'x')} {silu('a', 'stem')} {silu('b', 'a')} y = Conv(b, h.weight)"
    weights = "float[8,3,1,1] stem.weight, float[8,8,1,1] a.weight, float[8,8,1,1] b.weight, float[4,8,1,1] h.weight"
    model = build(onnx_text("float[1,3,8,8] x", "float[1,4,8,8] y", weights, text, 17))
    assert sorted(len(block.layers) for block in chains(model)) == [1, 1, 2]


@pytest.mark.parametrize("mean", [False, True])
def test_bridged_is_masked_with_the_identity_in_its_place(mean: bool) -> None:
    model = network()
    block = of(model, "a", "b")
    values = tuple(np.linspace(-1, 1, WIDTH).tolist()) if mean else ()
    block = Block(**{**{k: getattr(block, k) for k in Block.__dataclass_fields__}, "mean": values})
    after = model.copy()
    assert take_out(after, [block]) == [block]
    assert_same(mask_blocks(model, [block]), after, 1e-4)
    feeds = random_feeds(model)
    moved = differences(run_onnx(model, feeds), run_onnx(after, feeds))
    assert max(moved.values()) > 1e-2, "the control: the chain matters"


def test_a_bridge_is_numpys_least_squares_and_a_linear_chain_is_all_told() -> None:
    model = network()
    seen = [random_feeds(model, seed)["x"] for seed in range(6)]
    linear, curved = bridges(model, [of(model, "b"), of(model, "a")], seen, ridge=1e-9)
    assert linear is not None and curved is not None
    assert linear.left < 1e-6 < 0.01 < curved.left

    tapped = model.copy()
    tensors = {tensor.name: tensor for node in tapped.graph.nodes for tensor in node.outputs}
    tapped.graph.outputs = [tensors["stem"], tensors["a"]]
    values = [run_onnx(tapped, {"x": image}) for image in seen]
    x, y = (np.concatenate([v[key][0].reshape(WIDTH, -1).T for v in values]).astype(float) for key in ("stem", "a"))
    fit = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    assert np.allclose(curved.matrix + np.eye(WIDTH), fit[:-1].T, atol=1e-4)
    assert np.allclose(curved.shift, fit[-1], atol=1e-4)
    rest = y - np.c_[x, np.ones(len(x))] @ fit
    assert curved.left == pytest.approx(rest.var(axis=0).sum() / y.var(axis=0).sum(), rel=1e-3)

    assert_same(model, bridged(model, of(model, "b"), linear), 1e-4)
    feeds = random_feeds(model)
    apart = [run_onnx(model, feeds)["y"] - run_onnx(other, feeds)["y"] for other in _sides(model, curved)]
    assert np.square(apart[0]).mean() < 0.5 * np.square(apart[1]).mean()  # than a bare identity


def _sides(model: Model, fit: object) -> list[Model]:
    block = of(model, "a")
    return [bridged(model, block, fit), mask_blocks(model, [block])]  # type: ignore[arg-type]


def test_a_chain_that_is_linear_goes_for_a_limit_and_nothing_is_lost(images: Path) -> None:
    before = network("bc")
    step = DropBlocks(target="0.75x", cost="macs", calib=images)
    after = run(before, step, Reconstruct(calib=images, ridge=1e-6, match=False))
    assert [block.layers for block in after.carried.blocks] == [of(before, "b").layers]
    assert plan_as_json(after)["bridged"] == ["b"]
    feeds = {"x": np.random.default_rng(5).uniform(0, 1, (1, 3, 16, 16)).astype(np.float32)}  # as the images
    wanted, found, bare = (
        run_onnx(each, feeds)["y"] for each in (before, after, mask_blocks(before, [of(before, "b")]))
    )
    assert np.square(found - wanted).mean() < 1e-3 * np.square(bare - wanted).mean()


def test_compiled_and_written(images: Path, tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(network("bc").to_onnx(), source)
    options = {"calib": images, "compensate": "reconstruct", "will_train": True}
    result = oy.compile(source, out=tmp_path / "out", target_macs=0.75, emit="onnx,ncnn,torch", **options)
    plan = json.loads((tmp_path / "out" / "m.plan.json").read_text())
    assert plan["removed"] == plan["bridged"] == ["b"]
    assert all(check["passed"] for check in result.report["verification"]["checks"])
    torch = pytest.importorskip("torch")
    from onnxslim_yolo.emit.torch import load_module

    assert result.torch is not None and result.onnx is not None
    module = load_module(result.torch)
    assert not any(name.startswith("b.") for name in module.state_dict())
    x: Array = random_feeds(network())["x"]
    with torch.no_grad():
        (found,) = [tensor.numpy() for tensor in [module.eval()(torch.from_numpy(x))]]
    assert np.allclose(found, run_onnx(onnx.load(result.onnx), {"x": x})["y"], atol=1e-3)


def offer(name: str, *nodes: str) -> Offer:
    return Offer(Block("chain", name, -1, "x", nodes or (name,), nodes or (name,)), 1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("losses", "by_widths", "gone"),
    [
        ({"a": 1.0, "ab": 0.5, "abc": 0.4}, 2.0, "abc"),  # one, then two more
        ({"a": 3.0, "b": 1.0, "bc": 1.5}, 2.0, "b"),  # what is worse is left out
        ({}, 2.0, ""),
        ({"a": np.inf, "abc": 5.0}, np.inf, "abc"),  # until the limit is met
        ({"a": np.inf, "abc": np.inf}, np.inf, ""),
    ],
)
def test_sets_are_tried_until_less_is_lost(losses: dict[str, float], by_widths: float, gone: str) -> None:
    tried: list[str] = []

    def error(blocks: Sequence[Block]) -> float:
        tried.append("".join(block.node for block in blocks))
        return losses.get(tried[-1], 9.0)

    chosen, _ = best_set([offer(name) for name in "abc"], by_widths, error)
    assert "".join(block.node for block in chosen) == gone
    assert len(set(tried)) == len(tried) <= 4


def test_the_search_ends_where_the_best_three_lose_more() -> None:
    tried: list[str] = []

    def error(blocks: Sequence[Block]) -> float:
        tried.append("".join(block.node for block in blocks))
        return {"a": 1.0}.get(tried[-1], 9.0)

    assert best_set([offer(name) for name in "bcdefa"], 2.0, error) == ([], 9.0)
    assert tried == ["b", "c", "d"]
    tried.clear()
    chosen, _ = best_set([offer(name) for name in "bacde"], 2.0, error)  # one that loses less: more are tried
    assert [block.node for block in chosen] == ["a"]
    assert tried == ["b", "a", "acd", "ac"]


def test_of_blocks_that_share_nodes_one_goes() -> None:
    ranked = [offer("a", "a", "b"), offer("b", "b"), offer("c")]
    found, _ = best_set(ranked, 2.0, lambda blocks: 1.0 / len(blocks))
    assert [block.node for block in found] == ["a", "c"]
    worse, _ = best_set(ranked, 2.0, lambda blocks: 3.0 if blocks[0].node == "a" else 1.0 / len(blocks))
    assert [block.node for block in worse] == ["b", "c"]
