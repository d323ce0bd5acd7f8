"""What ncnn's ARM kernels make of a width, as factors on the multiplications at it.

Read in ncnn's sources (src/layer/arm, 2026-07) and seen in counted instructions of one-layer networks
(bench/arm_count.py): in fp16, channels lie in packs of 8, 4 or 1, in fp32 of 4 or 1.

* 3×3 convolutions with stride 1 use Winograd's algorithm if *either* side has 16 channels (fp32: 8).
* Matrix products: 4 channels beyond a multiple of 8 cost as much as 8 in fp16.
* What is convolved directly (other strides and kernels, and below Winograd's widths) has kernels for whole packs;
  between unlike ones, and unpacked, it takes several times as long, of few channels most.
* Depthwise in fp16: packs of 4 have no kernel of their own, and take nine to twelve times as long as the next multiple
  of 8; unpacked ones three to four times.
"""

from __future__ import annotations

from onnxslim_yolo.latency.layers import Family

WINOGRAD_FROM = {8: 16, 4: 8}
"""Channels of either side from which Winograd's algorithm is used, by lanes."""

FEW = 16
"""Channels below which an unpacked direct convolution is at its worst."""


def multiplied(family: Family, lanes: int, cin: float, cout: float) -> tuple[float, bool]:
    """(the factor on cin · cout multiplications, whether Winograd's algorithm is used)."""
    packs = (_pack(lanes, cin), _pack(lanes, cout))
    wide = family.kind == "conv" and family.kernel == (3, 3) and family.stride == (1, 1)
    winograd = wide and max(cin, cout) >= WINOGRAD_FROM[lanes]
    product = winograd or family.kind == "matmul" or family.kernel == (1, 1)
    if 1 in packs:
        if winograd:
            return (1.35 if lanes == 8 else 1.18), True
        return (1.15 if product else 8.0 if min(cin, cout) < FEW else 2.4 if lanes == 8 else 1.6), False
    if min(packs) < lanes:
        filled = _filled(cin) * _filled(cout) / (cin * cout)
        few = 0.75 if wide else 2.0  # stride 1 is a matrix product then, over all taps at once
        return filled * (1.05 if product else 1.3 if min(cin, cout) >= FEW else few), winograd
    return 1.0, winograd


def depthwise(lanes: int, width: float) -> float:
    """The factor on a depthwise layer's taps."""
    pack = _pack(lanes, width)
    if pack == lanes:
        return 1.0
    return 3.4 if pack == 1 else 10.0


def _pack(lanes: int, width: float) -> int:
    whole = int(width + 0.5)
    return next((pack for pack in (8, 4) if pack <= lanes and whole % pack == 0), 1)


def _filled(width: float) -> float:
    """The width with its last pack of 4 counted as one of 8."""
    whole = int(width + 0.5)
    return width if _pack(8, whole) != 4 else width + 4
