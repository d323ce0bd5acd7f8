"""Draws what a pass does: a small graph before and after it, as SVG. `python docs/draw_passes.py PASS > pass.svg`.

Nothing is drawn by hand: an example is ONNX text, the pass is run on it, boxes are its nodes and the numbers at edges
their channels. Outlined is what the journal says has changed.
"""

from __future__ import annotations

import math
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from graph_drawing import beside, drawn
from onnx import numpy_helper

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
    "conv-before-split": Example(
        "float[8,3,3,3] w, float[4,4,3,3] v, int64[2] at = {4,4}",
        "c = Conv<pads=[1,1,1,1]> (x, w) r = Relu (c) a, b = Split<axis=1> (r, at)"
        " d = Conv<pads=[1,1,1,1]> (b, v) y = Concat<axis=1> (a, d)",
        "conv-before-split",
        "Each part has a convolution of its own, and nothing is split.",
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
    left = drawn(before, touched, planned)
    right = drawn(model, touched, _planned(model))
    return beside(left, right, f"{name}: {example.caption}")


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
    if model.last_plan is None:
        return {}
    groups = model.last_plan.group_plans()
    return {member: (group.width, group.kept) for group in groups for member in group.members}


if __name__ == "__main__":
    sys.stdout.write(pictures(sys.argv[1]) + "\n")
