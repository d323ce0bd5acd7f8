"""Attributes as the schema means them: defaults, what versions of operators changed, and that nobody types them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxslim_yolo.ir.attributes import attribute, defaults, former_inputs, is_computed, operand, set_operand
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import SliceChannels
from onnxslim_yolo.pruning.mask import masked
from tests.kinds import EXACT, TRUNK, text_of, trunk
from tests.numeric import build, differences, random_feeds, run_onnx
from tests.passes.cutting import remove_random

ROOT = Path(__file__).resolve().parents[2]


def test_defaults_are_the_newest_schema_s() -> None:
    for schema in onnx.defs.get_all_schemas():
        given = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.type}
        for name, value in given.items() if not schema.domain else ():
            expected = onnx.helper.get_attribute_value(value)
            assert defaults(schema.name)[name] == (expected.decode() if isinstance(expected, bytes) else expected)


def test_a_dropped_name_has_the_default_that_it_had() -> None:
    assert defaults("BatchNormalization")["spatial"] == 1 and defaults("Dropout")["ratio"] == 0.5
    assert defaults("NoSuchOperator") == {}


def test_no_default_is_typed_where_an_attribute_is_read() -> None:
    typed = re.compile(r"\battrs(?:ibutes)?\.get\((?:[^()]|\([^()]*\))*?,")
    own = {"ops_functions.py"}  # ncnn's HardSwish has a slope that ONNX's has not
    sources = [*(ROOT / "onnxslim_yolo").rglob("*.py"), *(ROOT / "passes").glob("*.py")]
    found = [f"{path.name}: {hit}" for path in sources for hit in typed.findall(path.read_text(encoding="utf-8"))]
    assert [line for line in found if line.split(":")[0] not in own] == []
    assert typed.search('node.attrs.get("axis", 1)') and not typed.search('node.attrs.get("axis")')


ENLARGED = 'q = Resize<coordinate_transformation_mode="asymmetric",nearest_mode="floor">(f, , scales)'
NORM = "q = BatchNormalization{}(f, g.gamma, g.beta, g.mean, g.var)"
MAPS = "float[1,3,8,8] x", "float[a,b,c,d] y"
FORMS = {
    "slice": (9, "q = Slice<axes=[2],starts=[1],ends=[7]>(f)", "q = Slice(f, one, seven, two)"),
    "channels": (9, "q = Slice<axes=[1],starts=[2],ends=[8]>(f)", "q = Slice(f, two, eight, one)"),
    "split": (11, "q, r = Split<axis=1,split=[3,5]>(f)", "q, r = Split<axis=1>(f, sizes)"),
    "pad": (10, "q = Pad<pads=[0,0,1,1,0,0,1,1],value=0.5>(f)", "q = Pad(f, pads, half)"),
    "squeeze": (12, "t = Unsqueeze<axes=[2]>(f) q = Squeeze<axes=[2]>(t)", "t = Unsqueeze(f, two) q = Squeeze(t, two)"),
    "sum": (12, "q = ReduceSum<axes=[2]>(f)", "q = ReduceSum(f, two)"),
    "mean": (13, "q = ReduceMean<axes=[2,3]>(f)", "q = ReduceMean<axes=[2,3]>(f)"),
    "clip": (10, "q = Clip<min=0.5>(f)", "q = Clip(f, half)"),
    "upsample": (9, "q = Upsample(f, scales)", ENLARGED),
    "resize": (10, "q = Resize(f, scales)", ENLARGED),
    "softmax": (11, "q = Softmax<axis=3>(f)", "q = Softmax<axis=3>(f)"),
    "norm": (8, NORM.format("<spatial=1>"), NORM.format("")),
}  # fmt: skip
"""What an old opset says in attributes, and opset 17 in inputs."""
NUMBERS = {
    "one": [1], "two": [2], "seven": [7], "eight": [8], "sizes": [3, 5], "pads": [0, 0, 1, 1, 0, 0, 1, 1],
}  # fmt: skip


def model_of(body: str, opset: int) -> Model:
    (text, values) = trunk()
    constants = "".join(f", int64[{len(v)}] {k}" for k, v in NUMBERS.items() if re.search(rf"\b{k}\b", body))
    constants += ", float half" if "half" in body else ""
    constants += ", float[4] scales" if "scales" in body else ""
    given = {**values, **{k: np.asarray(v) for k, v in NUMBERS.items()}, "half": np.asarray(0.5)}
    given["scales"] = np.asarray([1.0, 1, 2, 2])
    width = {"Split": 3}.get(re.findall(r"(\w+)[<(]", body)[0], 6 if "axes=[1]" in body or "two, eight" in body else 8)
    weights = f"{TRUNK}{constants}, float[4,{width},1,1] w1"
    return build(text_of(*MAPS, weights, f"{text} {body} y = Conv(q, w1)", opset), values=given)


@pytest.mark.parametrize("form", FORMS)
def test_an_old_form_is_cut_as_the_new_one_is(form: str) -> None:
    opset, old, new = FORMS[form]
    results = []
    for version, body in ((opset, old), (17, new)):
        model = model_of(body, version)
        plan = remove_random(model, 0.4)
        expected = masked(model, plan)
        after = model.copy()
        PassManager([SliceChannels()]).run(after)
        feeds = random_feeds(model)
        assert max(differences(run_onnx(expected, feeds), run_onnx(after, feeds)).values()) < EXACT
        results.append((plan.keep.tolist(), run_onnx(after, feeds)["y"]))
    assert results[0][0] == results[1][0] and not all(results[0][0])
    assert np.allclose(results[0][1], results[1][1], atol=1e-5)


@pytest.mark.parametrize("form", ["slice", "split", "pad", "sum", "clip"])
def test_operands_are_read_where_they_are(form: str) -> None:
    opset, old, new = FORMS[form]
    nodes = [
        next(n for n in model_of(body, version).graph.nodes if n.op == re.findall(r"(\w+)[<(]", body)[0])
        for version, body in ((opset, old), (17, new))
    ]
    for name in ("starts", "ends", "axes", "split", "pads", "constant_value", "min", "max"):
        one, two = (operand(node, name) for node in nodes)
        assert (one is None and two is None) or np.array_equal(np.ravel(one), np.ravel(two)), name
    places = former_inputs(nodes[0])
    assert places and not former_inputs(nodes[1])
    assert all(np.array_equal(np.ravel(value), np.ravel(nodes[1].inputs[k].values)) for k, value in places.items())


def test_what_is_computed_is_told_from_what_is_not_given() -> None:
    model = build(text_of("float[1,3,4] x, int64[1] n", "float[a,b,c] y", "", "y = Squeeze(x, n)"))
    node = model.graph.nodes[0]
    assert operand(node, "axes") is None and is_computed(node, "axes") and not is_computed(node, "data2")


def test_an_operand_is_set_as_the_version_wants_it() -> None:
    for opset, there in ((11, True), (13, False)):
        model = build(text_of("float[1,6] x", "float[a,b] y, float[c,d] z", "", "y, z = Split<axis=1>(x)", opset))
        node = model.graph.nodes[0]
        set_operand(node, "split", np.array([2, 4]), model.opset, lambda: "sizes")
        assert ("split" in node.attrs) is there and operand(node, "split").tolist() == [2, 4]  # type: ignore[union-attr]
        shapes = [value.shape for value in run_onnx(model, random_feeds(model)).values()]
        assert shapes == [(1, 2), (1, 4)]


@pytest.mark.parametrize(("opset", "axis"), [(11, 1), (13, -1)])
def test_a_default_that_changed_is_the_graph_s_own(opset: int, axis: int) -> None:
    text = text_of("float[2,3,4] x", "float[a,b,c] y", "", "y = Softmax(x)", opset)
    model = build(text)
    assert attribute(model.graph.nodes[0], "axis") == axis
    x = random_feeds(model)
    assert np.allclose(run_onnx(model, x)["y"], run_onnx(onnx.parser.parse_model(text), x)["y"])


def test_nothing_that_the_schema_implies_is_written() -> None:
    text = text_of("float[1,2,4,4] x", "float[a,b,c,d] y", "float[3,2,1,1] w", "c = Conv(x, w) y = Elu(c)")
    nodes = build(text).to_onnx().graph.node
    assert [list(node.attribute) for node in nodes] == [[], []]
