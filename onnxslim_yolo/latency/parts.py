"""Whether a convolution whose result is split is faster part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.parted import Parted
from onnxslim_yolo.latency.layers import LayerKey, describe
from onnxslim_yolo.latency.table import LatencyTable

MARGIN = 0.05
"""Of what the layers take, at least so much has to be gained: less is what a table is off by."""


def worth_parting(graph: gs.Graph, places: Sequence[Parted], table: LatencyTable) -> list[Parted]:
    """The places that are predicted to be faster part by part. A place whose sizes are not known is none.

    Nor is one with a part that does not fill the runtime's blocks: beside others it is read in plain order anyway.
    """
    keys = {id(layer.node): layer.key for layer in describe(graph)}
    return [place for place in places if _gains(place, keys, table)]


def _gains(place: Parted, keys: dict[int, LayerKey], table: LatencyTable) -> bool:
    convolution, split = keys.get(id(place.convolution)), keys.get(id(place.split))
    if convolution is None or split is None or any(width % table.blocks for width in place.widths):
        return False
    between = [keys[id(node)] for node in place.between if id(node) in keys]
    whole = table.predict_layers([convolution, *between, split])
    parts = sum(
        table.predict(replace(convolution, outs=(width,)))
        + table.predict_layers(replace(key, ins=(width,) * len(key.ins), outs=(width,)) for key in between)
        for width in place.widths
    )
    return parts < (1 - MARGIN) * whole
