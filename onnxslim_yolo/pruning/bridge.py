"""What of a block is linear in what stays at its place: how much of it compensation can bring back, before it is tried.

With e the block's contribution and x what stays beside it (the other operands of the sum or the Concat; a chain's
beginning), over calibration positions

    A = Σ_ex (Σ_xx + λI)⁻¹        c = μ_e − A·μ_x

is the least-squares prediction of e. Readers that are fitted to a block that went (see `pruning.refit`) come to compute
with A·x + c in its place, so that a block is worth what the detector loses with that, not with nothing there. Of a
chain e is what its end is more than its beginning: A is then the least that has to be added to an identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.blocks import Block, end_of, node_named
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    Tensor,
    copy_graph,
    is_constant,
    replace_uses,
    set_input,
    tensors,
    toposort,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.calibration import Images, thin
from onnxslim_yolo.pruning.fold_removed import ridge_regression
from onnxslim_yolo.pruning.refit import SAMPLES_PER_COLUMN

RIDGE = 1e-2
"""λ, as a share of the mean diagonal of Σ_xx: that of `reconstruct`."""


@dataclass(frozen=True)
class Bridge:
    """A block's contribution as a 1×1 convolution of what stays.

    Attributes:
        matrix: A, (channels of the block's end, channels of what stays).
        shift: c, one value a channel of the end.
        left: the share of the end's variance that it does not tell, summed over channels.
    """

    matrix: Array
    shift: Array
    left: float


@dataclass
class _Sums:
    """Σ over positions of x, e, x·xᵀ, e·xᵀ; and of e², end and end² per channel."""

    count: int
    parts: list[Array]


def bridges(model: Model, blocks: Sequence[Block], images: Images, ridge: float = RIDGE) -> list[Bridge | None]:
    """The bridge of every block; None where it ends in no feature map, or there are too few positions."""
    from onnxslim_yolo.runtime.onnx_run import session

    copy = copy_graph(model.graph)
    name, taps = Namer(copy), dict[str, str]()
    wanted = [_places(copy, block) for block in blocks]
    for end, bases in filter(None, wanted):
        for tensor in (end, *bases):
            if tensor.name not in taps:
                taps[tensor.name] = thin(copy, tensor, 1, name)
    if not taps:
        return [None] * len(blocks)
    copy.outputs = [gs.Variable(tap, np.float32) for tap in taps.values()]
    copy.nodes = toposort(copy)
    runner, feed = session(Model(graph=copy), optimise=True, threads=1), model.graph.inputs[0].name
    sums: list[_Sums | None] = [None] * len(blocks)
    for image in images:
        found = dict(zip(taps, runner.run([*taps.values()], {feed: image}), strict=True))
        rows = {key: np.moveaxis(v, 1, -1).reshape(-1, v.shape[1]).astype(np.float64) for key, v in found.items()}
        for k, place in enumerate(wanted):
            if place is not None:
                x = np.concatenate([rows[tensor.name] for tensor in place[1]], axis=1)
                sums[k] = _add(sums[k], x, rows[place[0].name], chain=blocks[k].kind == "chain")
    return [None if one is None else _solve(one, ridge) for one in sums]


def bridged(model: Model, block: Block, bridge: Bridge) -> Model:
    """A copy of the model in which the bridge stands in the block's place. The block's nodes stay, unread."""
    made = Model(graph=copy_graph(model.graph), metadata=dict(model.metadata), source=model.source)
    graph, name = made.graph, Namer(made.graph)
    place, node = _places(graph, block), node_named(graph, block.node)
    if place is None or node is None:
        raise ValueError(f"there is no block at '{block.node}'")
    end, bases = place
    matrix = bridge.matrix + np.eye(len(bridge.shift)) if block.kind == "chain" else bridge.matrix
    x = bases[0]
    if len(bases) > 1:
        x = gs.Variable(name(f"{end.name}_rest"), end.dtype, None)
        graph.nodes.append(gs.Node("Concat", name(f"{node.name}_rest"), {"axis": 1}, list(bases), [x]))
    result = gs.Variable(name(f"{end.name}_bridged"), end.dtype, end.shape)
    weight, bias = (np.asarray(value, np.float32) for value in (matrix[:, :, None, None], bridge.shift))
    constants = [gs.Constant(name(f"{node.name}_bridge_{key}"), v) for key, v in (("weight", weight), ("bias", bias))]
    if block.index < 0:
        replace_uses(graph, end, result)
    else:
        set_input(node, block.index, result)
    graph.nodes.append(
        gs.Node("Conv", name(f"{node.name}_bridge"), {"kernel_shape": [1, 1]}, [x, *constants], [result])
    )
    graph.nodes = toposort(graph)
    return made


def _places(graph: gs.Graph, block: Block) -> tuple[Tensor, list[Tensor]] | None:
    """A block's end, and what stays beside it; None where these are no feature maps of one size in float32."""
    node = node_named(graph, block.node)
    if node is None or block.kind == "layer":
        return None
    end = end_of(block, node)
    bases = [t for t in tensors(graph) if t.name == block.start][:1] if block.kind == "chain" else _beside(block, node)
    maps = [t for t in bases if t.shape is not None and end.shape is not None and len(end.shape) == 4]
    same = [t for t in maps if len(t.shape) == 4 and t.shape[2:] == end.shape[2:] and isinstance(t.shape[1], int)]
    return (end, same) if same and end.dtype in (None, np.float32) and isinstance(end.shape[1], int) else None


def _beside(block: Block, node: Node) -> list[Tensor]:
    return [t for k, t in enumerate(node.inputs) if k != block.index and not is_constant(t)]


def _add(sums: _Sums | None, x: Array, end: Array, *, chain: bool) -> _Sums:
    e = end - x if chain else end
    parts = [
        x.sum(axis=0),
        e.sum(axis=0),
        x.T @ x,
        e.T @ x,
        (e * e).sum(axis=0),
        end.sum(axis=0),
        (end * end).sum(axis=0),
    ]
    if sums is None:
        return _Sums(len(x), parts)
    return _Sums(sums.count + len(x), [one + two for one, two in zip(sums.parts, parts, strict=True)])


def _solve(sums: _Sums, ridge: float) -> Bridge | None:
    mean_x, mean_e, xx, ex, ee, mean_end, ends = (part / sums.count for part in sums.parts)
    if sums.count < SAMPLES_PER_COLUMN * len(mean_x):
        return None
    inner, cross = xx - np.outer(mean_x, mean_x), ex - np.outer(mean_e, mean_x)
    if not (np.isfinite(inner).all() and np.isfinite(cross).all() and np.isfinite(ends).all()):
        return None
    matrix = ridge_regression(cross, inner, ridge)
    # Var(e − A·x), as A is not quite the least squares' own.
    told = 2 * (matrix * cross).sum() - ((matrix @ inner) * matrix).sum()
    left = (ee - mean_e**2).sum() - told
    spread = (ends - mean_end**2).sum()
    return Bridge(matrix, mean_e - matrix @ mean_x, float(np.clip(left / max(spread, 1e-30), 0.0, None)))
