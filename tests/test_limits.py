"""What a model takes is estimated before it runs: bombs are refused with their node, detectors are not."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper
from PIL import Image

from bench import bombs
from onnxslim_yolo import compile as compile_model
from onnxslim_yolo.analysis.effort import ELEMENT, LARGE_KERNEL, NODE, OUTPUT_COPIES, POOL_TAP, effort_of
from onnxslim_yolo.analysis.folding import SIZE_LIMIT
from onnxslim_yolo.analysis.limits import BY_WEIGHTS, MEMORY, WORK, Asked, Limits, limits_for
from onnxslim_yolo.analysis.most_shapes import most_shapes, of_any_size
from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.ir.model import Model, Source
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.load.onnx import load_onnx
from onnxslim_yolo.options import parse_limit
from onnxslim_yolo.passes import Canonicalise
from onnxslim_yolo.rewrites.shape_nodes import Room, fold_constants
from onnxslim_yolo.verify.pair import compare_models
from tests.command import command
from tests.test_bad_input import good, write


def canonical(model, folder) -> Model:
    loaded = load_onnx(write(model, folder / "m.onnx"))
    Canonicalise().run(loaded)
    return loaded


RUN = ("a Sum of 10⁴ inputs", "3000 Slices into a Sum")
"""They took long by our own doing, and are run."""
REFUSED = {name: makes[0] for name, makes in bombs.BOMBS.items() if name not in RUN}
SAID = r"running it takes|too large to compute|cannot be computed with|makes a vector of|what the image holds says"
VARIANTS = {
    "a pooling kernel of 801²": lambda: bombs.pool(801, 640),
    "Lp pooling": lambda: bombs.pool(1999, 1000, op="LpPool"),
    "5 poolings of 401²": lambda: bombs.pool(401, 500, 5),
    "a 1×1 convolution on a large map": lambda: bombs.conv(2500, 16, 64, 1),
    "a kernel of 201²": lambda: bombs.conv(700, 4, 4, 201),
    "nearest Resize": lambda: bombs.resize(6000, "nearest"),
    "Tile by little": lambda: bombs.tile(700),
    "Expand": lambda: bombs.expand(400_000),
    "Pad": lambda: bombs.pad(6000),
    "an outer product": lambda: bombs.matmul(10_000),
    "many operators": lambda: bombs.chain(2000, 700),
}


@pytest.mark.parametrize("name", [*REFUSED, *VARIANTS])
def test_bombs_are_refused_before_they_run(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was run")

    monkeypatch.setattr("onnxslim_yolo.compiler.run_onnx", never)
    path = write((REFUSED | VARIANTS)[name](), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=SAID) as caught:
        compile_model(path, out=tmp_path / "out")
    if "running it takes" in caught.value.message:
        assert caught.value.node and "--limit-" in (caught.value.hint or "")
    assert caught.value.exit_status == 2 and not (tmp_path / "out").exists()


def test_a_dynamic_size_is_judged_at_the_size_asked_for(tmp_path) -> None:
    model = bombs.conv(640, 3, 16)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].Clear()
    path = write(model, tmp_path / "m.onnx")
    assert compile_model(path, out=tmp_path / "out", verify=False, emit="onnx").folder
    with pytest.raises(InputError, match="running it takes"):
        compile_model(path, out=tmp_path / "out", imgsz=6000, verify=False)


SAID_BY_THE_IMAGE = ("Expand", "Tile", "ConstantOfShape", "Range", "Resize", "Pad", "OneHot")


@pytest.mark.parametrize("op", SAID_BY_THE_IMAGE)
def test_what_is_as_large_as_the_image_says_is_refused(op: str, tmp_path) -> None:
    """And is run where any amount is allowed, if that is little."""
    path = write(bombs.as_large_as_said(op), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="what the image holds says how much this makes") as caught:
        compile_model(path, out=tmp_path / "out")
    assert caught.value.node is not None and f"({op})" in caught.value.node
    with pytest.raises(InputError, match="what the image holds"):
        compare_models(path, path, asked=BY_WEIGHTS)
    write(bombs.as_large_as_said(op, 192.0), path)
    allowed = {"limit_memory": math.inf, "limit_work": math.inf, "emit": "onnx"}
    assert compile_model(path, out=tmp_path / "out", **allowed).folder


def test_what_the_image_holds_counts_as_much_as_it_can() -> None:
    """NonZero, a NonMaxSuppression's boxes, a Slice to where the image says; and what is made of them."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,8,8] x) => (float[n,m] p, int64[k,3] b, float[r] s)
    <int64[1] a = {0}, int64[1] most = {5}, int64[1] flat = {-1}, int64 last = {9}>
    { n = NonZero(x) f = Cast<to = 1>(n) t = Transpose(f) p = MatMul(t, f)
      q = Reshape(x, boxes) u = Reshape(x, scores) b = NonMaxSuppression(q, u, most)
      w = Reshape(x, flat) e = ReduceMax<keepdims = 0>(x) h = Cast<to = 7>(e) i = Reshape(h, one)
      s = Slice(w, a, i) }"""
    proto = onnx.parser.parse_model(text.replace("last = {9}", "last = {9}, int64[3] boxes = {1, 48, 4}"
        ", int64[3] scores = {1, 4, 48}, int64[1] one = {1}"))  # fmt: skip
    graph = Model.from_onnx(proto, Source("m")).graph
    reinfer(graph)
    shapes = {t.name: most_shapes(graph)[id(t)] for node in graph.nodes for t in node.outputs}
    assert shapes["n"] == (4, 192) and shapes["p"] == (192, 192) and shapes["s"] == (192,) and shapes["b"] == (20, 3)
    assert of_any_size(graph) is None


@pytest.mark.parametrize("name", ["dilated", "cropped", "pooled"])
def test_what_runtimes_write_out_around_a_map_counts(name: str, tmp_path) -> None:
    pooled = bombs.model_of(
        [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[20001] * 2, pads=[10000] * 4)], (1, 3, 8, 8)
    )
    model = {"dilated": bombs.dilated(20_000), "cropped": bombs.cropped(2000), "pooled": pooled}[name]
    effort = effort_of(canonical(model, tmp_path).graph)
    assert effort.memory > 10**9
    small = {"dilated": bombs.dilated(1), "cropped": bombs.cropped(2), "pooled": bombs.pool(3, 8)}[name]
    assert effort_of(canonical(small, tmp_path).graph).memory < 10**6


@pytest.mark.parametrize(
    "model", [bombs.counted(2 * 10**9), bombs.doubled(27), bombs.doubled(40)], ids=["range", "27", "40"]
)
def test_vectors_of_sizes_are_not_written_out_at_any_length(model: onnx.ModelProto, tmp_path) -> None:
    with pytest.raises(InputError, match="makes a vector of"):
        load_onnx(write(model, tmp_path / "m.onnx"))
    assert load_onnx(write(bombs.doubled(10), tmp_path / "m.onnx")) and load_onnx(
        write(bombs.counted(1000), tmp_path / "m.onnx")
    )


def test_taking_a_node_out_compares_no_nodes(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """graphsurgeon looks a node up by value among all readers of a tensor: of thousands, that is minutes."""
    model = load_onnx(write(bombs.sliced(300), tmp_path / "m.onnx"))

    def never(*_: object) -> bool:
        raise AssertionError("two nodes were compared")

    monkeypatch.setattr(gs.Node, "__eq__", never)
    assert Canonicalise().run(model) and len(model.graph.nodes) == 1


def test_the_limits_are_the_users(tmp_path) -> None:
    write(bombs.pool(31, 200), tmp_path / "m.onnx")
    write(good(), tmp_path / "g.onnx")
    assert command("compile", "m.onnx", "-q", "--no-verify", cwd=tmp_path).returncode == 0
    done = command("compile", "m.onnx", "--limit-work", "1M", cwd=tmp_path)
    assert done.returncode == 2 and "MaxPool_0 (MaxPool)" in done.stderr and "the limit of 1M" in done.stderr
    done = command("compile", "m.onnx", "--limit-memory", "1 MB", cwd=tmp_path)
    assert done.returncode == 2 and "the limit of 1MB" in done.stderr
    done = command("compile", "m.onnx", "--limit-work", "lots", cwd=tmp_path)
    assert done.returncode == 2 and "takes an amount like 3G" in done.stderr
    write(bombs.pool(101, 400), tmp_path / "m.onnx")
    assert command("compile", "m.onnx", "-q", "--no-verify", cwd=tmp_path).returncode == 2
    done = command("compile", "m.onnx", "-q", "--no-verify", "--limit-work", "none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "value"),
    [("3GB", 3e9), ("500 M", 5e8), ("2e12", 2e12), ("1.5t", 1.5e12), ("none", math.inf), ("7", 7.0), (None, None)],
)
def test_amounts(text: str | None, value: float | None) -> None:
    assert parse_limit("--limit-work", text) == value


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "3 apples", "1e999", "9" * 40, "0x10", "3GBB"])
def test_amounts_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--limit-memory takes an amount"):
        parse_limit("--limit-memory", text)


def test_what_is_counted(tmp_path) -> None:
    """A convolution's multiply-adds, a pooling's taps cut off at the edges, elements; outputs several times over."""
    conv = effort_of(canonical(bombs.conv(64, 32, 16), tmp_path).graph)
    assert conv.work == 64 * 64 * 16 * 32 * 9 and conv.work_node == "Conv_0 (Conv)"
    assert conv.memory == OUTPUT_COPIES * 4 * 64 * 64 * 16
    pool = effort_of(canonical(bombs.pool(1999, 64), tmp_path).graph)
    assert pool.work == POOL_TAP * 3 * 64 * 64 * 64 * 64
    chain = effort_of(canonical(bombs.chain(10, 64), tmp_path).graph)
    assert chain.work == 10 * max(NODE, ELEMENT * 3 * 64 * 64)
    live = effort_of(canonical(bombs.live_gathers(20, 1000), tmp_path).graph)
    assert 20 * 4 * 1000 * 192 <= live.memory <= 24 * 4 * 1000 * 192 and "_20 " in live.memory_node
    side = int(LARGE_KERNEL**0.5) + 2
    wide = effort_of(canonical(bombs.conv(100, 8, 8, side), tmp_path).graph)
    assert wide.memory >= 2 * 4 * 8 * side**2 * 100 * 100


def test_what_dies_is_not_counted(tmp_path) -> None:
    """Control: a chain ten times as long takes no more memory, and twenty maps that live at once take twenty."""
    short, long = (effort_of(canonical(bombs.chain(n, 64), tmp_path).graph).memory for n in (10, 100))
    assert short == long


def test_a_file_with_weights_may_take_more(tmp_path) -> None:
    """The same bytes of activations and work, with the weights of a detector behind them."""
    small = limits_for(canonical(bombs.conv(64, 8, 16), tmp_path), None, None)
    assert small.memory < 1.01 * MEMORY and small.work < 1.01 * WORK
    heavy = bombs.conv(64, 512, 1024)
    large = limits_for(canonical(heavy, tmp_path), None, None)
    assert large.memory > 1.8 * small.memory and large.work > 5 * small.work
    assert Limits(1, 1) == limits_for(canonical(heavy, tmp_path), 1, 1)


# Of YOLOv8 at 640 px: parameters, multiply-adds, channels of the stem.
FAMILY = {
    "v8n": (3.2e6, 4.4e9, 16),
    "v8s": (11.2e6, 14.3e9, 32),
    "v8m": (25.9e6, 39.5e9, 48),
    "v8x": (68.2e6, 129e9, 80),
}


@pytest.mark.parametrize("name", FAMILY)
def test_a_yolo_at_4k_passes(name: str) -> None:
    """By what the limits are made of: a stem's three maps of SiLU at once, and multiply-adds for every weight."""
    parameters, macs, stem = FAMILY[name]
    grown = 2176 * 3840 / 640**2
    elements = stem * 320 * 320 * 3 * 4.5 * grown  # over the whole network, about 4.5 times the stem's three maps
    assert grown * macs + ELEMENT * elements < WORK + 60_000 * parameters
    assert 3 * 4 * stem * 1088 * 1920 < MEMORY + 16 * 4 * parameters


def test_folding_counts_the_sum_of_what_it_makes(tmp_path) -> None:
    """Ten constants of 4 M elements fit one by one; together they are more than folding may make."""
    size = 2048
    names = [f"g{k}" for k in range(10)]
    graph = onnx.helper.make_graph(
        [
            *(onnx.helper.make_node("Exp", ["v"], [name], name) for name in names),
            onnx.helper.make_node("Sum", ["x", *names], ["y"]),
        ],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [size, size])],
        [onnx.helper.make_tensor_value_info("y", 1, [size, size])],
        [onnx.numpy_helper.from_array(np.zeros((size, size), np.float32), "v")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    loaded = load_onnx(write(model, tmp_path / "m.onnx"))
    from onnxslim_yolo.ir.shapes import reinfer

    reinfer(loaded.graph)
    room = Room()
    fold_constants(loaded.graph, room)
    left = [node for node in loaded.graph.nodes if node.op == "Exp" and node.outputs]
    assert 0 < len(left) < 10 and 0 <= room.left < size**2, "some are folded, those without room are not"
    many = Room(100 * SIZE_LIMIT)
    loaded = load_onnx(tmp_path / "m.onnx")
    reinfer(loaded.graph)
    fold_constants(loaded.graph, many)
    assert not [node for node in loaded.graph.nodes if node.op == "Exp" and node.outputs]


@pytest.mark.parametrize("op", ["Conv", "MaxPool"])
def test_folding_does_no_great_work(op: str, tmp_path) -> None:
    kernel = 401 if op == "MaxPool" else 65
    weights = {"c": np.ones((1, 4, 400, 400), np.float32), "w": np.ones((4, 4, 65, 65), np.float32)}
    inputs = ["c", "w"] if op == "Conv" else ["c"]
    nodes = [helper.make_node(op, inputs, ["t"], kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4)]
    nodes += [helper.make_node("ReduceMax", ["t"], ["m"], keepdims=0), helper.make_node("Add", ["x", "m"], ["y"])]
    model = bombs.model_of(nodes, (1, 3, 8, 8), {name: weights[name] for name in inputs})
    assert [node.op for node in canonical(model, tmp_path).graph.nodes][:1] == [op]


def test_a_sum_of_many_inputs_is_analysed_along_its_edges(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: four times the inputs, about four times the questions about axes."""
    from onnxslim_yolo.analysis import rules
    from onnxslim_yolo.analysis.channels import analyse_channels

    asked = []
    ask = rules.varying_axes
    monkeypatch.setattr(rules, "varying_axes", lambda array: asked.append(1) or ask(array))
    counts = []
    for count in (100, 400):
        asked.clear()
        analyse_channels(canonical(bombs.many_sums(count), tmp_path).graph)
        counts.append(len(asked))
    assert counts[1] < 5 * counts[0], counts


COMMANDS = {
    "verify": ("verify", "m.onnx", "m.onnx"),
    "bench": ("bench", "g.onnx", "m.onnx", "--rounds", "3", "-q"),
    "eval": ("eval", "m.onnx", "--data", "d.yaml"),
    "profile": ("profile", "m.onnx", "-q", "-o", "t.json"),
}
BOMB_OF = {
    "verify": lambda: bombs.pool(1999, 2000),
    "bench": lambda: bombs.resize(28_000),
    "eval": lambda: bombs.matmul(43_000),
    "profile": lambda: bombs.conv(2000, 16, 16, 65),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_other_commands_judge_what_they_run(name: str, tmp_path) -> None:
    """Refused before a runtime opens it; the limit is the user's here, too; control: an ordinary model passes."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "d.yaml").write_text("path: .\nval: .\nnames: [a]\n")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    write(good(), tmp_path / "g.onnx")
    write(BOMB_OF[name](), tmp_path / "m.onnx")
    done = command(*COMMANDS[name], cwd=tmp_path)
    assert done.returncode == 2 and "m.onnx" in done.stderr and "running it takes" in done.stderr, done.stderr
    assert "--limit-" in done.stderr and done.stderr.count("error:") == 1
    write(good(), tmp_path / "m.onnx")
    done = command(*COMMANDS[name], "--limit-work", "10", cwd=tmp_path)
    assert done.returncode == 2 and "the limit of 10" in done.stderr
    if name in ("verify", "bench"):  # this model has no head to evaluate, and measuring its layers takes long
        assert command(*COMMANDS[name], cwd=tmp_path).returncode == 0


def test_a_graph_that_cannot_be_compiled_is_judged_by_its_shapes(tmp_path) -> None:
    """Verified can be what is not compiled: an operator of no domain known here beside a bomb."""
    model = bombs.resize(28_000)
    model.graph.node.append(helper.make_node("RandomNormalLike", ["x"], ["noise"]))
    model.graph.output.append(helper.make_tensor_value_info("noise", TensorProto.FLOAT, None))
    path = write(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="running it takes"):
        compare_models(path, path, asked=Asked())
