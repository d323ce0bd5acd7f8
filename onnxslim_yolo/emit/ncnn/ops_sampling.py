"""Sampling at computed positions: deformable convolution and grids."""

from __future__ import annotations

from onnxslim_yolo.emit.ncnn.format import Param, Weight
from onnxslim_yolo.emit.ncnn.lower import Lower, Lowering, unsupported
from onnxslim_yolo.emit.ncnn.ops_nn import constant_weight, spatial_size, window
from onnxslim_yolo.emit.ncnn.prepare import shape_of
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Node, has_input, input_constant
from onnxslim_yolo.ops.linear import groups_of


def deform_conv(low: Lowering, node: Node) -> None:
    """DeformableConv2D of the map, its offsets and, if there is one, its mask; ncnn has neither kind of groups."""
    source, offset, weight, bias = (
        low.input(node, 0),
        low.input(node, 2),
        constant_weight(node, 1),
        input_constant(node, 3),
    )
    out_shape = shape_of(node.outputs[0], node)
    if len(source.shape) != 4 or source.shape[0] != 1 or weight.ndim != 4:
        raise unsupported(node, f"the input has the shape {source.shape}, expected (1, C, H, W)")
    if groups_of(node) != 1 or int(attribute(node, "offset_group")) != 1:
        raise unsupported(node, "it has groups, ncnn's has none")
    if has_input(node, 3) and bias is None:
        raise unsupported(node, "the bias is not a constant")
    win = window(node, weight.shape[2:], spatial_size(source.shape), spatial_size(out_shape))
    params: dict[int, Param] = {
        0: out_shape[1], 1: win.kernel[1], 11: win.kernel[0], 2: win.dilation[1], 12: win.dilation[0],
        3: win.stride[1], 13: win.stride[0], 4: win.pads[1], 14: win.pads[0], 15: win.pads[3], 16: win.pads[2],
        5: int(bias is not None), 6: weight.size,
    }  # fmt: skip
    given = [source, offset, *([low.input(node, 4)] if has_input(node, 4) else [])]
    maps = [low.view(value, value.shape[1:]) for value in given]
    weights = [Weight(weight, tagged=True), *([Weight(bias)] if bias is not None else [])]
    low.emit(node, "DeformableConv2D", maps, out_shape[1:], params, weights, to=node.outputs[0])


_SAMPLINGS = {"linear": 1, "bilinear": 1, "nearest": 2, "cubic": 3, "bicubic": 3}
_OUTSIDES = {"zeros": 1, "border": 2, "reflection": 3}


def grid_sample(low: Lowering, node: Node) -> None:
    """GridSample of a map at positions (h, w, 2)."""
    source, grid, out_shape = low.input(node, 0), low.input(node, 1), shape_of(node.outputs[0], node)
    if len(source.shape) != 4 or source.shape[0] != 1:
        raise unsupported(node, f"the input has the shape {source.shape}, expected (1, C, H, W)")
    mode, outside = (attribute(node, key) for key in ("mode", "padding_mode"))
    mode, outside = (v.decode() if isinstance(v, bytes) else str(v) for v in (mode, outside))
    params: dict[int, Param] = {0: _SAMPLINGS[mode], 1: _OUTSIDES[outside], 2: int(attribute(node, "align_corners"))}
    views = [low.view(source, source.shape[1:]), low.view(grid, grid.shape[1:])]
    low.emit(node, "GridSample", views, out_shape[1:], params, to=node.outputs[0])


SAMPLING_OPS: dict[str, Lower] = {"DeformConv": deform_conv, "GridSample": grid_sample}
