"""An analysis is kept while its graph is what it was, and made anew after any edit, whoever makes it and however."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.channels import analyse_channels
from onnxslim_yolo.analysis.kept import State, forget, kept
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.ir.graph import replace_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from tests.numeric import build

TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[1,3,8,8] x) => (float[1,2,8,8] y)
<float[4,3,1,1] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[2,4,1,1] v = {1,2,3,4,5,6,7,8},
 float[4] s = {1,1,1,1}, float[4] b = {0,1,2,3}, float[4] m = {0,0,0,0}, float[4] n = {1,1,1,1}>
{ a = Conv(x, w) c = BatchNormalization<epsilon: float = 0.001>(a, s, b, m, n) d = LeakyRelu<alpha: float = 0.1>(c)
  y = Conv<pads: ints = [0, 0, 0, 0]>(d, v) }"""


def ready() -> Model:
    model = build(TEXT)
    reinfer(model.graph)
    return model


def constant(model: Model, name: str) -> gs.Constant:
    return next(t for node in model.graph.nodes for t in node.inputs if t.name == name)  # type: ignore[no-any-return]


def change(model: Model, name: str, place: int, number: float) -> None:
    """One number of a constant, which gets another array: its own is closed once an analysis has read it."""
    values = constant(model, name).values.copy()
    values[place] = number
    constant(model, name).values = values


def swap_filters(model: Model) -> None:
    constant(model, "w").values = constant(model, "w").values[[1, 0, 2, 3]]


def insert(model: Model) -> None:
    node = model.graph.nodes[3]
    middle = gs.Variable("middle", np.float32, (1, 4, 8, 8))
    model.graph.nodes.insert(3, gs.Node("Relu", "added", {}, [node.inputs[0]], [middle]))
    node.inputs = [middle, node.inputs[1]]


EDITS: dict[str, Callable[[Model], object]] = {
    "one number": lambda m: change(m, "b", 2, 7.0),
    "the sign of a zero": lambda m: change(m, "m", 0, -0.0),
    "two filters change places": swap_filters,
    "another array of the same numbers": lambda m: setattr(constant(m, "w"), "values", constant(m, "w").values.copy()),
    "a constant replaced": lambda m: replace_constant(m.graph.nodes[0], 1, np.ones((4, 3, 1, 1), np.float32)),
    "a number among the attributes": lambda m: m.graph.nodes[2].attrs.update(alpha=0.2),
    "a list in an attribute, in place": lambda m: m.graph.nodes[3].attrs["pads"].__setitem__(0, 1),
    "an attribute more": lambda m: m.graph.nodes[0].attrs.update(group=1),
    "another operator": lambda m: setattr(m.graph.nodes[2], "op", "Elu"),
    "another domain": lambda m: setattr(m.graph.nodes[2], "domain", "mine"),
    "another name": lambda m: setattr(m.graph.nodes[2], "name", "act"),
    "a node between": insert,
    "a node fewer": lambda m: m.graph.nodes.pop(),
    "nodes in another order": lambda m: m.graph.nodes.reverse(),
    "another output": lambda m: setattr(m.graph, "outputs", [m.graph.nodes[2].outputs[0]]),
    "a shape": lambda m: setattr(m.graph.inputs[0], "shape", [1, 3, 16, 16]),
    "one extent, in place": lambda m: m.graph.inputs[0].shape.__setitem__(2, "height"),
    "a type": lambda m: setattr(m.graph.inputs[0], "dtype", np.float16),
    "an opset": lambda m: setattr(m.graph, "opset", 18),
    "inputs in another order": lambda m: setattr(m.graph.nodes[1], "inputs", [*m.graph.nodes[1].inputs[::-1]]),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_any_edit_is_seen(edit: Callable[[Model], object]) -> None:
    model, computed = ready(), []

    def ask() -> int:
        return kept(model.graph, "counted", lambda: computed.append(None) or len(computed))  # type: ignore[func-returns-value]

    assert [ask(), ask(), ask()] == [1, 1, 1]  # the control: nothing was edited
    edit(model)
    assert [ask(), ask()] == [2, 2]


def test_an_array_that_was_read_is_closed_and_what_shares_its_bytes_is_summed_up() -> None:
    model = ready()
    constant(model, "b").values[2] = 6.0  # nothing has been kept yet
    whole = np.arange(8, dtype=np.float32)
    constant(model, "m").values = whole[:4]
    kept(model.graph, "counted", lambda: 1)
    with pytest.raises(ValueError, match="read-only"):
        constant(model, "b").values[2] = 7.0
    assert constant(model, "b").values.tolist() == [0, 1, 6, 3]
    assert kept(model.graph, "counted", lambda: 2) == 1  # the control: nothing was edited
    whole[0] = 5.0
    assert kept(model.graph, "counted", lambda: 3) == 3


def test_a_fresh_analysis_says_what_is_true_now() -> None:
    model = ready()
    shapes = analyse_channels(model.graph).shapes
    before = moments_of(model.graph, shapes)
    assert moments_of(model.graph, shapes) is before
    tensor = model.graph.nodes[1].outputs[0]
    assert before.of(tensor).mean.reshape(-1).tolist() == [0, 1, 2, 3]
    change(model, "b", 2, 7.0)
    assert moments_of(model.graph, shapes).of(tensor).mean.reshape(-1).tolist() == [0, 1, 7, 3]


def test_floors_share_an_analysis_where_no_variance_lies_between() -> None:
    model = ready()
    shapes = analyse_channels(model.graph).shapes
    assert moments_of(model.graph, shapes, 1e-8) is moments_of(model.graph, shapes)
    change(model, "n", 1, 1e-9)
    plain, floored = moments_of(model.graph, shapes), moments_of(model.graph, shapes, 1e-8)
    tensor = model.graph.nodes[1].outputs[0]
    assert plain is not floored
    assert plain.of(tensor).exact.reshape(-1).tolist() == [False] * 4
    assert floored.of(tensor).exact.reshape(-1).tolist() == [False, True, False, False]


def test_who_adds_to_an_analysis_adds_to_his_own() -> None:
    model = ready()
    first = analyse_channels(model.graph)
    count = len(first.uses)
    first.uses.append(first.uses[0])
    assert len(analyse_channels(model.graph).uses) == count
    assert analyse_channels(model.graph).labels is first.labels  # the control: it is the same analysis


def test_copies_and_what_is_let_go_begin_without() -> None:
    model = ready()
    channels = analyse_channels(model.graph)
    copy = model.copy()
    assert analyse_channels(copy.graph).labels is not channels.labels
    forget(model.graph)
    forget(model.graph)
    assert analyse_channels(model.graph).labels is not channels.labels


def test_constants_are_unread_until_they_are_loaded() -> None:
    model = ready()
    before = State.of(model.graph)
    loaded = [constant(model, name).values for name in "wvsbmn"]
    after = State.of(model.graph)
    assert len(loaded) == 6 and before is not None and after is not None
    assert (before.unread, after.unread) == (True, False)


def test_of_what_is_not_known_nothing_is_kept() -> None:
    model = ready()
    assert State.of(model.graph) is not None
    model.graph.nodes[0].attrs["odd"] = object()
    assert State.of(model.graph) is None
    assert analyse_channels(model.graph).labels is not analyse_channels(model.graph).labels


def test_branches_are_read_too() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (bool c, float[2] x) => (float[2] y)
    { y = If(c) <then_branch = one () => (float[2] p) { p = LeakyRelu<alpha: float = 0.5>(x) },
                 else_branch = two () => (float[2] q) { q = Neg(x) }> }"""
    model = Model.from_onnx(onnx.parser.parse_model(text))
    before = State.of(model.graph)
    assert before is not None and before == State.of(model.graph)
    branches = [value for value in model.graph.nodes[0].attrs.values() if isinstance(value, gs.Graph)]
    branches[0].nodes[0].attrs["alpha"] = 0.25
    assert before != State.of(model.graph)
