"""Convolution, pooling, normalisation, linear layers and resizing: one function an ONNX operator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.emit.ncnn.format import Param, Weight
from onnxslim_yolo.emit.ncnn.layout import Dims
from onnxslim_yolo.emit.ncnn.lower import Lower, Lowering, Value, int_list, unsupported
from onnxslim_yolo.emit.ncnn.prepare import shape_of
from onnxslim_yolo.ir.attributes import PER_AXIS, attribute, per_axis
from onnxslim_yolo.ir.graph import Array, Node, has_input, input_constant, is_empty
from onnxslim_yolo.ops.linear import LinearLayer, groups_of


@dataclass(frozen=True)
class Window:
    """A sliding window over (h, w): kernel, stride, dilation, and pads as top, left, bottom, right."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]

    def extent(self, axis: int) -> int:
        """How many pixels the dilated kernel spans."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1


def _pair(node: Node, key: str, rank: int) -> tuple[int, int]:
    values = per_axis(node, key, rank)
    return (PER_AXIS[key], values[0]) if rank == 1 else (values[0], values[1])


def window(node: Node, kernel: tuple[int, ...], in_size: Dims, out_size: Dims, *, transposed: bool = False) -> Window:
    """The node's window over one or two spatial axes (a 1-D window gets height 1), auto_pad resolved."""
    rank = len(kernel)
    shape = (1, kernel[0]) if rank == 1 else (kernel[0], kernel[1])
    stride, dilation = _pair(node, "strides", rank), _pair(node, "dilations", rank)
    auto = attribute(node, "auto_pad")
    pads = per_axis(node, "pads", rank)
    top, left, bottom, right = (0, pads[0], 0, pads[1]) if rank == 1 else pads
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = []
        for axis in (0, 1):
            inner, outer = (out_size, in_size) if transposed else (in_size, out_size)
            span = dilation[axis] * (shape[axis] - 1) + 1
            totals.append(max((outer[axis] - 1) * stride[axis] + span - inner[axis], 0))
        less = [total // 2 for total in totals]
        more = [total - half for total, half in zip(totals, less, strict=True)]
        (top, left), (bottom, right) = (less, more) if auto == "SAME_UPPER" else (more, less)
    elif auto == "VALID":
        top = left = bottom = right = 0
    if min(top, left, bottom, right) < 0:
        raise unsupported(node, "negative pads")
    return Window(shape, stride, dilation, (top, left, bottom, right))


def spatial_size(shape: tuple[int, ...]) -> Dims:
    """(h, w) of (1, C, H, W) or (1, C, L), which is one row."""
    return (1, shape[2]) if len(shape) == 3 else (shape[2], shape[3])


def conv(low: Lowering, node: Node) -> None:
    """Convolution, ConvolutionDepthWise for any group > 1; on a 1×1 map with a 1×1 kernel the cheaper InnerProduct."""
    source, weight, bias = low.input(node, 0), constant_weight(node, 1), input_constant(node, 2)
    out_shape = shape_of(node.outputs[0], node)
    if len(source.shape) not in (3, 4) or source.shape[0] != 1:
        raise unsupported(node, f"the input has the shape {source.shape}, expected (1, C, H, W) or (1, C, L)")
    if has_input(node, 2) and bias is None:
        raise unsupported(node, "the bias is not a constant")
    group = groups_of(node)
    spatial = spatial_size(source.shape)
    win = window(node, weight.shape[2:], spatial, spatial_size(out_shape))
    if group == 1 and spatial == (1, 1) and win.kernel == (1, 1) and not any(win.pads):
        matrix = weight.reshape(weight.shape[0], -1)
        _inner_product(low, node, low.view(source, (source.shape[1],)), matrix, bias, (out_shape[1],))
        return
    params: dict[int, Param] = {
        0: out_shape[1], 1: win.kernel[1], 11: win.kernel[0], 2: win.dilation[1], 12: win.dilation[0],
        3: win.stride[1], 13: win.stride[0], 4: win.pads[1], 14: win.pads[0], 15: win.pads[3], 16: win.pads[2],
        5: int(bias is not None), 6: weight.size,
    }  # fmt: skip
    if group > 1:
        params[7] = group
    kind = "Convolution" if group == 1 else "ConvolutionDepthWise"
    weights = [Weight(weight, tagged=True), *([Weight(bias)] if bias is not None else [])]
    source = low.view(source, (source.shape[1], *spatial))
    low.emit(node, kind, [source], (out_shape[1], *spatial_size(out_shape)), params, weights, to=node.outputs[0])


def conv_transpose(low: Lowering, node: Node) -> None:
    """Deconvolution. ONNX stores (in, out/g, kh, kw), ncnn wants (g, out/g, in/g, kh, kw)."""
    source, weight, bias = low.input(node, 0), constant_weight(node, 1), input_constant(node, 2)
    out_shape = shape_of(node.outputs[0], node)
    if len(source.shape) not in (3, 4) or source.shape[0] != 1:
        raise unsupported(node, f"the input has the shape {source.shape}, expected (1, C, H, W) or (1, C, L)")
    if has_input(node, 2) and bias is None:
        raise unsupported(node, "the bias is not a constant")
    group, spatial, out_spatial = groups_of(node), spatial_size(source.shape), spatial_size(out_shape)
    win, extra = _transposed_window(node, weight.shape[2:], spatial, out_spatial)
    ordered = LinearLayer.with_weight(node, weight).stored_blocks
    params: dict[int, Param] = {
        0: out_shape[1], 1: win.kernel[1], 11: win.kernel[0], 2: win.dilation[1], 12: win.dilation[0],
        3: win.stride[1], 13: win.stride[0], 4: win.pads[1], 14: win.pads[0], 15: win.pads[3], 16: win.pads[2],
        18: extra[1], 19: extra[0], 5: int(bias is not None), 6: weight.size,
    }  # fmt: skip
    if group > 1:
        params[7] = group
    kind = "Deconvolution" if group == 1 else "DeconvolutionDepthWise"
    weights = [Weight(ordered, tagged=True), *([Weight(bias)] if bias is not None else [])]
    source = low.view(source, (source.shape[1], *spatial))
    low.emit(node, kind, [source], (out_shape[1], *out_spatial), params, weights, to=node.outputs[0])


def _transposed_window(node: Node, kernel: tuple[int, ...], size: Dims, out: Dims) -> tuple[Window, tuple[int, int]]:
    """The window, and how much is appended; what `output_shape` or `auto_pad` ask for becomes pads that give it.

    What there is too much of is cut off in front and behind, where it is odd one more in front (SAME_UPPER: behind).
    """
    extra = _pair(node, "output_padding", len(kernel))
    auto = attribute(node, "auto_pad")
    if not node.attrs.get("output_shape") and auto in ("NOTSET", "VALID"):
        return window(node, kernel, size, out, transposed=True), extra
    plain = gs.Node(node.op, node.name, {k: v for k, v in node.attrs.items() if k not in ("pads", "auto_pad")})
    win = window(plain, kernel, size, out, transposed=True)
    spare = [win.stride[a] * (size[a] - 1) + extra[a] + win.extent(a) - out[a] for a in (0, 1)]
    appended = (extra[0] + max(-spare[0], 0), extra[1] + max(-spare[1], 0))
    spare = [max(each, 0) for each in spare]
    less, more = [each // 2 for each in spare], [each - each // 2 for each in spare]
    (top, left), (bottom, right) = (less, more) if auto == "SAME_UPPER" else (more, less)
    return Window(win.kernel, win.stride, win.dilation, (top, left, bottom, right)), appended


def constant_weight(node: Node, index: int) -> Array:
    """A weight that is part of the network."""
    weight = input_constant(node, index)
    if weight is None:
        raise unsupported(node, "the weight is not a constant")
    return weight


def _inner_product(low: Lowering, node: Node, source: Value, matrix: Array, bias: Array | None, dims: Dims) -> None:
    """A linear layer; `matrix` is (out, in), the source (in) or (rows, in)."""
    params: dict[int, Param] = {0: matrix.shape[0], 1: int(bias is not None), 2: matrix.size}
    weights = [Weight(matrix, tagged=True), *([Weight(bias)] if bias is not None else [])]
    low.emit(node, "InnerProduct", [source], dims, params, weights, to=node.outputs[0])


def linear(low: Lowering, node: Node, source: Value, matrix: Array, bias: Array | None) -> None:
    """Multiply the last axis by a constant (out, in) matrix."""
    rows = int(np.prod(source.shape[:-1], dtype=np.int64))
    width = source.shape[-1]
    view = low.view(source, (width,) if rows == 1 else (rows, width))
    _inner_product(low, node, view, matrix, bias, (matrix.shape[0],) if rows == 1 else (rows, matrix.shape[0]))


def gemm(low: Lowering, node: Node) -> None:
    """InnerProduct with alpha and beta multiplied into the constants."""
    source, matrix = low.input(node, 0), input_constant(node, 1)
    bias = input_constant(node, 2)
    if matrix is None or attribute(node, "transA") or (has_input(node, 2) and bias is None):
        raise unsupported(node, "only (M, K) times a constant matrix plus a constant vector is supported")
    layer = LinearLayer.with_weight(node, matrix)
    matrix, (alpha, beta) = layer.stored_blocks[0, :, :, 0], map(np.float32, layer.factors)
    matrix = matrix * alpha
    if bias is not None:
        if bias.ndim > 1 and any(extent != 1 for extent in bias.shape[:-1]):
            raise unsupported(node, f"the bias has the shape {bias.shape}, expected one value an output")
        bias = np.broadcast_to(bias.reshape(-1) * beta, (matrix.shape[0],))
    linear(low, node, source, matrix, bias)


def max_pool(low: Lowering, node: Node) -> None:
    """Pooling type 0: ncnn pads with the lowest float, as ONNX does. ceil_mode becomes explicit pads."""
    if len(node.outputs) > 1 and not is_empty(node.outputs[1]):
        raise unsupported(node, "the indices are asked for")
    _pool(low, node, 0, count_pad=False)


def average_pool(low: Lowering, node: Node) -> None:
    """Pooling type 1. Padding counts only where ONNX says so."""
    _pool(low, node, 1, count_pad=bool(attribute(node, "count_include_pad")))


def _pool(low: Lowering, node: Node, kind: int, *, count_pad: bool) -> None:
    source, out_shape = low.input(node, 0), shape_of(node.outputs[0], node)
    if len(source.shape) not in (3, 4) or source.shape[0] != 1:
        raise unsupported(node, f"the input has the shape {source.shape}, expected (1, C, H, W) or (1, C, L)")
    spatial, out_spatial = spatial_size(source.shape), spatial_size(out_shape)
    win = window(node, tuple(int_list(node.attrs["kernel_shape"])), spatial, out_spatial)
    if win.dilation != (1, 1):
        raise unsupported(node, f"its dilation is {win.dilation}, ncnn's pooling has none")
    top, left, bottom, right = win.pads
    needed = [(out_spatial[a] - 1) * win.stride[a] + win.kernel[a] - spatial[a] - win.pads[a] for a in (0, 1)]
    if count_pad and (needed[0] > bottom or needed[1] > right):
        raise unsupported(node, "ceil_mode together with count_include_pad")
    bottom, right = max(bottom, needed[0]), max(right, needed[1])
    params: dict[int, Param] = {
        0: kind, 1: win.kernel[1], 11: win.kernel[0], 2: win.stride[1], 12: win.stride[0],
        3: left, 13: top, 14: right, 15: bottom, 5: 1,
    }  # fmt: skip
    if kind == 1:
        params[6] = int(count_pad)
    source = low.view(source, (source.shape[1], *spatial))
    low.emit(node, "Pooling", [source], (source.shape[1], *out_spatial), params, to=node.outputs[0])


def global_pool(kind: int) -> Lower:
    """Global max (0) or average (1) pooling; the blob has the channels only."""

    def lower(low: Lowering, node: Node) -> None:
        source = low.input(node, 0)
        if len(source.shape) < 3 or source.shape[0] != 1:
            raise unsupported(node, f"the input has the shape {source.shape}, expected (1, C, …)")
        emit_global_pool(low, node, source, kind)

    return lower


def emit_global_pool(low: Lowering, node: Node, source: Value, kind: int) -> None:
    """Pool everything behind the channel axis."""
    channels, rest = source.shape[1], source.shape[2:]
    dims = (channels, *rest) if len(rest) == 2 else (channels, 1, int(np.prod(rest)))
    low.emit(node, "Pooling", [low.view(source, dims)], (channels,), {0: kind, 4: 1}, to=node.outputs[0])


NN_OPS: dict[str, Lower] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalMaxPool": global_pool(0),
    "GlobalAveragePool": global_pool(1),
}
