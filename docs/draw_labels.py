"""Draws what the channel-label analysis finds in a small graph: `python docs/draw_labels.py > labels.svg`.

Nothing in the picture is drawn by hand: each row is a tensor, each cell one of its channels, the number and colour its
coupled channel as `analyse_channels` found it.
"""

from __future__ import annotations

import sys
from html import escape

import onnx
import onnx.parser

from onnxslim_yolo.analysis.channels import Channels, analyse_channels
from onnxslim_yolo.ir.graph import Node
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import Canonicalise

GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
block (float[1,3,8,8] image) => (float[1,2,8,8] maps)
<float[4,3,1,1] w_stem = {1,1,1,1,1,1,1,1,1,1,1,1}, float[2,2,1,1] w_branch = {1,1,1,1},
 float[2,6,1,1] w_head = {1,1,1,1,1,1,1,1,1,1,1,1}, int64[2] parts = {2,2}>
{
  stem = Conv (image, w_stem)
  left, right = Split <axis=1> (stem, parts)
  branch = Conv (right, w_branch)
  sum = Add (right, branch)
  joined = Concat <axis=1> (left, right, sum)
  maps = Conv (joined, w_head)
}"""
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee9944", "#44aa99")
FROZEN = "#999999"
CELL, ROW, LEFT = 34, 46, 250


def rows(channels: Channels, nodes: list[Node]) -> list[tuple[str, str, list[int]]]:
    """(how it is made, tensor, its coupled channels) of every tensor that has channels, in order."""
    found = []
    for node in nodes:
        for tensor in node.outputs:
            labels = channels.labels_of(tensor)
            if labels is not None:
                made = f"{node.op}({', '.join(t.name for t in node.inputs if not t.name.startswith('parts'))})"
                found.append((made, tensor.name, [int(label) for label in labels.reshape(-1)]))
    return found


def picture() -> str:
    """The SVG's text."""
    model = Model.from_onnx(onnx.parser.parse_model(GRAPH))
    Canonicalise().run(model)
    graph = model.graph
    channels = analyse_channels(graph)
    table = rows(channels, list(graph.nodes))
    width = LEFT + CELL * max(len(labels) for _, _, labels in table) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {ROW * len(table) + 50}" '
        'font-family="sans-serif" font-size="13">',
        "<title>Channel labels of a small block with a split, a shortcut and a concatenation</title>",
        f'<rect width="{width}" height="{ROW * len(table) + 50}" fill="#ffffff"/>',
    ]
    for index, (made, name, labels) in enumerate(table):
        y = 10 + index * ROW
        parts.append(f'<text x="10" y="{y + 15}" font-weight="bold" fill="#222222">{escape(name)}</text>')
        parts.append(f'<text x="10" y="{y + 31}" font-size="11" fill="#555555">= {escape(made)}</text>')
        parts += [_cell(LEFT + k * CELL, y, label, channels) for k, label in enumerate(labels)]
    return "\n".join([*parts, _legend(10, ROW * len(table) + 20), "</svg>"]) + "\n"


def _cell(x: int, y: int, label: int, channels: Channels) -> str:
    frozen = label < 0 or channels.frozen[label] is not None
    colour = FROZEN if frozen else COLOURS[label % len(COLOURS)]
    text = "" if label < 0 else str(label)
    return (
        f'<rect x="{x}" y="{y}" width="{CELL - 4}" height="{CELL - 4}" rx="4" fill="{colour}"/>'
        f'<text x="{x + (CELL - 4) / 2}" y="{y + 20}" text-anchor="middle" fill="#ffffff">{text}</text>'
    )


def _legend(x: int, y: int) -> str:
    lines = (
        "Same number: one coupled channel, kept or removed everywhere at once.",
        "Grey: frozen, it reaches an output.",
    )
    spans = "".join(f'<tspan x="{x}" dy="{16 * bool(k)}">{line}</tspan>' for k, line in enumerate(lines))
    return f'<text x="{x}" y="{y}" font-size="11" fill="#555555">{spans}</text>'


if __name__ == "__main__":
    sys.stdout.write(picture())
