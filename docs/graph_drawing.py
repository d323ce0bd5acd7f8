"""Graphs as SVG, for `draw_passes`: a box a node, in rows by distance from the input, channels at the edges."""

from __future__ import annotations

from html import escape

from onnxslim_yolo.ir.graph import Node, Tensor, is_constant, is_empty, producer, toposort
from onnxslim_yolo.ir.model import Model

Box = tuple[str, str, bool]
"""Title, detail, whether it is outlined."""
Drawing = tuple[str, float, float]
"""SVG elements, width, height."""
WIDE, HIGH, ACROSS, DOWN = 118, 38, 16, 28


def drawn(model: Model, touched: set[str], planned: dict[str, tuple[int, int]]) -> Drawing:
    """A model; outlined what has a touched tensor; `planned`: layer or weight → channels, and how many are kept."""
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


def beside(left: Drawing, right: Drawing, title: str) -> str:
    """Two drawings as one picture: before, after."""
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
