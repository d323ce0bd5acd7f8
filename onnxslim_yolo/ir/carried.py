"""What has been carried out on a model, in its source's terms: what plan.json says, and what only passes ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.origins import Cut, Shape

if TYPE_CHECKING:
    from onnxslim_yolo.analysis.blocks import Block
    from onnxslim_yolo.pruning.plan import Plan


@dataclass(frozen=True)
class Carried:
    """What is no longer as it was. A pass that carries something out makes another one.

    Attributes:
        kept: initializer of the source → axis → kept indices.
        shapes: initializer of the source → its shape before and after; None for after where it lost channels that
            `kept` cannot tell.
        removed_nodes: names of layers of the source that were taken out whole.
        blocks: the blocks that were taken out though they contribute something.
        bridged: the removed layers of those that were chains: what they were given takes the place of what they gave.
        layers: the names of all layers that the source had when the first of them was taken out.
        came: the graph as it was before layers were taken out, for whoever needs what it cost; None: as it is.
        gone: how many prunable channels went with those layers.
        lossless: whether nothing went that contributes anything.
        plan: the plan that was carried out last.
    """

    kept: Mapping[str, Cut] = field(default_factory=dict)
    shapes: Mapping[str, tuple[Shape, Shape | None]] = field(default_factory=dict)
    removed_nodes: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    bridged: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    came: gs.Graph | None = None
    gone: int = 0
    lossless: bool = True
    plan: Plan | None = None
