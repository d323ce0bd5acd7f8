"""Folding chains of per-channel affine nodes: into the layer before it, else into those behind it, else into fewer.

What `fold-bn` (chains with a BatchNorm) and `fold-affine` (chains without) share; `_absorb` has the algebra.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.affine import Chain, affine_chains
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    Tensor,
    consumers,
    detach,
    is_graph_output,
    producer,
    replace_uses,
    revalue,
    set_input,
    sole_consumer,
    sweep,
    toposort,
)
from onnxslim_yolo.ops.norms import is_batch_norm
from onnxslim_yolo.rewrites.absorber import Absorbed, absorb_after, absorb_before, apply, cast


def fold_chains(graph: gs.Graph, namer: Namer, *, with_batch_norm: bool) -> int:
    """Fold all chains with a BatchNorm, or all without, until nothing is left to fold. Returns how many."""
    total = 0
    while True:
        chains = [chain for chain in affine_chains(graph) if chain.has_batch_norm == with_batch_norm]
        folded = sum(_fold_chain(graph, chain, namer) for chain in chains)
        if not folded:
            return total
        sweep(graph)
        graph.nodes = toposort(graph)
        total += folded


def _fold_chain(graph: gs.Graph, chain: Chain, namer: Namer) -> bool:
    """Fold the chain where that is exact and saves a node. Returns whether it did."""
    return (
        _fold_into_producer(graph, chain, namer)
        or _fold_into_consumers(graph, chain, namer)
        or _shorten(graph, chain, namer)
    )


def _fold_into_producer(graph: gs.Graph, chain: Chain, namer: Namer) -> bool:
    node = producer(chain.source)
    if node is None or sole_consumer(graph, chain.source) is None:
        return False
    absorbed = absorb_after(node, chain.affine, chain.axis)
    if absorbed is None or (absorbed.left is not None and len(chain.nodes) < 2):
        return False
    source, output = chain.source, chain.output
    _detach_all(chain)
    apply(absorbed, namer)
    if absorbed.left is None:
        node.outputs = [output]
    else:
        scaled = _renamed(source, "scaled", namer)
        node.outputs = [scaled]
        graph.nodes.append(_add(scaled, absorbed.left, chain, output, namer))
    return True


def _fold_into_consumers(graph: gs.Graph, chain: Chain, namer: Namer) -> bool:
    readers = consumers(chain.output)
    if not readers or is_graph_output(graph, chain.output):
        return False
    plans: list[Absorbed] = []
    for reader in readers:
        uses = [index for index, tensor in enumerate(reader.inputs) if tensor is chain.output]
        absorbed = absorb_before(reader, chain.affine, chain.axis) if uses == [0] else None
        if absorbed is None:
            return False
        plans.append(absorbed)
    left = [plan.left for plan in plans if plan.left is not None]
    # One reader that is padded leaves its shift to an Add in front: then all must share that Add, and it must pay.
    if left and (len(left) < len(plans) or len(chain.nodes) < 2):
        return False
    source, output = chain.source, chain.output
    _detach_all(chain)
    read = _renamed(output, "shifted", namer) if left else source
    for plan in plans:
        apply(plan, namer)
        set_input(plan.node, 0, read)
    if left:
        graph.nodes.append(_add(source, left[0], chain, read, namer))
    return True


def _renamed(tensor: Tensor, how: str, namer: Namer) -> gs.Variable:
    """A tensor in another one's place, that is something else and must not bear its name."""
    return gs.Variable(namer(f"{tensor.name}_{how}"), tensor.dtype, tensor.shape)


def _shorten(graph: gs.Graph, chain: Chain, namer: Namer) -> bool:
    needed = 1 if chain.has_batch_norm else chain.affine.scales + chain.affine.shifts
    if len(chain.nodes) <= needed:
        return False
    if chain.has_batch_norm:
        return _as_one_batch_norm(chain)
    dtype = _dtype(chain)
    scale, shift = cast(chain.affine.scale, dtype), cast(chain.affine.shift, dtype)
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return False
    source, output = chain.source, chain.output
    _detach_all(chain)
    if not needed:
        replace_uses(graph, output, source)
        return True
    if chain.affine.scales:
        scaled = output if needed == 1 else _renamed(output, "scaled", namer)
        graph.nodes.append(_elementwise("Mul", source, _along(scale, chain, output), scaled, namer))
        source = scaled
    if chain.affine.shifts:
        graph.nodes.append(_add(source, shift, chain, output, namer))
    return True


def _as_one_batch_norm(chain: Chain) -> bool:
    """γ·(x - μ)/√(σ² + ε) + β with μ = 0, σ² = 1, ε = 0."""
    norm = next(node for node in chain.nodes if is_batch_norm(node))
    source, output, dtype = chain.source, chain.output, norm.inputs[1].dtype
    channels = norm.inputs[1].shape[0]
    wide = chain.affine.widened(channels)
    values = [cast(v, dtype) for v in (wide.scale, wide.shift, np.zeros(channels), np.ones(channels))]
    if not all(np.isfinite(v).all() for v in values):
        return False
    for index, value in enumerate(values, start=1):
        revalue(norm, index, value)
    parameters = list(norm.inputs[1:])
    _detach_all(chain)
    norm.inputs, norm.outputs = [source, *parameters], [output]
    norm.attrs["epsilon"] = 0.0
    return True


def _add(source: Tensor, shift: Array, chain: Chain, output: Tensor, namer: Namer) -> Node:
    return _elementwise("Add", source, _along(shift, chain, output), output, namer)


def _elementwise(op: str, source: Tensor, values: Array, output: Tensor, namer: Namer) -> Node:
    stem = f"{output.name}_{op.lower()}"
    constant = gs.Constant(namer(f"{stem}_constant"), values)
    return gs.Node(op, namer(stem), inputs=[source, constant], outputs=[output])


def _along(values: Array, chain: Chain, like: Tensor) -> Array:
    """Per-channel values shaped to broadcast along the chain's axis."""
    if values.size == 1:
        return values.reshape(())
    return values.reshape(-1, *(1,) * (len(like.shape) - 1 - chain.axis))


def _dtype(chain: Chain) -> np.dtype[np.generic]:
    constants = (t for t in chain.nodes[0].inputs if isinstance(t, gs.Constant))
    dtype: np.dtype[np.generic] = next(constants).values.dtype
    return dtype


def _detach_all(chain: Chain) -> None:
    for node in chain.nodes:
        detach(node)
