"""Draws what a pass does: a small graph before and after it, as SVG. `python docs/draw_passes.py PASS > pass.svg`.

Nothing is drawn by hand: an example is ONNX text, the pass is run on it, boxes are its nodes and the numbers at edges
their channels. Outlined is what the journal says has changed.
"""

from __future__ import annotations

import math
import sys
import tempfile
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from onnxslim_yolo.ir.graph import Node, Tensor, is_constant, is_empty, producer, toposort
from onnxslim_yolo.ir.journal import changes, picture
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import Quantise, Reconstruct
from onnxslim_yolo.passes.protocol import Pass
from onnxslim_yolo.pipeline import parse_pipeline
from onnxslim_yolo.quantisation.qdq import as_int8


@dataclass(frozen=True)
class Example:
    """A graph and what is run on it.

    Attributes:
        weights, body: as ONNX text. out: declared outputs. spec: the pass. first: passes in front of it.
        values: weights that are not random. caption: what to see.
    """

    weights: str
    body: str
    spec: str
    caption: str
    first: str = ""
    out: str = "float[1,a,b,c] y"
    image: str = "float[1,3,16,16] x"
    values: dict[str, np.ndarray] = field(default_factory=dict)
    opset: int = 17


def _norm(name: str, width: int) -> str:
    return ", ".join(f"float[{width}] {name}_{leaf}" for leaf in ("gamma", "beta", "mean", "var"))


def _gamma(name: str, width: int, dead: int) -> dict[str, np.ndarray]:
    """γ and β of which the last few are zero."""
    alive = np.arange(width) < width - dead
    return {f"{name}_gamma": np.linspace(1.5, 0.3, width) * alive, f"{name}_beta": 0.1 * alive}


_BN = "{0} = BatchNormalization ({1}, {0}_gamma, {0}_beta, {0}_mean, {0}_var)"
_WEIGHTS = f"float[8,3,3,3] w1, {_norm('n', 8)}, float[6,8,3,3] w2, float[6] b2"
_CHAIN = f"c = Conv<pads=[1,1,1,1]> (x, w1) {_BN.format('n', 'c')} r = Relu (n) y = Conv<pads=[1,1,1,1]> (r, w2, b2)"

EXAMPLES: dict[str, Example] = {
    "canonicalise": Example(
        "float[4,3,3,3] w, int64[4] to = {1,4,-1,14}, float one = {1}",
        "i = Identity (x) c = Conv (i, w) s = Shape (c) d = Reshape (c, s) m = Mul (d, one) y = Relu (m)",
        "canonicalise",
        "What does nothing goes, and shapes that are known are constants.",
    ),
    "shuffle-to-gather": Example(
        "float[8,3,1,1] w, float[8,8,1,1] v, int64[5] apart = {1,2,4,16,16}, int64[4] whole = {1,8,16,16}",
        "c = Conv (x, w) s = Reshape (c, apart) t = Transpose<perm=[0,2,1,3,4]> (s)"
        " g = Reshape (t, whole) y = Conv (g, v)",
        "shuffle-to-gather",
        "A channel shuffle is one Gather, which labels pass through.",
    ),
    "focus-to-conv": Example(
        "float[8,12,3,3] w",
        "s = SpaceToDepth<blocksize=2> (x) y = Conv<pads=[1,1,1,1]> (s, w)",
        "focus-to-conv",
        "The slices and the convolution become one convolution with stride 2.",
    ),
    "spp-to-sppf": Example(
        "float[4,16,1,1] w, float[4,3,1,1] v",
        "c = Conv (x, v) a = MaxPool<kernel_shape=[5,5], pads=[2,2,2,2]> (c)"
        " b = MaxPool<kernel_shape=[9,9], pads=[4,4,4,4]> (c)"
        " d = MaxPool<kernel_shape=[13,13], pads=[6,6,6,6]> (c) k = Concat<axis=1> (c, a, b, d) y = Conv (k, w)",
        "spp-to-sppf",
        "Large pools are chains of small ones, with equal results.",
    ),
    "drop-dead": Example(
        f"float[8,3,3,3] w1, float[8,8,3,3] w2, {_norm('n', 8)}, float[4,8,1,1] w3",
        f"a = Conv<pads=[1,1,1,1]> (x, w1) c = Conv<pads=[1,1,1,1]> (a, w2) {_BN.format('n', 'c')}"
        " s = Add (a, n) y = Conv (s, w3)",
        "drop-dead",
        "The branch's γ and β are zero: the shortcut alone is left.",
        values=_gamma("n", 8, 8),
    ),
    "drop-blocks": Example(
        f"float[8,3,3,3] w1, float[8,8,3,3] w2, {_norm('n', 8)}, {_norm('m', 8)}, float[4,8,1,1] w3",
        f"c = Conv<pads=[1,1,1,1]> (x, w1) {_BN.format('m', 'c')} a = Relu (m) d = Conv<pads=[1,1,1,1]> (a, w2)"
        f" {_BN.format('n', 'd')} s = Add (a, n) y = Conv (s, w3)",
        "drop-blocks{target=0.5x cost=macs}",
        "The branch matters least for what it costs: it goes, and what it yields on average stays as a constant.",
        values={"n_gamma": np.full(8, 0.02)},
    ),
    "prune": Example(
        _WEIGHTS,
        _CHAIN,
        "prune{ratio=0.5}",
        "The graph stays; the plan says how many channels of each tensor are to stay.",
        values=_gamma("n", 8, 3),
    ),
    "prune-to": Example(
        _WEIGHTS,
        _CHAIN,
        "prune-to{target=0.6x cost=macs}",
        "The graph stays; the plan says how many channels of each tensor are to stay.",
        values=_gamma("n", 8, 3),
    ),
    "snap": Example(
        _WEIGHTS,
        _CHAIN,
        "snap{to=4}",
        "What the plan keeps is moved to a multiple of 4.",
        first="prune{ratio=0.4}",
        values=_gamma("n", 8, 3),
    ),
    "absorb": Example(
        _WEIGHTS,
        _CHAIN,
        "absorb",
        "The bias of the reader takes over what the channels that will go contribute on average.",
        first="prune{ratio=0.5}",
        values=_gamma("n", 8, 0),
    ),
    "reconstruct": Example(
        _WEIGHTS,
        _CHAIN,
        "reconstruct",
        "The reader's weights and bias are fitted so that the channels that stay make up for those that will go.",
        first="prune{ratio=0.5}",
        values=_gamma("n", 8, 0),
    ),
    "slice": Example(
        _WEIGHTS,
        _CHAIN,
        "slice",
        "Every tensor that holds a channel loses it.",
        first="prune{ratio=0.5}",
        values=_gamma("n", 8, 3),
    ),
    "reparam": Example(
        "float[4,4,3,3] w3, float[4,4,1,1] w1, float[4,3,1,1] w",
        "i = Conv (x, w) a = Conv<pads=[1,1,1,1]> (i, w3) b = Conv (i, w1) s = Add (a, b) t = Add (s, i) y = Relu (t)",
        "reparam",
        "Branches that are linear and add up are one convolution.",
    ),
    "fold-bn": Example(
        f"float[8,3,3,3] w1, {_norm('n', 8)}",
        f"c = Conv (x, w1) {_BN.format('n', 'c')} y = Relu (n)",
        "fold-bn",
        "The normalisation is in the convolution's weight and bias.",
    ),
    "fold-affine": Example(
        "float[8,3,3,3] w1, float[8] b1, float[1,8,1,1] k, float[1,8,1,1] o",
        "c = Conv (x, w1, b1) m = Mul (c, k) a = Add (m, o) y = Relu (a)",
        "fold-affine",
        "Scale and shift of each channel are in the convolution's weight and bias.",
    ),
    "conv-before-resize": Example(
        "float[8,3,3,3] w, float[4,16,1,1] v, float[4] s = {1,1,2,2}",
        "a = Conv<strides=[2,2], pads=[1,1,1,1]> (x, w) d = Conv<pads=[1,1,1,1]> (x, w)"
        ' u = Resize<mode="nearest"> (a, , s)'
        " k = Concat<axis=1> (u, d) y = Conv (k, v)",
        "conv-before-resize",
        "The 1×1 convolution of the enlarged part is computed on the small map.",
    ),
    "silu": Example(
        "float[8,3,3,3] w, float three = {3}, float six = {6}, float zero = {0}",
        "c = Conv (x, w) p = Add (c, three) k = Clip (p, zero, six) m = Mul (c, k) y = Div (m, six)",
        "silu",
        "Four nodes spell HardSwish; the opset has a node for it.",
    ),
    "pad-pool": Example(
        "float[8,3,3,3] w, float[8,8,3,3] v, int64[8] p = {0,0,1,1,0,0,1,1}",
        "c = Conv (x, w) d = Pad (c, p) y = Conv (d, v)",
        "pad-pool",
        "The convolution pads by itself.",
    ),
    "quantise": Example(
        "float[8,3,3,3] w, float[8,8,3,3] v",
        "c = Conv (x, w) r = Relu (c) d = Conv (r, v) y = Sigmoid (d)",
        "quantise",
        "Drawn is what is written: whole numbers between the pairs; what comes behind the last layer stays float.",
    ),
    "head": Example(
        "float[21,8,1,1] w, float[8,3,3,3] v, int64[5] apart = {1,3,7,16,16}, int64[3] flat = {1,768,7},"
        " int64[3] parts = {2,2,3}, float two = {2}, float[1,3,16,16,2] grid, float[1,3,1,1,2] anchors,"
        " float stride = {8}",
        "f = Conv<strides=[8,8], pads=[1,1,1,1]> (x, v) c = Conv (f, w) r = Reshape (c, apart)"
        " t = Transpose<perm=[0,1,3,4,2]> (r)"
        " g = Sigmoid (t) xy, wh, score = Split<axis=4> (g, parts)"
        " a = Mul (xy, two) b = Add (a, grid) d = Mul (b, stride)"
        " e = Mul (wh, two) h = Mul (e, e) k = Mul (h, anchors) n = Concat<axis=4> (d, k, score) y = Reshape (n, flat)",
        "head{to=raw}",
        "What decodes boxes is cut off: the network ends at its last convolutions.",
        out="float[1,768,7] y",
        image="float[1,3,128,128] x",
        values={
            "grid": np.broadcast_to(np.stack(np.meshgrid(range(16), range(16)), -1) - 0.5, (1, 3, 16, 16, 2)),
            "anchors": np.array([10, 13, 16, 30, 33, 23]),
        },
    ),
}


def built(example: Example) -> Model:
    """The example's graph, with random weights where none are given."""
    text = (
        f'<ir_version: 8, opset_import: ["" : {example.opset}]> g ({example.image}) => ({example.out})'
        f" <{example.weights}> {{ {example.body} }}"
    )
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    given = {tensor.name for tensor in proto.graph.initializer} | {i.name for i in proto.graph.input}
    made = given | {name for node in proto.graph.node for name in node.output}
    for info in [info for info in proto.graph.value_info if info.name not in made]:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        value = example.values.get(info.name)
        if value is None:
            positive = info.name.endswith(("gamma", "var"))
            value = rng.uniform(0.5, 1.5, shape) if positive else rng.standard_normal(shape) / math.sqrt(shape[-1] * 8)
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32).reshape(shape), info.name))
        proto.graph.value_info.remove(info)
    model = Model.from_onnx(proto)
    reinfer(model.graph)
    return model


def pictures(name: str) -> str:
    """The SVG of a pass's example.

    Raises:
        ValueError: the pass did nothing to it.
    """
    example = EXAMPLES[name]
    model = built(example)
    with tempfile.TemporaryDirectory() as folder:
        (step,) = _passes(example.spec, Path(folder))
        if example.first:
            PassManager(_passes(example.first, Path(folder))).run(model)
        before, earlier, planned = model.copy(), picture(model.graph), _planned(model)
        if not PassManager([step]).run(model)[0].rewrites:
            raise ValueError(f"{name} does nothing to its example")
        model = as_int8(model)
    reinfer(model.graph)
    found = changes(earlier, picture(model.graph))
    touched = {change.tensor for change in found} | {change.after for change in found if change.kind == "renamed"}
    left = _drawn(before, touched, planned)
    right = _drawn(model, touched, _planned(model))
    return _beside(left, right, f"{name}: {example.caption}")


def _passes(spec: str, folder: Path) -> list[Pass]:
    if spec not in ("reconstruct", "quantise"):
        return parse_pipeline(spec)
    from PIL import Image

    rng = np.random.default_rng(0)
    for index in range(10):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / f"{index}.png")
    return [Reconstruct(folder) if spec == "reconstruct" else Quantise(("all",), folder)]


def _planned(model: Model) -> dict[str, tuple[int, int]]:
    """Width and kept channels of tensors, by the name of the layer that makes them, as the plan has it."""
    if model.plan is None:
        return {}
    groups = model.plan.groups or model.plan.group_plans()
    return {member: (group.width, group.kept) for group in groups for member in group.members}


# ---- drawing ----
Box = tuple[str, str, bool]
"""Title, detail, whether it is outlined."""
Drawing = tuple[str, float, float]
"""SVG elements, width, height."""
WIDE, HIGH, ACROSS, DOWN = 118, 38, 16, 28


def _drawn(model: Model, touched: set[str], planned: dict[str, tuple[int, int]]) -> Drawing:
    nodes = toposort(model.graph)
    ranks = _ranks(nodes)
    rows: dict[int, list[str]] = {}
    for key, rank in ranks.items():
        rows.setdefault(rank, []).append(key)
    boxes = {t.name: (t.name, "input", False) for t in model.graph.inputs} | {n.name: _box(n, touched) for n in nodes}
    wide = max(len(row) for row in rows.values())
    width = wide * (WIDE + ACROSS) + 3 * ACROSS
    place: dict[str, tuple[float, float]] = {}
    for rank, row in sorted(rows.items()):
        start = (width - 2 * ACROSS - len(row) * (WIDE + ACROSS) + ACROSS) / 2
        for index, key in enumerate(sorted(row, key=lambda k: _parents_at(k, nodes, place))):
            place[key] = (start + index * (WIDE + ACROSS), rank * (HIGH + DOWN))
    lines = [_edge(node, tensor, place, planned) for node in nodes for tensor in _read(node)]
    shapes = [_rect(boxes[key], *at) for key, at in place.items()]
    return "\n".join(lines + shapes), width, (max(rows) + 1) * (HIGH + DOWN) - DOWN


def _read(node: Node) -> list[Tensor]:
    return [t for t in node.inputs if not is_constant(t) and not is_empty(t)]


def _source(tensor: Tensor) -> str:
    made = producer(tensor)
    return tensor.name if made is None else str(made.name)


def _ranks(nodes: list[Node]) -> dict[str, int]:
    """How far from the input: one below the lowest of what is read."""
    ranks: dict[str, int] = {}
    for node in nodes:
        for tensor in _read(node):
            if producer(tensor) is None:
                ranks[tensor.name] = 0
        ranks[node.name] = 1 + max((ranks[_source(t)] for t in _read(node)), default=0)
    return ranks


def _parents_at(key: str, nodes: list[Node], place: dict[str, tuple[float, float]]) -> float:
    node = next((n for n in nodes if n.name == key), None)
    above = [place[_source(t)][0] for t in _read(node) if _source(t) in place] if node is not None else []
    return sum(above) / len(above) if above else 0.0


def _box(node: Node, touched: set[str]) -> Box:
    weight = next((t for t in node.inputs if is_constant(t) and len(t.shape) == 4), None)
    kernel = node.attrs.get("kernel_shape") or ([*weight.shape[2:]] if weight is not None else [])
    detail = "×".join(str(k) for k in kernel)
    if weight is not None and node.op == "Conv":
        detail = f"{detail}, {weight.shape[1]} → {weight.shape[0]}"
        stride = node.attrs.get("strides", [1])[0]
        detail += f", stride {stride}" if stride != 1 else ""
    names = {t.name for t in (*node.outputs, *node.inputs) if is_constant(t) or t in node.outputs}
    detail = detail if node.op == "Conv" or "Pool" in node.op else ""
    return node.op.replace("Normalization", "Norm"), detail, bool(names & touched)


def _rect(box: Box, x: float, y: float) -> str:
    title, detail, changed = box
    lines = [f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="6" class="{"changed" if changed else "box"}"/>']
    middle = x + WIDE / 2
    lines.append(f'<text x="{middle}" y="{y + (16 if detail else 23)}" class="name">{escape(title)}</text>')
    if detail:
        lines.append(f'<text x="{middle}" y="{y + 30}" class="detail">{escape(detail)}</text>')
    return "".join(lines)


def _edge(
    node: Node, tensor: Tensor, place: dict[str, tuple[float, float]], planned: dict[str, tuple[int, int]]
) -> str:
    (x1, y1), (x2, y2) = place[_source(tensor)], place[node.name]
    x1, x2, y1 = x1 + WIDE / 2, x2 + WIDE / 2, y1 + HIGH
    middle, around = (y1 + y2) / 2, 0.0
    path = f"M{x1},{y1} C{x1},{middle} {x2},{middle} {x2},{y2 - 4}"
    if y2 - y1 > DOWN + HIGH / 2 and abs(x1 - x2) < WIDE / 2:  # past the boxes between
        around = WIDE / 2 + ACROSS
        side = f"{x1 + around * 1.34}"
        path = f"M{x1 + 20},{y1} C{side},{y1 + 16} {side},{y2 - 18} {x2 + 20},{y2 - 4}"
    text = _width(tensor, planned)
    label = f'<text x="{(x1 + x2) / 2 + around + 5}" y="{middle + 4}" class="count">{text}</text>' if text else ""
    return f'<path d="{path}" class="edge" marker-end="url(#tip)"/>{label}'


def _width(tensor: Tensor, planned: dict[str, tuple[int, int]]) -> str:
    shape = tensor.shape
    if shape is None or len(shape) != 4:
        return "" if shape is None else "×".join(map(str, shape[1:]))
    width, made = int(shape[1]), producer(tensor)
    constants = [t.name for t in made.inputs if is_constant(t)] if made is not None else []
    for name in constants:
        for member, (whole, kept) in planned.items():
            if member in (name, made.name) and whole == width and kept != whole:
                return f"{width}, to keep {kept}"
    return str(width)


STYLE = """
.pass-picture { max-width: 100%; height: auto; color: inherit; }
.pass-picture text { fill: currentColor; text-anchor: middle; font: 12px sans-serif; }
.pass-picture .name, .pass-picture .side { font-weight: 600; }
.pass-picture .detail, .pass-picture .count { font-size: 11px; opacity: .8; }
.pass-picture .count { text-anchor: start; }
.pass-picture .box { fill: none; stroke: currentColor; opacity: .45; }
.pass-picture .changed { fill: #0f7b8a22; stroke: #0f9bae; stroke-width: 2; }
.pass-picture .edge { fill: none; stroke: currentColor; opacity: .55; }
"""


def _beside(left: Drawing, right: Drawing, title: str) -> str:
    gap, top = 70, 26
    width, height = left[1] + gap + right[1], top + max(left[2], right[2]) + 8
    return "\n".join(
        [
            f'<svg class="pass-picture" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" role="img" aria-label="{escape(title)}">',
            f"<title>{escape(title)}</title><style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0,0 L8,4 L0,8 z" fill="currentColor"/></marker></defs>',
            f'<text x="{left[1] / 2}" y="14" class="side">before</text>',
            f'<text x="{left[1] + gap + right[1] / 2}" y="14" class="side">after</text>',
            f'<g transform="translate(0,{top})">{left[0]}</g>',
            f'<g transform="translate({left[1] + gap},{top})">{right[0]}</g>',
            "</svg>",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(pictures(sys.argv[1]) + "\n")
