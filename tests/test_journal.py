"""The journal: what happened to which tensor, seen from outside the passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.parser
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.ir import journal
from onnxslim_yolo.ir.graph import bypass, replace_constant, replace_uses, set_input
from onnxslim_yolo.ir.journal import Change, changes, picture
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.pipeline import parse_pipeline

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,2,4,4] x) => (float[1,2,4,4] y)
<float[4,2,1,1] w = {1,2,3,4,5,6,7,8}, float[2,4,1,1] v = {1,2,3,4,5,6,7,8}>
{ a = Conv (x, w) r = Relu (a) y = Conv (r, v) }"""


def model() -> Model:
    return Model.from_onnx(onnx.parser.parse_model(TEXT))


def after(edit: Callable[[gs.Graph], object], graph: gs.Graph | None = None) -> list[Change]:
    graph = graph or model().graph
    before = picture(graph)
    edit(graph)
    return list(changes(before, picture(graph)))


def cut(graph: gs.Graph) -> None:
    replace_constant(graph.nodes[0], 1, np.ones((3, 2, 1, 1), np.float32))
    graph.nodes[0].outputs[0].shape = [1, 3, 4, 4]


def revalued(graph: gs.Graph) -> None:
    replace_constant(graph.nodes[0], 1, np.ones((4, 2, 1, 1), np.float32))


def without_relu(graph: gs.Graph) -> None:
    bypass(graph, graph.nodes[1])
    del graph.nodes[1]


def with_bias(graph: gs.Graph) -> None:
    set_input(graph.nodes[0], 2, gs.Constant("b", np.zeros(4, np.float32)))


def renamed(graph: gs.Graph) -> None:
    graph.nodes[0].outputs[0].name = "other"


def as_sigmoid(graph: gs.Graph) -> None:
    graph.nodes[1].op = "Sigmoid"


def strided(graph: gs.Graph) -> None:
    graph.nodes[2].attrs["strides"] = [1, 1]


def read(graph: gs.Graph) -> None:
    assert graph.nodes[0].inputs[1].values.shape  # loads what lay in the file


EDITS = [
    (cut, [("w", "cut", "4×2×1×1", "3×2×1×1"), ("a", "cut", "1×4×4×4", "1×3×4×4")]),
    (revalued, [("w", "values", "", "4×2×1×1")]),
    (without_relu, [("y", "made otherwise", "Conv(r)", "Conv(a)"), ("r", "gone", "Relu(a)", "")]),
    (with_bias, [("b", "new", "", "4")]),
    (renamed, [("a", "renamed", "a", "other")]),
    (as_sigmoid, [("r", "made otherwise", "Relu(a)", "Sigmoid(a)")]),
    (strided, [("y", "made otherwise", "Conv(r)", "Conv(r)")]),
    (read, []),
    (lambda graph: None, []),
]


@pytest.mark.parametrize(("edit", "expected"), EDITS, ids=lambda value: getattr(value, "__name__", ""))
def test_an_edit_is_told(edit: Callable[[gs.Graph], object], expected: list[tuple[str, ...]]) -> None:
    graph = model().graph
    graph.nodes[0].outputs[0].shape = [1, 4, 4, 4]
    assert [(c.tensor, c.kind, c.before, c.after) for c in after(edit, graph)] == expected


def test_an_output_that_another_tensor_takes_over_is_told_under_both_names() -> None:
    def drop_last(graph: gs.Graph) -> None:
        last = graph.nodes[2]
        old = last.outputs[0]
        last.inputs, last.outputs = [], []
        replace_uses(graph, old, graph.nodes[1].outputs[0])
        del graph.nodes[2]

    found = {(c.tensor, c.kind, c.after) for c in after(drop_last)}
    assert ("r", "renamed", "y") in found


def test_of_a_large_graph_no_picture_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "LARGEST", 2)
    assert after(cut) == []


def test_records_tell_which_pass_it_was() -> None:
    text = TEXT.replace("5,6,7,8}, float[2,4", "0,0,0,0}, float[2,4")
    spec = "canonicalise,prune{ratio=dead},slice,fold-bn"

    def run(source: str, keep: bool) -> dict[str, list[str]]:
        source_model = Model.from_onnx(onnx.parser.parse_model(source))
        records = PassManager(parse_pipeline(spec), journal=keep).run(source_model)
        return {record.name: [c.tensor for c in record.changes if c.kind == "cut"] for record in records}

    assert run(text, True)["slice"] == ["w", "a", "r", "v"]
    assert run(text, True)["fold-bn"] == run(text, False)["slice"] == run(TEXT, True)["slice"] == []
