"""What each block costs before and after, gone ones included: in the report, its page and the difference of two."""

from __future__ import annotations

from typing import Any

import pytest

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency import table_for
from onnxslim_yolo.latency.by_layer import add_latency
from onnxslim_yolo.latency.layers import describe
from onnxslim_yolo.passes import DropBlocks
from onnxslim_yolo.report.block_costs import enter_blocks, places_of
from onnxslim_yolo.report.build import _cost
from onnxslim_yolo.report.diff import diff_reports, markdown_diff
from onnxslim_yolo.report.html import render_html
from tests.passes.test_drop_blocks import model, scaled
from tests.report.sample import sample


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("/model.2/m.0/cv1/conv/Conv", ["model.2", "model.2.m.0"]),
        ("/model.2/Concat", ["model.2"]),
        ("/model.22/cv2.0/cv2.0.1/Conv", ["model.22", "model.22.cv2.0", "model.22.cv2.0.1"]),
        ("Conv_138", []),
    ],
)
def test_a_node_lies_in_every_numbered_place_above_it(name: str, places: list[str]) -> None:
    assert places_of(name) == places


def named() -> Model:
    """Three residual blocks within 'body.0', named as an exporter names them, and the rest beside it."""
    made = model(scaled(1e-4))
    sums = 0
    for node in made.graph.nodes:
        stems = [tensor.name.split(".")[0] for tensor in node.inputs[1:] if "." in tensor.name]
        stem = stems[0] if stems else node.outputs[0].name.split("_")[0]
        if stem[0] in "pqr" and stem[1:].isdigit():
            node.name = f"/body.0/m.{stem[1:]}/{stem}/{node.op}"
            sums += node.op == "Add"
        else:
            node.name = f"/head.{len(stem)}/{stem}/{node.op}"
    assert sums == 3
    return made


def reported(after: Model, before: Model) -> dict[str, Any]:
    report, table = {"before": _cost(cost_of(before.graph)), "after": _cost(cost_of(after.graph))}, table_for("ncnn")
    graphs = {"before": before.graph, "after": after.graph}
    for key, graph in graphs.items():
        add_latency(report[key], graph, table)
    enter_blocks(report, graphs, table)
    return report


def test_each_block_has_its_cost_and_the_gone_one_has_none_left() -> None:
    before, after = named(), named()
    assert DropBlocks(ratio=0.2, importance="gamma").run(after)
    report = reported(after, before)
    rows = {row["name"]: row for row in report["blocks"]}
    assert [name for name in rows if name.startswith("body")] == ["body.0", "body.0.m.0", "body.0.m.1", "body.0.m.2"]
    assert [name for name, row in rows.items() if row["after"] is None] == ["body.0.m.1"]
    inner = [rows[f"body.0.m.{k}"]["before"] for k in range(3)]
    for metric in ("layers", "macs", "parameters", "latency_us"):
        assert sum(row[metric] for row in inner) == pytest.approx(rows["body.0"]["before"][metric], abs=0.05)
        assert rows["body.0"]["after"][metric] < rows["body.0"]["before"][metric]
        assert rows["body.0.m.0"]["after"][metric] == rows["body.0.m.0"]["before"][metric]
    outermost = [row["before"] for name, row in rows.items() if "." not in name.partition(".")[2]]
    assert sum(row["macs"] for row in outermost) == report["before"]["macs"]
    whole = sum(table_for("ncnn").predict(layer.key) for layer in describe(before.graph))
    assert sum(row["latency_us"] for row in outermost) == pytest.approx(whole, rel=0.01)  # sums and activations too
    assert sum(layer["latency_us"] for layer in report["before"]["layers"]) < 0.99 * whole


def cost(layers: int, us: float) -> dict[str, float]:
    return {"layers": layers, "macs": 1000 * layers, "parameters": 10 * layers, "latency_us": us}


def test_the_page_and_the_difference_say_which_block_went() -> None:
    kept = {"name": "model.1", "before": cost(4, 80.0), "after": cost(4, 40.0)}
    here = {"name": "model.1.m.0", "before": cost(2, 40.0), "after": cost(2, 20.0)}
    old = sample(blocks=[kept, here])
    new = sample(blocks=[{**kept, "after": cost(2, 20.0)}, {**here, "after": None}])
    page = render_html(new)
    assert "<s>model.1.m.0</s> gone" in page and "<s>model.1</s>" not in page
    diff = diff_reports(old, new)
    assert diff["blocks"]["model.1.m.0"] == {"old": cost(2, 20.0), "new": None}
    text = markdown_diff(diff)
    assert "| `model.1.m.0` | 2 → gone | 2.00 k → gone | 20 → gone | 20.0 µs → gone | −100.0 % |" in text
    assert "| `model.1` | 4 → 2 |" in text
    assert diff_reports(sample(), new)["blocks"] == {}  # an older report tells of none
    assert diff_reports(new, new)["blocks"] == {}
