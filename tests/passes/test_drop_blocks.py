"""drop-blocks: whole blocks for a limit or below a threshold; what must stay stays; the plan says what went."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import onnxslim_yolo as oy
from onnxslim_yolo.analysis.blocks import find_blocks, find_layers
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import DropBlocks, PruneChannels, PruneToTarget, Reconstruct, SliceChannels, drop_blocks
from onnxslim_yolo.pruning.mask import mask_blocks
from tests.numeric import assert_same, build, differences, random_feeds, run_onnx
from tests.passes.cutting import onnx_text, run
from tests.passes.test_drop_dead import conv, layer, left

WIDTH = 16
LAYERS = [*(f"{stem}{k}" for k in range(3) for stem in "pq"), "h"]
WEIGHTS = ", ".join([conv("stem", 3, WIDTH), *(conv(name, WIDTH, WIDTH) for name in LAYERS[:-1]), conv("h", WIDTH, 4)])


def body() -> str:
    """A stem, three residual blocks, a head."""
    text, here = [layer("stem", "x")], "stem"
    for k in range(3):
        text += [layer(f"p{k}", here), layer(f"q{k}", f"p{k}"), f"r{k} = Add({here}, q{k})"]
        here = f"r{k}"
    return " ".join([*text, layer("h", here, act=False), "y = Relu(h)"])


def scaled(factor: float, blocks: tuple[int, ...] = (1,)) -> dict[str, Array]:
    """Blocks of which the last γ are that small."""
    rng = np.random.default_rng(1)
    values = {f"{name}.gamma": rng.uniform(0.5, 1.5, 4 if name == "h" else WIDTH) for name in ("stem", *LAYERS)}
    return values | {f"q{k}.gamma": factor * rng.uniform(0.5, 1, WIDTH) for k in blocks}


def model(values: dict[str, Array] | None = None) -> Model:
    text = onnx_text("float[1,3,32,32] x", "float[1,4,32,32] y", WEIGHTS, body(), 17)
    return build(text, values=scaled(0.02) if values is None else values)


def test_blocks_are_found_by_their_shortcuts() -> None:
    before = model()
    weights = {node.name: node.inputs[1].name for node in before.graph.nodes if node.op == "Conv"}
    blocks = {kind: [b for b in find_blocks(before.graph) if b.kind == kind] for kind in ("branch", "part", "chain")}
    found = {k: [[weights[name].split(".")[0] for name in b.layers] for b in few] for k, few in blocks.items()}
    assert found["branch"] == [["p0", "q0"], ["p1", "q1"], ["p2", "q2"]] and found["part"] == []
    assert found["chain"] == [[name] for name in LAYERS[:-1]]  # every layer has the width of the one before


@pytest.mark.parametrize("importance", ["auto", "gamma", "variance"])
def test_the_block_that_matters_least_goes_for_a_limit(importance: str) -> None:
    before = model()
    step = DropBlocks(target="0.75x", cost="macs", importance=importance)  # type: ignore[arg-type]
    after = run(before, step)
    assert not {"p1", "q1"} & left(after)
    assert {"p0", "q0", "p2", "q2"} <= left(after)
    assert not after.lossless
    assert_same(mask_blocks(before, after.carried.blocks), after)
    feeds = random_feeds(before)
    assert max(differences(run_onnx(before, feeds), run_onnx(after, feeds)).values()) > 1e-4
    assert step.run(after) == 0
    last = run(after, PruneToTarget(target="0.75x", cost="macs"), SliceChannels())
    assert oy_macs(last) <= 0.75 * oy_macs(before)


def oy_macs(one: Model) -> int:
    from onnxslim_yolo.analysis.cost import cost_of

    return cost_of(one.graph).macs


def test_without_blocks_more_is_lost() -> None:
    """The same limit by widths alone: the small block's channels cannot buy what the block does."""
    wide, deep = model(), model()
    PruneToTarget(target="0.75x", cost="macs").run(wide)
    DropBlocks(target="0.75x", cost="macs").run(deep)
    PruneToTarget(target="0.75x", cost="macs").run(deep)
    assert wide.plan is not None and deep.plan is not None
    assert wide.plan.removed > deep.plan.removed


def test_blocks_that_matter_stay() -> None:
    after = run(model(scaled(3.0, (0, 1, 2))), DropBlocks(target="0.9x", cost="macs", importance="gamma"))
    assert {name for name in LAYERS if name != "h"} <= left(after)
    assert not after.carried.blocks


def test_only_blocks() -> None:
    after = run(model(), DropBlocks(target="0.5x", cost="macs", depth="only"))
    assert after.plan is not None and len(after.carried.blocks) == 2 and after.plan.keep.all()
    with pytest.raises(UsageError, match="by whole blocks"):
        run(model(), DropBlocks(target="0.05x", cost="macs", depth="only"))


def test_what_training_left_below_the_threshold_goes_by_a_ratio() -> None:
    small = scaled(0.001)
    assert not {"p1", "q1"} & left(run(model(small), DropBlocks(ratio=0.3)))
    assert {"p1", "q1"} <= left(run(model(small | {"q1.gamma": np.r_[np.full(15, 0.001), 1.0]}), DropBlocks(ratio=0.3)))
    assert {"p1", "q1"} <= left(run(model(scaled(0.9)), DropBlocks(ratio=0.3)))


@pytest.mark.parametrize("options", [{"keep": ("p1",)}, {"scope": "no-residual"}])
def test_what_is_to_stay_stays(options: dict[str, object]) -> None:
    after = run(model(), DropBlocks(target="0.75x", cost="macs", **options))  # type: ignore[arg-type]
    assert {"p1", "q1"} <= left(after)


def test_compiled_with_depth(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(model().to_onnx(), source)
    reports = {}
    for depth in ("none", "auto"):
        out = tmp_path / depth
        result = oy.compile(source, out=out, target_macs=0.75, depth=depth, will_train=True)
        plan = json.loads((out / "m.plan.json").read_text())
        reports[depth] = result.report
        assert plan["removed"] == result.report["pruning"]["gone"]
        assert all(check["passed"] for check in result.report["verification"]["checks"])
    assert reports["none"]["pruning"]["gone"] == [] and reports["auto"]["pruning"]["gone"] == ["p1", "q1"]
    labels = [check["label"] for check in reports["auto"]["verification"]["checks"]]
    assert "source = before drop-blocks" in labels and any(label.startswith("masked source") for label in labels)
    again = oy.compile(source, out=tmp_path / "again", target_macs=0.75, will_train=True)
    assert again.onnx is not None
    assert again.onnx.read_bytes() == (tmp_path / "auto" / "m.onnx").read_bytes()


def test_a_wrong_removal_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The masked source is made by other code: taking out another block than the plan says fails."""
    from onnxslim_yolo.passes import drop_blocks

    right = drop_blocks.take_out

    def wrong(one: Model, blocks: list[object]) -> list[object]:
        others = [block for block in find_blocks(one.graph) if block not in blocks]
        right(one, others[:1])
        return list(blocks)

    source = tmp_path / "m.onnx"
    onnx.save(model().to_onnx(), source)
    monkeypatch.setattr(drop_blocks, "take_out", wrong)
    with pytest.raises(oy.OnnxSlimError):
        oy.compile(source, out=tmp_path / "out", target_macs=0.75, emit="onnx", will_train=True)
    assert not (tmp_path / "out").exists()


def test_pruning_by_channels_is_as_before_where_no_block_is_small() -> None:
    plain, deep = model(scaled(1.0)), model(scaled(1.0))
    PruneChannels(0.3).run(plain)
    DropBlocks(ratio=0.3).run(deep)
    PruneChannels(0.3).run(deep)
    assert plain.plan is not None and deep.plan is not None
    assert np.array_equal(plain.plan.keep, deep.plan.keep)


NARROW = (
    f"{layer('stem', 'x')} {layer('a', 'stem')} {layer('b', 'a', 1)} {layer('c', 'stem', 1)} "
    f"r = Concat<axis=1>(b, c) {layer('h', 'r', 1, act=False)} y = Relu(h)"
)


def narrow(**values: Array) -> Model:
    """A Concat of two branches, of which `a` is the first layer of one."""
    weights = ", ".join(
        [conv("stem", 3, 8), conv("a", 8, 6), conv("b", 6, 8, 1), conv("c", 8, 8, 1), conv("h", 16, 4, 1)]
    )
    plain = {f"{name}.gamma": np.linspace(0.5, 1.5, n) for name, n in (("stem", 8), ("a", 6), ("b", 8), ("c", 8))}
    text = onnx_text("float[1,3,16,16] x", "float[1,4,16,16] y", weights, NARROW, 17)
    return build(text, values=plain | {"h.gamma": np.ones(4)} | values)


@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_a_layer_of_which_nothing_is_left_goes_with_what_it_alone_fed(beta: float) -> None:
    """`a` is all but a constant then, which a pointwise `b` hands on as one, and so it goes, too."""
    before = narrow(**{"a.gamma": np.full(6, 1e-4), "a.beta": np.full(6, beta)})
    after = run(before, DropBlocks(ratio=0.3))
    assert not {"a", "b"} & left(after)
    assert_same(mask_blocks(before, after.carried.blocks), after)
    feeds = random_feeds(before)
    assert max(differences(run_onnx(before, feeds), run_onnx(after, feeds)).values()) > 1e-6
    assert {"a", "b"} <= left(run(before, DropBlocks(ratio=0.3, zero=False)))


@pytest.mark.parametrize("gamma", [np.r_[np.full(5, 1e-4), 0.5], np.full(6, 0.05)])
def test_a_layer_that_still_yields_something_stays(gamma: Array) -> None:
    after = run(narrow(**{"a.gamma": gamma, "a.beta": np.zeros(6)}), DropBlocks(ratio=0.3))
    assert {"a", "b"} <= left(after)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("calib"), np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize(("small", "gone"), [((1,), True), ((), False)])
def test_with_images_the_measured_loss_decides(small: tuple[int, ...], gone: bool, images: Path) -> None:
    """A block of a hundredth goes; of blocks that matter none does, whatever a sum of losses foretells."""
    before = model(scaled(0.01, small) | {"q1.beta": np.zeros(WIDTH)})
    after = run(before, DropBlocks(target="0.6x", cost="macs", calib=images))
    assert ("q1" not in left(after)) == gone
    assert {"p0", "q0", "p2", "q2"} <= left(after)
    if gone:
        assert_same(mask_blocks(before, after.carried.blocks), after)


def test_blocks_only_are_made_up_for_where_no_width_changes(images: Path) -> None:
    before = model(scaled(0.5))
    step = DropBlocks(target="0.7x", cost="macs", depth="only", calib=images)
    bare = run(before, step)
    after = run(before, step, Reconstruct(calib=images))
    assert bare.plan is not None and bare.carried.blocks and bare.plan.keep.all()
    feeds = random_feeds(before)
    wanted, plain, fitted = (run_onnx(each, feeds)["y"] for each in (before, bare, after))
    assert np.square(fitted - wanted).mean() < 0.7 * np.square(plain - wanted).mean()


@pytest.mark.parametrize("kernel", [1, 3])
def test_what_a_block_leaves_goes_into_biases_where_no_reader_pads(kernel: int) -> None:
    weights = ", ".join([conv("stem", 3, WIDTH), *(conv(n, WIDTH, WIDTH, kernel) for n in "pqa"), conv("h", WIDTH, 4)])
    text = f"{layer('stem', 'x')} {layer('p', 'stem', kernel)} {layer('q', 'p', kernel)} r = Add(stem, q)"
    text += f" {layer('a', 'r', kernel)} {layer('h', 'a', act=False)} y = Relu(h)"
    rng = np.random.default_rng(2)
    values = {f"{n}.gamma": rng.uniform(0.5, 1.5, WIDTH) for n in ("stem", "p", "a")} | {"h.gamma": np.ones(4)}
    values |= {"q.gamma": np.full(WIDTH, 0.01), "q.beta": rng.uniform(0.5, 1, WIDTH)}
    before = build(onnx_text("float[1,3,32,32] x", "float[1,4,32,32] y", weights, text, 17), values=values)
    after = run(before, DropBlocks(target="0.7x", cost="macs", importance="gamma"))
    assert not {"p", "q"} & left(after)
    (block,) = after.carried.blocks
    assert any(block.mean), "the control: it yields something on average"
    assert [node.op for node in after.graph.nodes].count("Add") == (0 if kernel == 1 else 1)
    assert_same(mask_blocks(before, after.carried.blocks), after)


def constant_branch(kernel: int, beta: float) -> Model:
    """A branch of small γ that yields β, in front of a layer that pads where its kernel is wide."""
    weights = ", ".join([conv("stem", 3, 8), conv("q", 8, 8), conv("h", 8, 4, kernel)])
    text = f"{layer('stem', 'x')} {layer('q', 'stem', act=False)} r = Add(stem, q) {layer('h', 'r', kernel, act=False)}"
    declared = onnx_text("float[1,3,8,8] x", "float[1,4,8,8] y", weights, f"{text} y = Relu(h)", 17)
    values = {"q.gamma": np.full(8, 1e-9), "q.beta": np.full(8, beta)}
    found = build(declared, values=values)
    found.equal_parts = True
    return found


@pytest.mark.parametrize(
    ("kernel", "beta", "goes"),
    [(1, 0.5, True), (3, 0.5, False), (3, 0.0, True), (3, 1e-9, True)],
)
def test_where_nothing_may_be_added_a_constant_goes_into_biases_or_its_block_stays(
    kernel: int, beta: float, goes: bool
) -> None:
    """The module's own code adds no constant: a padded reader cannot take it over exactly, which is said."""
    model = constant_branch(kernel, beta)
    (branch,) = [block for block in find_blocks(model.graph) if block.kind == "branch"]
    found = DropBlocks(ratio=0.3)._with_means(model, [branch])
    assert [block.nodes for block in found] == ([branch.nodes] if goes else [])
    said = [note for note in model.notes if "yields a constant, and stays: no bias can take it over exactly" in note]
    assert bool(said) == (not goes)
    if goes and kernel == 1:
        assert found[0].mean == pytest.approx([beta] * 8)
    model.equal_parts = False  # in a graph an Add does
    assert len(DropBlocks(ratio=0.3)._with_means(model, [branch])) == 1
    assert DropBlocks(ratio=0.3, means=False)._with_means(model, [branch])[0].mean == ()


def test_a_layer_that_is_kept_does_not_leave_and_nothing_is_edited() -> None:
    before = model(scaled(0.0))
    block = next(b for b in find_layers(before.graph, lambda gamma: bool((gamma == 0).all())))
    graph = before.graph
    name = next(node.name for node in graph.nodes if node.inputs[1:] and node.inputs[1].name == "q1.weight")
    assert name in block.layers
    assert not drop_blocks._leaves(before, block, (name,)) and before.graph is graph
    assert drop_blocks._leaves(before, block, ()) and before.graph is not graph
    assert not {"p1", "q1"} & left(before)
    assert drop_blocks._leaves(before, block, ()), "it has gone already"
    assert not drop_blocks._leaves(before, replace(block, nodes=(before.graph.nodes[0].name,)), ())


def test_where_nothing_can_be_taken_out_nothing_is_recorded() -> None:
    before = model(scaled(0.0))
    (block,) = find_layers(before.graph, lambda gamma: bool((gamma == 0).all()))
    assert DropBlocks(ratio=0.3, keep=block.layers)._take_out(before, [block]) == 0
    assert not before.carried.blocks and not before.notes


@pytest.mark.parametrize(("count", "fitted", "measured"), [(1, [0], [0]), (5, [0, 2, 4], [1, 3])])
def test_the_loss_is_measured_on_other_images_than_compensation_is_fitted_on(
    count: int, fitted: list[int], measured: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(count):
        Image.fromarray(np.full((32, 32, 3), n, np.uint8)).save(tmp_path / f"{n}.png")
    monkeypatch.setattr(drop_blocks._Probe, "error", lambda *_: 0.5)
    probe = drop_blocks._Probe.of(DropBlocks(target="0.5x", calib=tmp_path), model())
    assert probe is not None and probe.by_widths == 0.5
    seen = [[round(float(image.max()) * 255) for image in few] for few in (probe.images, probe.head.inputs)]
    assert seen == [fitted, measured]
    assert drop_blocks._Probe.of(DropBlocks(target="0.5x"), model()) is None
