"""Whether a convolution whose result is split is faster part by part: for the pass, and where widths are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.parted import Parted
from onnxslim_yolo.latency.costs import Costs
from onnxslim_yolo.latency.layers import Family, Layer, describe
from onnxslim_yolo.latency.table import LatencyTable, Widths

MARGIN = 0.05
"""Of what the layers take, at least so much has to be gained: less is what a table is off by."""


@dataclass(frozen=True)
class Parting:
    """A convolution, what is computed of its result, and the Split of that, apart from their widths.

    Attributes:
        between: what lies between the two, with the number of maps that each reads.
    """

    convolution: Family
    between: tuple[tuple[Family, int], ...]
    split: Family

    def price(self, ins: Widths, outs: Widths, costs: Costs) -> float:
        """What it costs more that parts of these widths are computed one by one, where they will be: 0 or less.

        They will not where that gains little, or where a part does not fill the runtime's blocks: beside others it is
        read in plain order anyway. Nor does it change anything but time.
        """
        if not isinstance(costs, LatencyTable) or any(width % costs.blocks for width in outs):
            return 0.0
        whole = self._computed(ins, (sum(outs),), costs) + costs.lookup(self.split, (sum(outs),), outs)
        parts = self._computed(ins, outs, costs)
        return parts - whole if parts < (1 - MARGIN) * whole else 0.0

    def _computed(self, ins: Widths, outs: Widths, table: LatencyTable) -> float:
        """µs of the convolution, and of what follows it, for each of these widths."""
        return sum(
            table.lookup(self.convolution, ins, (width,))
            + sum(table.lookup(family, (width,) * maps, (width,)) for family, maps in self.between)
            for width in outs
        )


def parting_of(place: Parted, layer_of: Mapping[int, Layer]) -> Parting | None:
    """A place as what its layers are, by the nodes' `id`s; None where the sizes of one are not known."""
    convolution, split = layer_of.get(id(place.convolution)), layer_of.get(id(place.split))
    if convolution is None or split is None or split.key.family.kind != "split":
        return None
    between = [layer_of[id(node)].key for node in place.between if id(node) in layer_of]
    return Parting(convolution.key.family, tuple((key.family, len(key.ins)) for key in between), split.key.family)


def worth_parting(graph: gs.Graph, places: Sequence[Parted], table: LatencyTable) -> list[Parted]:
    """The places that are predicted to be faster part by part. A place whose sizes are not known is none."""
    layer_of = {id(layer.node): layer for layer in describe(graph)}
    found = ((place, parting_of(place, layer_of)) for place in places)
    return [
        place
        for place, parting in found
        if parting is not None and parting.price(layer_of[id(place.convolution)].key.ins, place.widths, table) < 0
    ]
