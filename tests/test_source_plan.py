"""The plan speaks about the source: applied to its own tensors it gives what was sliced, whatever was rewritten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxslim_yolo.errors import InputError, OnnxSlimError
from onnxslim_yolo.ir.graph import Array, initializers
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.passes import FocusToConv, PruneChannels, SliceChannels, SppToSppf
from onnxslim_yolo.pipeline import preparation
from onnxslim_yolo.pruning.plan import open_plan, plan_as_json
from onnxslim_yolo.training.apply_plan import apply_plan
from tests.numeric import build

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
AWAY = ("hang", "expand")
"""Cases that other tests look at: they take long, or fill memory."""


def tensors_of(proto: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def sliced(proto: onnx.ModelProto, ratio: float = 0.4) -> tuple[dict[str, object], Model]:
    """The plan as written, and the model as cut."""
    model = Model.from_onnx(proto)
    steps = [FocusToConv(), SppToSppf(), PruneChannels(ratio=ratio), SliceChannels()]
    PassManager([*preparation(CompileOptions()), *steps]).run(model)
    return plan_as_json(model), model


def without(proto: onnx.ModelProto, rows: dict[str, list[int]]) -> tuple[dict[str, object], Model]:
    """As `sliced`, with these rows removed, by the weight's name in the prepared graph."""
    model = Model.from_onnx(proto)
    PassManager([*preparation(CompileOptions()), FocusToConv()]).run(model)
    plan = open_plan(model)
    for use in plan.channels.uses:
        if use.role == "out" and use.constant.name in rows:
            model.plan = plan = plan.without(use.labels[rows[use.constant.name]])
    PassManager([SliceChannels()]).run(model)
    return plan_as_json(model), model


def remarks(model: Model) -> list[str]:
    return [note for note in model.notes if note.startswith("plan.json")]


def compare(source: dict[str, Array], plan: dict[str, object], model: Model) -> int:
    """Cut the source's tensors by the plan; what the graph still has under their names has the same elements.

    Rewrites move elements, and may fold a factor into them: only where none did are places compared, too.
    """
    assert set(plan["keep"]) <= set(source)  # type: ignore[call-overload]
    cut = apply_plan(plan, source)
    left = {constant.name: constant.values for constant in initializers(model.graph)}
    for name in left.keys() & cut.keys():
        if cut[name].dtype.kind == "f":
            wanted, found = (np.sort(tensor[name], axis=None).astype(np.float64) for tensor in (cut, left))
            factor = (np.abs(found).max() / np.abs(wanted).max() if np.any(wanted) else 1.0) if wanted.size else 1.0
            np.testing.assert_allclose(found, wanted * factor, rtol=1e-6, err_msg=name)
            if factor == 1 and cut[name].shape == left[name].shape:
                np.testing.assert_array_equal(cut[name], left[name], name)
    return len(left.keys() & cut.keys())


def architectures() -> list[str]:
    pytest.importorskip("torch")
    from tests import zoo

    return list(zoo.NAMES)


def folded() -> list[str]:
    """An architecture of each way to write a network: what an exporter folds and renames depends on nothing else."""
    pytest.importorskip("torch")
    from tests import zoo

    names = ("yolov5n", "yolov6n", "yolov7-rep", "yolo11n", "yolo26n-pose", "v5lite-e", "rtdetr", "convnext", "regnet")
    return list(zoo.some(*names))


@pytest.mark.parametrize("name", folded())
def test_as_exporters_fold_and_rename(name: str) -> None:
    from tests import zoo

    proto = onnx.load_from_string(zoo.onnx_bytes(name, fold=True))
    plan, model = sliced(proto)
    assert compare(tensors_of(proto), plan, model) > 20
    assert plan["keep"]


@pytest.mark.parametrize("name", architectures())
def test_every_architecture(name: str) -> None:
    """In the graph's terms, and in a checkpoint's: there every name is a key, every shape that of the state_dict."""
    from tests import zoo

    proto = onnx.load_from_string(zoo.onnx_bytes(name))
    plan, model = sliced(proto)
    assert compare(tensors_of(proto), plan, model) > 20
    assert plan["keep"]
    state = {key: value.numpy() for key, value in zoo.module(name).state_dict().items()}
    plan = plan_as_json(model, from_checkpoint=True)
    cut = apply_plan(plan, state)
    assert set(plan["keep"]) <= set(state)
    assert sum(value.size for value in cut.values()) < sum(value.size for value in state.values())


@pytest.mark.parametrize("path", sorted(CASES.glob("*.onnx")) or [None], ids=lambda path: getattr(path, "stem", "none"))
def test_every_case(path: Path | None) -> None:
    if path is None or any(word in path.name for word in AWAY):
        pytest.skip("no such case here")
    proto = onnx.load(path)
    try:
        plan, model = sliced(proto, 0.5)
    except OnnxSlimError as error:
        pytest.skip(f"not pruned here: {error.message[:80]}")
    compare(tensors_of(proto), plan, model)


HEAD = '<ir_version: 9, opset_import: ["" : 17]>\n'


def network(inputs: str, weights: str, body: str) -> onnx.ModelProto:
    """x is made of 8 channels by the convolution `a`; `body` makes y of it."""
    text = f"{HEAD}g (float[1,3,16,16] image) => (float[{inputs}] y)\n<float[8,3,3,3] a, {weights}>\n"
    conv = "h = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(image, a)\nx = Relu(h)\n"
    return build(f"{text}{{ {conv}{body} }}").to_onnx()


SLICES = """s0 = Constant<value_ints=[0,0]>()
s1 = Constant<value_ints=[0,1]>()
s2 = Constant<value_ints=[1,0]>()
s3 = Constant<value_ints=[1,1]>()
end = Constant<value_ints=[9999,9999]>()
axes = Constant<value_ints=[2,3]>()
step = Constant<value_ints=[2,2]>()
p0 = Slice(x, s0, end, axes, step)
p1 = Slice(x, s3, end, axes, step)
p2 = Slice(x, s1, end, axes, step)
p3 = Slice(x, s2, end, axes, step)
z = Concat<axis=1>(p0, p1, p2, p3)
y = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(z, w)"""

REORG = """t0 = Constant<value_ints=[1,8,8,2,8,2]>()
t1 = Constant<value_ints=[1,32,8,8]>()
r = Reshape(x, t0)
m = Transpose<perm=[0,1,3,5,2,4]>(r)
z = Reshape(m, t1)
y = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(z, w)"""

DEPTH = "z = SpaceToDepth<blocksize=2>(x)\ny = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(z, w)"


@pytest.mark.parametrize("body", [SLICES, REORG, DEPTH], ids=["slices", "reshapes", "operator"])
def test_a_space_to_depth_reads_four_inputs_for_each_channel(body: str) -> None:
    proto = network("1,5,8,8", "float[5,32,3,3] w", body)
    plan, model = sliced(proto, 0.5)
    assert compare(tensors_of(proto), plan, model) == 2
    made, read = plan["keep"]["a"]["0"], plan["keep"]["w"]["1"]  # type: ignore[index]
    assert (len(made), len(read)) == (4, 16)
    assert {channel % 8 if body != REORG else channel // 4 for channel in read} == set(made)


FLAT = "y = Conv(x, v)"
SAME = {
    "einsum": ("1,5,16,16", "float[5,8] w", 'y = Einsum<equation="nchw,oc->nohw">(x, w)'),
    "einsum-left": ("1,5,16,16", "float[8,5] w", 'y = Einsum<equation="co,nchw->nohw">(w, x)'),
    "transpose": ("1,5,16,16", "float[1,1,8,5] w", f"v = Transpose<perm=[3,2,0,1]>(w)\n{FLAT}"),
    "reshape": ("1,5,16,16", "float[5,8] w", f"t = Constant<value_ints=[5,8,1,1]>()\nv = Reshape(w, t)\n{FLAT}"),
    "gemm factor": (
        "1,5",
        "float[8,5] w, float[5] b",
        "g = GlobalAveragePool(x)\nf = Flatten(g)\ny = Gemm<alpha=2.0>(f, w, b)",
    ),
    "identity": ("1,5,16,16", "float[5,8,1,1] w", f"v = Identity(w)\n{FLAT}"),
    "halves": (
        "1,5,16,16",
        "float[5,4,1,1] w, float[5,4,1,1] u",
        f"v = Concat<axis=1>(w, u)\n{FLAT}",
    ),
    "part of a larger one": (
        "1,5,16,16",
        "float[9,8,1,1] w",
        f"s = Constant<value_ints=[2]>()\ne = Constant<value_ints=[7]>()\no = Constant<value_ints=[0]>()\n"
        f"v = Slice(w, s, e, o)\n{FLAT}",
    ),
    "padded kernel": (
        "1,5,16,16",
        "float[5,8,1,1] w",
        "p = Constant<value_ints=[0,0,1,1,0,0,1,1]>()\nv = Pad(w, p)\ny = Conv<pads=[1,1,1,1]>(x, v)",
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_moved_weights_are_cut_where_they_came_from(name: str) -> None:
    """Whichever way the weight went, the rows of `a` that stay are the columns of `w` that stay."""
    shape, weights, body = SAME[name]
    proto = network(shape, weights, body)
    plan, model = sliced(proto, 0.5)
    source = tensors_of(proto)
    cut = apply_plan(plan, source)
    kept = plan["keep"]["a"]["0"]  # type: ignore[index]
    axis = next(k for k, extent in enumerate(source["w"].shape) if extent in (8, 4))
    if name == "halves":
        both = [*plan["keep"]["w"]["1"]] + [k + 4 for k in plan["keep"]["u"]["1"]]  # type: ignore[index]
        assert both == kept
    else:
        assert plan["keep"]["w"] == {str(axis): kept}  # type: ignore[index]
        np.testing.assert_array_equal(cut["w"], source["w"].take(kept, axis=axis))
    assert sorted(plan["keep"]) == (["a", "u", "w"] if name == "halves" else ["a", "w"])  # type: ignore[call-overload]
    assert not remarks(model)


def test_a_folded_scale_is_cut_with_its_weight() -> None:
    weights = "float[6,8,1,1] w, float[6,1,1,1] scale, float[5,6,1,1] u"
    body = "v = Mul(w, scale)\nz = Conv(x, v)\nr = Relu(z)\ny = Conv(r, u)"
    plan, _ = without(network("1,5,16,16", weights, body), {"a": [1, 2, 7], "v": [0, 5]})
    keep = plan["keep"]
    assert keep["w"]["0"] == keep["scale"]["0"] == keep["u"]["1"] == [1, 2, 3, 4]  # type: ignore[index]
    assert keep["scale"].keys() == {"0"} and keep["w"]["1"] == keep["a"]["0"]  # type: ignore[index]


def test_a_vector_that_two_layers_share_is_cut_where_they_agree() -> None:
    """A bias read by two branches that a sum ties; and one that nothing ties, which has no plan."""
    weights = "float[6,8,1,1] w, float[6,8,1,1] v, float[6] bias, float[5,6,1,1] u, float[5,6,1,1] t"
    tied = "p = Conv(x, w, bias)\nq = Conv(x, v, bias)\nz = Add(p, q)\nr = Relu(z)\ny = Conv(r, u)"
    plan, model = without(network("1,5,16,16", weights.replace(", float[5,6,1,1] t", ""), tied), {"w": [1]})
    assert plan["keep"]["bias"]["0"] == plan["keep"]["w"]["0"] == plan["keep"]["v"]["0"]  # type: ignore[index]
    assert not remarks(model)
    apart = (
        "p = Conv(x, w, bias)\nq = Conv(x, v, bias)\nr = Relu(p)\ns = Relu(q)\n"
        "c = Conv(r, u)\nd = Conv(s, t)\ny = Add(c, d)"
    )
    proto = network("1,5,16,16", weights, apart)
    plan, model = without(proto, {"w": [1, 4], "v": [0]})
    assert plan["keep"]["w"] != plan["keep"]["v"] and "bias" not in plan["keep"]  # type: ignore[index, operator]
    assert remarks(model) == ["plan.json leaves out 'bias': its readers keep different channels of it"]
    with pytest.raises(InputError, match="'bias' lost channels"):
        apply_plan(plan, tensors_of(proto))


LEFT_OUT = {
    "product of two": ("float[5,3] w, float[3,8] u", "m = MatMul(w, u)", "'u', 'w': what was cut"),
    "normalised over what is cut": (
        "float[5,8] w",
        "n = ReduceL2<axes=[1], keepdims=1>(w)\nm = Div(w, n)",
        "'w': its readers keep different",
    ),
    "tiled": (
        "float[5,4] w",
        "k = Constant<value_ints=[1,2]>()\nm = Tile(w, k)",
        "'w': what was cut",
    ),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_cannot_be_told_is_left_out_and_said(name: str) -> None:
    weights, body, words = LEFT_OUT[name]
    reshape = f"{body}\nt = Constant<value_ints=[5,8,1,1]>()\nv = Reshape(m, t)\n{FLAT}"
    proto = network("1,5,16,16", weights, reshape)
    plan, model = without(proto, {"a": [1, 2, 7]})
    assert sorted(plan["keep"]) == ["a"]  # type: ignore[call-overload]
    assert words in remarks(model)[0]
    with pytest.raises(InputError, match="lost channels"):
        apply_plan(plan, tensors_of(proto))


def test_a_constant_node_is_no_initializer() -> None:
    proto = network("1,5,16,16", "float[5,8,1,1] w", FLAT.replace(", v", ", w"))
    node = onnx.helper.make_node("Constant", [], ["w"], value=proto.graph.initializer[1])
    del proto.graph.initializer[1]
    proto.graph.node.insert(0, node)
    plan, model = sliced(proto, 0.5)
    assert sorted(plan["keep"]) == ["a"]  # type: ignore[call-overload]
    assert any("'w': it is the value of a Constant node" in note for note in model.notes)


def test_a_weight_normalised_over_what_stays_is_told() -> None:
    """The norm is over inputs that nobody cuts: cutting rows before or after it is the same."""
    proto = network(
        "1,5,16,16",
        "float[6,3,1,1] w, float[5,6,1,1] u",
        "n = ReduceL2<axes=[1,2,3], keepdims=1>(w)\nv = Div(w, n)\nz = Conv(image, v)\nr = Relu(z)\n"
        "c = Conv(r, u)\ng = GlobalAveragePool(x)\no = ReduceMean<axes=[1], keepdims=1>(g)\ny = Add(c, o)",
    )
    plan, model = without(proto, {"v": [1, 4]})
    assert plan["keep"]["w"] == {"0": plan["keep"]["u"]["1"]}  # type: ignore[index]
    cut = apply_plan(plan, tensors_of(proto))["w"]
    left = next(c.values for c in initializers(model.graph) if c.values.shape == cut.shape)
    np.testing.assert_allclose(left, cut / np.sqrt((cut**2).sum((1, 2, 3), keepdims=True)), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan["keep"].pop("w"), "leaves 'w' with shape"),
        (lambda plan: plan["keep"]["w"]["1"].pop(), "leaves 'w' with shape"),
        (lambda plan: plan["shapes"].update(w=[[5, 33, 3, 3], [5, 16, 3, 3]]), "the plan was made for"),
        (lambda plan: plan["shapes"].update(w=[[5, "a"], None]), "'shapes' are damaged"),
    ],
)
def test_a_plan_that_contradicts_the_graph_is_refused(change: object, message: str) -> None:
    proto = network("1,5,8,8", "float[5,32,3,3] w", SLICES)
    plan, _ = sliced(proto, 0.5)
    source = tensors_of(proto)
    assert apply_plan(plan, source)["w"].shape == (5, 16, 3, 3)
    change(plan)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        apply_plan(plan, source)
