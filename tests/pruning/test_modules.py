"""Blocks that are whole modules of a source, by the scopes that their nodes were traced in; no graph is run."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.blocks import Block
from onnxslim_yolo.pruning.module_blocks import gone_modules, module_blocks
from onnxslim_yolo.pruning.removed import as_modules, module_of


def graph_of(layers: str, others: str) -> gs.Graph:
    """Nodes by name: layers have a weight, the others have none."""
    nodes = [
        gs.Node("Conv", name, inputs=[gs.Variable("x"), gs.Constant(f"{name}.w", np.zeros((1, 1, 1, 1), np.float32))])
        for name in layers.split()
    ]
    nodes += [gs.Node("Add", name, inputs=[gs.Variable("x"), gs.Variable("z")]) for name in others.split()]
    return gs.Graph(nodes)


def branch(node: str, nodes: str) -> Block:
    return Block("branch", node, 1, "", tuple(nodes.split()), tuple(nodes.split()))


def chain(nodes: str) -> Block:
    return Block("chain", nodes.split()[-1], -1, "s", tuple(nodes.split()), tuple(nodes.split()))


@pytest.mark.parametrize(
    "layers, block, whole",
    [
        ("/m.1/a/Conv /m.1/b/Conv /m.2/Conv", branch("/m.1/Add", "/m.1/a/Conv /m.1/b/Conv"), True),
        ("/m.1/a/Conv /m.1/b/Conv /m.2/Conv", branch("/m.1/Add", "/m.1/b/Conv"), False),
        ("/m.1/a/Conv /m.10/Conv", branch("/m.1/Add", "/m.1/a/Conv"), True),
        ("/m.1/a/Conv /m.2/Conv", branch("/m.1/Add", "/m.1/a/Conv /m.2/Conv"), False),
        ("/m.1/a/Conv", branch("plain", "/m.1/a/Conv"), False),
        ("/m.1/a/Conv", branch("/m.3/Add", "/m.1/a/Conv"), False),
        ("/m.1/a/Conv /m.1/b/Conv /m.2/Conv", chain("/m.1/a/Conv /m.1/b/Conv"), True),
        ("/m.1/a/Conv /m.1/b/Conv /m.1/c/Conv", chain("/m.1/a/Conv /m.1/b/Conv"), False),
        ("/m.1/a/Conv /m.1/b/Conv", chain("/m.1/a/Conv"), True),
        ("/m/a/Conv /n/b/Conv", chain("/m/a/Conv /n/b/Conv"), False),
    ],
)
def test_whole_modules(layers: str, block: Block, whole: bool) -> None:
    graph = graph_of(layers, block.node if block.kind == "branch" else "")
    assert module_blocks(graph, [block]) == ([block] if whole else [])


def test_parts_and_layers_are_no_modules() -> None:
    graph = graph_of("/m.1/a/Conv", "/m.1/Add")
    others = [Block(kind, "/m.1/Add", 1, "", ("/m.1/a/Conv",), ("/m.1/a/Conv",)) for kind in ("part", "layer")]
    assert module_blocks(graph, others) == []


@pytest.mark.parametrize(
    "name, path",
    [
        ("/model.2/cv1/conv/Conv", "model.2.cv1.conv"),
        ("/model.22/cv2.0/cv2.0.1/Conv", "model.22.cv2.0.1"),
        ("/model.22/cv2/cv2.0/Conv", "model.22.cv2.0"),
        ("/model.2/cv1/cv10/Conv", "model.2.cv1.cv10"),
        ("/Conv", "Conv"),
        ("Conv_3", "Conv_3"),
    ],
)
def test_a_path_from_an_exporters_name(name: str, path: str) -> None:
    assert module_of(name) == path


LAYERS = ["m.1.cv1.conv", "m.1.cv1.bn", "m.1.cv2.conv", "m.2.conv", "head"]


@pytest.mark.parametrize(
    "removed, found",
    [
        (["m.1.cv1.conv"], ["m.1.cv1.conv"]),
        (["m.1.cv1.conv", "m.1.cv1.bn"], ["m.1.cv1"]),
        (["m.1.cv2.conv"], ["m.1.cv2"]),
        (["m.2.conv", "m.1.cv2.conv"], ["m.2", "m.1.cv2"]),
        (["m.1.cv1.conv", "m.1.cv1.bn", "m.1.cv2.conv"], ["m.1.cv1", "m.1.cv2"]),
        (["head"], ["head"]),
        ([], []),
    ],
)
def test_layers_as_the_modules_that_they_are_all_of(removed: list[str], found: list[str]) -> None:
    assert as_modules(removed, LAYERS) == found


@pytest.mark.parametrize(
    "gone, left, found, rest",
    [
        (["a.b.w", "a.b.v"], ["a.c.w"], ["a.b"], []),
        (["a.b.w"], ["a.b.v", "a.c.w"], [], ["a.b.w"]),
        (["a.b.w", "a.c.w"], ["ab.w"], ["a"], []),
        (["a.b.w", "w"], ["a.c.w"], ["a.b"], ["w"]),
        (["l.0.w", "l.1.w"], ["a.b.w"], ["l.0", "l.1"], []),
    ],
)
def test_the_outermost_modules_that_went(gone: list[str], left: list[str], found: list[str], rest: list[str]) -> None:
    modules = ["", "a", "a.b", "a.c", "ab", "l", "l.0", "l.1"]
    assert gone_modules(gone, left, modules, frozenset(["l"])) == (found, rest)
