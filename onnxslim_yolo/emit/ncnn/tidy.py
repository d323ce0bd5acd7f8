"""Rewrites on the finished list of layers: fusing activations and pads, merging crops, dead layers, Split layers.

Until `insert_splits` a blob may have any number of readers. `outputs` are the blobs that the network returns: they
count as read, and are never fused away.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from onnxslim_yolo.emit.ncnn.format import FLT_MAX, Layer, Names, Param
from onnxslim_yolo.emit.ncnn.layout import Dims

CONVOLUTIONS = frozenset({"Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise"})
PAD_IDS = (14, 16, 4, 15)
"""A convolution's ids of the top, bottom, left and right pad: the order of Padding's ids 0 to 3."""
POOL_PAD_IDS = (13, 15, 3, 14)


def tidy(layers: Sequence[Layer], outputs: Sequence[str], dims: Mapping[str, Dims]) -> list[Layer]:
    """All rewrites but the Split layers."""
    kept = _fuse_activations(list(layers), outputs)
    kept = _fold_pads(kept, outputs)
    kept = _crops_to_slices(kept, dims)
    return _without_dead(kept, outputs)


def _readers(layers: Sequence[Layer], outputs: Sequence[str]) -> Counter[str]:
    return Counter([*(blob for layer in layers for blob in layer.inputs), *outputs])


def _activation(layer: Layer) -> dict[int, Param] | None:
    """The convolution's parameters 9 and 10 that apply this layer, or None if it is no such activation."""
    params = layer.params
    if layer.type == "ReLU":
        slope = params.get(0, 0.0)
        return {9: 1} if slope == 0.0 else {9: 2, 10: [_number(slope)]}
    if layer.type == "Clip":
        return {9: 3, 10: [_number(params.get(0, -FLT_MAX)), _number(params.get(1, FLT_MAX))]}
    if layer.type == "HardSwish":
        return {9: 6, 10: [_number(params.get(0, 0.2)), _number(params.get(1, 0.5))]}
    code = {"Sigmoid": 4, "Mish": 5}.get(layer.type)
    return None if code is None else {9: code}


def _number(value: Param) -> float:
    assert not isinstance(value, list)
    return float(value)


def _fuse_activations(layers: list[Layer], outputs: Sequence[str]) -> list[Layer]:
    readers = _readers(layers, outputs)
    makers = {blob: layer for layer in layers for blob in layer.outputs}
    kept: list[Layer] = []
    for layer in layers:
        activation = _activation(layer)
        maker = makers[layer.inputs[0]] if activation is not None else None
        if (
            activation is None
            or maker is None
            or maker.type not in CONVOLUTIONS | {"InnerProduct"}
            or 9 in maker.params
            or readers[layer.inputs[0]] != 1
        ):
            kept.append(layer)
            continue
        maker.params.update(activation)
        maker.outputs = list(layer.outputs)
        makers[layer.outputs[0]] = maker
    return kept


def _fold_pads(layers: list[Layer], outputs: Sequence[str]) -> list[Layer]:
    """Let the only reader of a padded blob do the padding, where that is the same."""
    readers = _readers(layers, outputs)
    takers = {blob: layer for layer in layers for blob in layer.inputs}
    kept: list[Layer] = []
    for layer in layers:
        taker = takers.get(layer.outputs[0]) if layer.type == "Padding" else None
        if taker is None or readers[layer.outputs[0]] != 1 or not _absorb_pad(layer, taker):
            kept.append(layer)
            continue
        taker.inputs = list(layer.inputs)
    return kept


def _absorb_pad(pad: Layer, taker: Layer) -> bool:
    params = pad.params
    if params.get(4, 0) != 0 or params.get(7, 0) or params.get(8, 0):
        return False
    sides = [int(_number(params.get(key, 0))) for key in range(4)]
    fill = _number(params.get(5, 0.0))
    if taker.type in ("Convolution", "ConvolutionDepthWise") and fill == 0.0:
        ids: Sequence[int] = PAD_IDS
    elif taker.type == "Pooling" and not taker.params.get(4, 0):
        ids = POOL_PAD_IDS
        average = taker.params[0] == 1
        own = any(taker.params[key] for key in ids)
        if (fill != 0.0 or own) if average else fill > -FLT_MAX:
            return False
        if average:
            taker.params[6] = 1
    else:
        return False
    for key, extra in zip(ids, sides, strict=True):
        taker.params[key] = int(_number(taker.params[key])) + extra
    return True


def _crops_to_slices(layers: list[Layer], dims: Mapping[str, Dims]) -> list[Layer]:
    """Crops of one blob that together are the whole of it become one Slice."""
    groups: defaultdict[tuple[str, int], list[Layer]] = defaultdict(list)
    for layer in layers:
        axes = layer.params.get(11)
        if layer.type == "Crop" and isinstance(axes, list) and len(axes) == 1:
            groups[layer.inputs[0], int(axes[0])].append(layer)
    merged: dict[int, Layer | None] = {}
    for (blob, dim), crops in groups.items():
        spans = sorted((*_span(crop), index) for index, crop in enumerate(crops))
        ends = [0, *(end for _, end, _ in spans)]
        if len(crops) < 2 or [start for start, _, _ in spans] != ends[:-1] or ends[-1] != dims[blob][dim]:
            continue
        names = [crops[index].outputs[0] for _, _, index in spans]
        sizes = [end - start for start, end, _ in spans]
        merged.update((id(crop), None) for crop in crops)
        merged[id(crops[0])] = Layer("Slice", crops[0].name, [blob], names, {0: sizes, 1: dim})
    replaced = [merged.get(id(layer), layer) for layer in layers]
    return [layer for layer in replaced if layer is not None]


def _span(crop: Layer) -> tuple[int, int]:
    starts, ends = crop.params[9], crop.params[10]
    assert isinstance(starts, list) and isinstance(ends, list)
    return int(starts[0]), int(ends[0])


def _without_dead(layers: Sequence[Layer], outputs: Sequence[str]) -> list[Layer]:
    wanted = set(outputs)
    kept: list[Layer] = []
    for layer in reversed(layers):
        if layer.type == "Input" or any(blob in wanted for blob in layer.outputs):
            wanted.update(layer.inputs)
            kept.append(layer)
    return kept[::-1]


def insert_splits(layers: Sequence[Layer], outputs: Sequence[str]) -> tuple[list[Layer], list[str]]:
    """Give each reader of a blob a blob of its own. Returns the layers, and the blobs that are now the outputs.

    The network's outputs are readers too; one that is an input itself passes through a Split as well.
    """
    names = Names([blob for layer in layers for blob in layer.outputs])
    layer_names = Names([layer.name for layer in layers])
    readers = _readers(layers, outputs)
    branches: dict[str, list[str]] = {}
    result: list[Layer] = []
    for layer in layers:
        fresh = [branches[blob].pop(0) if blob in branches else blob for blob in layer.inputs]
        result.append(Layer(layer.type, layer.name, fresh, list(layer.outputs), layer.params, layer.weights))
        for blob in layer.outputs:
            if readers[blob] > 1 or (layer.type == "Input" and blob in outputs):
                branches[blob] = [names(f"{blob}/split{index}") for index in range(readers[blob])]
                split = Layer("Split", layer_names(f"{blob}/split"), [blob], list(branches[blob]))
                result.append(split)
    return result, [branches[blob].pop(0) if blob in branches else blob for blob in outputs]


def rename_blobs(layers: Sequence[Layer], renames: Mapping[str, str]) -> None:
    """Rename blobs everywhere."""
    for layer in layers:
        layer.inputs = [renames.get(blob, blob) for blob in layer.inputs]
        layer.outputs = [renames.get(blob, blob) for blob in layer.outputs]
