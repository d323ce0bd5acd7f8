"""What ncnn computes wrong on ARM, and what is written so that it does not.

`convdw3x3s2_pack8_fp16sa_neon` (src/layer/arm/convolutiondepthwise_3x3_pack8_fp16s.h, in 1.0.20261020 and in the
sources of 2026-07-22): its loop over pairs of columns loads r14 and r24, the fifth pixels of rows 1 and 2, from row 0.
So in fp16 arithmetic a depthwise 3×3 convolution with stride 2, dilation 1 and a
multiple of 8 channels has a wrong last even column wherever its output is 4k + 2 or 4k + 3 wide: off by 0.14 to 0.32 of
its values (bench/results/arm_layers.md). Stride-32 maps of 192, 320, 352 and 416 px are; those of 256, 640 are not.

Two ways around it. *Wider*, for a machine that has such arithmetic: one or two more columns are computed, by padding
to the right, so that the width is one that is right, and cropped: 1.06 to 1.09 of the layer's instructions. *Masked*,
where the machine is not known: the feature mask `31=1` keeps the layer, alone, from computing in fp16, which takes 1.7
to 3.8 of its instructions there, and nothing where there is no such arithmetic (x86, a Pi 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxslim_yolo.emit.ncnn.format import FEATURE_MASK, NO_HALF_ARITHMETIC, Layer, Param
from onnxslim_yolo.emit.ncnn.layout import Dims

AFFECTED = "in 1.0.20261020, the latest that was tried"
_WINDOW = {1: 3, 11: 3, 2: 1, 12: 1, 3: 2, 13: 2}
"""Kernel, dilation and stride of the kernel that is wrong."""
_RIGHT, _STRIDE = 15, 2
"""Padding on the right, by its parameter; columns of the input that one of the output takes."""


def work_around(layers: Sequence[Layer], dims: dict[str, Dims], *, known: bool) -> tuple[list[Layer], list[str]]:
    """The layers with those changed that are computed wrong in fp16 arithmetic, and their names.

    Args:
        dims: of every blob; that of new ones is added. known: the machine has such arithmetic.
    """
    found: list[Layer] = []
    names: list[str] = []
    for layer in layers:
        if not layer.outputs or not is_wrong(layer, dims.get(layer.outputs[0], ())):
            found.append(layer)
            continue
        names.append(layer.name)
        found += _wider(layer, dims) if known else [_kept_out(layer)]
    return found, names


def _kept_out(layer: Layer) -> Layer:
    return replace(layer, params={**layer.params, FEATURE_MASK: NO_HALF_ARITHMETIC})


def _wider(layer: Layer, dims: dict[str, Dims]) -> list[Layer]:
    """The layer over a wider map, and what crops it."""
    (blob,) = layer.outputs
    channels, height, width = dims[blob]
    more = next(extra for extra in (1, 2) if (width + extra) % 4 in (0, 1))
    wide = f"{blob}/wide"
    dims[wide] = (channels, height, width + more)
    right = layer.params.get(_RIGHT, 0)
    params = {**layer.params, _RIGHT: (right if isinstance(right, int) else 0) + more * _STRIDE}
    crop: dict[int, Param] = {9: [0], 10: [width], 11: [2]}
    return [replace(layer, outputs=[wide], params=params), Layer("Crop", f"{layer.name}/crop", [wide], [blob], crop)]


def is_wrong(layer: Layer, size: Dims) -> bool:
    """Whether ncnn's fp16 kernel of a layer with an output of this size, (c, h, w), is the wrong one."""
    if layer.type != "ConvolutionDepthWise" or len(size) != 3:
        return False
    channels, _, width = size
    depthwise = layer.params.get(7) == channels and layer.params.get(0) == channels
    return (
        depthwise
        and channels % 8 == 0
        and width % 4 in (2, 3)
        and all(layer.params.get(key, 1) == value for key, value in _WINDOW.items())
    )


def note_of(names: Sequence[str], *, known: bool) -> str:
    """What a report says of them."""
    one = len(names) == 1
    which = f"'{names[0]}'" if one else f"{len(names)} depthwise layers ('{names[0]}' …)"
    wrong = f"in fp16 arithmetic ncnn's ARM kernel of {which} is wrong ({AFFECTED})"
    if known:
        return f"ncnn: {wrong}; a width that is right is computed, and cropped"
    it = "it is" if one else "they are"
    return f"ncnn: {wrong}; {it} kept from it (31=1), which --for pi5 or android does at less cost"
