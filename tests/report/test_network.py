"""The network as a graph of blocks, layers that were moved, and the journal of what passes touched."""

import onnx.parser
import pytest

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.report.layers import NEW, blocks_of, layers_of, moved_of
from onnxslim_yolo.report.network import network_of
from onnxslim_yolo.report.network_view import journal_data, network_data, passes_by_tensor
from tests.report.sample import sample

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
NAMED = (
    "(float[1,4,8,8] x) => (float[1,4,8,8] y) <float[4,4,1,1] w, float[4,8,1,1] v>"
    " { a = Conv (x, w) b = Relu (a) c = Conv (b, w) d = Concat <axis=1> (b, c) y = Conv (d, v) }"
)


def graph_of(text: str, names: list[str] | None = None):
    model = Model.from_onnx(onnx.parser.parse_model(HEAD + text))
    for node, name in zip(model.graph.nodes, names or [node.name for node in model.graph.nodes], strict=True):
        node.name = name
    return model.graph


def shown(found):
    names = [block["name"] for block in found["blocks"]]
    return {
        (names[e["from"]], names[e["to"]]): [(t["name"], t["before"], t["after"], t["gone"]) for t in e["tensors"]]
        for e in found["edges"]
    }


def test_blocks_read_one_another_through_channels_before_and_after():
    names = ["/model.0/conv/Conv", "/model.0/act/Relu", "/model.1/conv/Conv", "/model.2/Concat", "/model.3/conv/Conv"]
    before = graph_of(NAMED, names)
    after = graph_of(NAMED, names)
    for node in after.nodes:
        if node.op == "Relu":
            node.outputs[0].shape = [1, 3, 8, 8]
        if node.op == "Concat":
            node.outputs[0].shape, node.outputs[0].name = [1, 7, 8, 8], "other"
    for node in before.nodes:
        node.outputs[0].shape = [1, 8 if node.op == "Concat" else 4, 8, 8]
    found = network_of(before, after)
    assert [b["name"] for b in found["blocks"]] == ["x", "model.0", "model.1", "model.2", "model.3", "y"]
    assert [b["kind"] for b in found["blocks"]] == ["input", *["block"] * 4, "output"]
    edges = shown(found)
    assert edges["model.0", "model.1"] == edges["model.0", "model.2"] == [("b", 4, 3, False)]
    assert edges["model.2", "model.3"] == [("d", 8, None, True)]
    assert len(edges) == 6


def test_without_names_a_layer_is_a_block_and_takes_what_follows_it_alone():
    found = network_of(graph_of(NAMED), graph_of(NAMED))
    assert [b["ops"] for b in found["blocks"] if b["kind"] == "block"] == [
        {"Conv": 1, "Relu": 1},
        {"Conv": 1},
        {"Concat": 1},
        {"Conv": 1},
    ]


def test_of_very_many_blocks_chains_are_one_and_too_many_are_not_drawn(monkeypatch):
    from onnxslim_yolo.report import network

    chain = "{ a = Conv (x, w) b = Conv (a, w) y = Conv (b, w) }"
    text = f"(float[1,4,8,8] x) => (float[1,4,8,8] y) <float[4,4,1,1] w> {chain}"
    monkeypatch.setattr(network, "MOST_BLOCKS", 2)
    found = network_of(graph_of(text), graph_of(text))
    assert [len(b["nodes"]) for b in found["blocks"]] == [0, 3, 0]
    assert network_of(graph_of(NAMED), graph_of(NAMED)) is None
    monkeypatch.setattr(network, "MOST_NODES", 1)
    assert network_of(graph_of(text), graph_of(text)) is None


def moved_report():
    report = sample()
    report["passes"].append({"name": "conv-before-resize", "spec": "conv-before-resize", "rewrites": 1, "nodes": 30})
    report["after"]["layers"][1:2] = [
        {"name": f"/model.1/cv1/conv/Conv_part{k}", "op": "Conv", "macs": 100, "parameters": 5} for k in ("", "_1")
    ]
    return report


def test_what_was_moved_stands_in_for_its_layer_and_is_no_second_block():
    report = moved_report()
    layers = layers_of(report)
    (layer,) = (each for each in layers if each.moved)
    assert layer.name == "/model.1/cv1/conv/Conv"
    assert layer.moved == ("/model.1/cv1/conv/Conv_part", "/model.1/cv1/conv/Conv_part_1")
    assert layer.after["macs"] == 200
    assert [block.name for block in blocks_of(layers)] == ["model.0", "model.1", "model.9"]
    report["passes"].pop()  # the control: without the pass these are layers of their own, and theirs is gone
    assert moved_of(report) == {}
    assert [block.name for block in blocks_of(layers_of(report))] == ["model.0", "model.1", "model.9", NEW]


def test_hovering_tells_what_was_cut_why_and_by_which_pass():
    report = sample()
    data = network_data(report, layers_of(report))
    tips = {block["title"]: block["tip"] for block in data["blocks"]}
    assert tips["model.1"].splitlines() == [
        "model.1",
        "1 Conv, 1 Relu",
        "MACs 2.00 k → 500 (0.25×)",
        "cv1.conv: 192 → 80 channels, wanted 60",
        "touched by: prune",
    ]
    assert "left whole: reaches the output 'output0'" in tips["model.9"]
    assert [block["state"] for block in data["blocks"]] == ["", "", "cut", "cut", ""]
    (edge,) = (e for e in data["edges"] if e["label"] == "192 → 80")
    assert edge["state"] == "cut" and "touched by: prune" in edge["tip"]
    assert network_data(sample(network=None), []) is None


def test_a_renamed_tensor_is_found_under_both_names():
    assert passes_by_tensor(sample())["old"] == passes_by_tensor(sample())["new"] == [(1, "reparam")]
    assert passes_by_tensor(sample(journal=None)) == {}
    assert journal_data(sample())["rows"][0][:3] == ["prune", "/model.1/cv1/conv/Conv_output_0", "cut"]


@pytest.mark.parametrize("spoil", [{"from": 99}, {"to": 99}])
def test_an_edge_to_nowhere_is_a_malformed_report(spoil, tmp_path):
    import json

    from onnxslim_yolo.errors import InputError
    from onnxslim_yolo.report.read import read_report

    report = sample()
    report["network"]["edges"][0] |= spoil
    file = tmp_path / "a.report.json"
    file.write_text(json.dumps(report))
    with pytest.raises(InputError, match="block that there is not"):
        read_report(file)
    file.write_text(json.dumps(sample()))  # the control
    assert read_report(file)["network"]["edges"]
