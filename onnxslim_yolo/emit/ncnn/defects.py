"""What ncnn computes wrong on ARM, and what is written so that it does not.

`convdw3x3s2_pack8_fp16sa_neon` (src/layer/arm/convolutiondepthwise_3x3_pack8_fp16s.h, in 1.0.20261020 and in the
sources of 2026-07-22): its loop over pairs of columns loads r14 and r24, the fifth pixels of rows 1 and 2, from row 0.
So in fp16 arithmetic a depthwise 3×3 convolution with stride 2, dilation 1 and a
multiple of 8 channels has a wrong last even column wherever its output is 4k + 2 or 4k + 3 wide: off by 0.14 to 0.32 of
its values (bench/results/arm_layers.md). Stride-32 maps of 192, 320, 352 and 416 px are; those of 256, 640 are not.

The layer's feature mask `31=1` keeps it, alone, from computing in fp16. Nothing else changes, and nothing at all where
there is no such arithmetic (x86, a Pi 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxslim_yolo.emit.ncnn.format import FEATURE_MASK, NO_HALF_ARITHMETIC, Layer
from onnxslim_yolo.emit.ncnn.layout import Dims

AFFECTED = "in 1.0.20261020, the latest that was tried"
_WINDOW = {1: 3, 11: 3, 2: 1, 12: 1, 3: 2, 13: 2}
"""Kernel, dilation and stride of the kernel that is wrong."""


def work_around(layers: Sequence[Layer], dims: Mapping[str, Dims]) -> list[str]:
    """Mask the layers that are computed wrong in fp16 arithmetic, in place. Returns their names."""
    hit = [layer for layer in layers if is_wrong(layer, dims.get(layer.outputs[0], ()) if layer.outputs else ())]
    for layer in hit:
        mask = layer.params.get(FEATURE_MASK, 0)
        layer.params[FEATURE_MASK] = (mask if isinstance(mask, int) else 0) | NO_HALF_ARITHMETIC
    return [layer.name for layer in hit]


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


def note_of(names: Sequence[str]) -> str:
    """What a report says of them."""
    one = len(names) == 1
    which = f"'{names[0]}'" if one else f"{len(names)} depthwise layers ('{names[0]}' …)"
    return (
        f"ncnn: {which} {'is' if one else 'are'} kept from fp16 arithmetic (31=1), in which ncnn's ARM kernel of "
        f"{'it' if one else 'them'} is wrong ({AFFECTED}); elsewhere it makes no difference"
    )
