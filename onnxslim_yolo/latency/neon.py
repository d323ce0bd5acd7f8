"""What ncnn's ARM kernels make of a width, as factors on the work at it.

Read in ncnn's sources (src/layer/arm, 2026-07) and fitted to counted instructions of one-layer networks
(bench/arm_counting.py): in fp16, channels lie in packs of 8, 4 or 1, in fp32 of 4 or 1.

* 3×3 convolutions with stride 1 use Winograd's algorithm if *either* side has 16 channels (fp32: 8).
* Matrix products: 4 channels beyond a multiple of 8 cost as much as 8 in fp16.
* What is convolved directly (other strides and kernels, and below Winograd's widths) has kernels for whole packs;
  between unlike ones, and unpacked, it takes several times as long, of few channels most.
* Depthwise in fp16: packs of 4 have no kernel of their own, and take nine to twelve times as long as the next multiple
  of 8; unpacked ones three to four times. Pooling and enlarging are dearest where channels are not packed.
"""

from __future__ import annotations

from onnxslim_yolo.latency.layers import Family

WINOGRAD_FROM = {8: 16, 4: 8}
"""Channels of either side from which Winograd's algorithm is used, by lanes."""
TRANSFORMS = 24.0
"""Channels (the harmonic mean of both sides) at which Winograd's transforms take as long as its products."""
FEW = 16
"""Channels below which an unpacked direct convolution is at its worst."""

POOL = {8: {8: 3.2, 4: 6.3, 1: 31.0}, 4: {4: 1.5, 1: 8.0}}
ENLARGE = {8: {8: 2.3, 4: 4.4, 1: 15.0}, 4: {4: 1.2, 1: 4.0}}
DEPTHWISE = {8: {8: 1.0, 4: 10.0, 1: 3.4}, 4: {4: 1.0, 1: 3.4}}
"""Factors by lanes and pack."""


def multiplied(family: Family, lanes: int, cin: float, cout: float) -> float:
    """The factor on cin · cout multiplications, where a product of whole packs is 1."""
    packs, few = (_pack(lanes, cin), _pack(lanes, cout)), max(min(cin, cout), 1.0)
    wide = family.kind == "conv" and family.kernel == (3, 3) and family.stride == (1, 1)
    if wide and max(cin, cout) >= WINOGRAD_FROM[lanes]:
        mean = 2 * cin * cout / (cin + cout)
        transforms = (mean + TRANSFORMS) / mean / 3.3 if lanes == 8 else 1 / 3.4
        odd = 1.35 * (1 + 10 / few) if lanes == 8 else 1.04 * (1 + 8 / few)
        return transforms * (odd if 1 in packs else 1.05 * _filled(lanes, cin, cout))
    if family.kind == "matmul" or family.kernel == (1, 1):
        return 1 + min((10 if lanes == 8 else 3) / few, 1.0) if 1 in packs else _filled(lanes, cin, cout)
    if 1 in packs:
        spread = 36 if lanes == 8 else 12
        return min(8.0 * (13 / few) ** 1.5, 40.0) if few < FEW else 1.4 * (1 + spread / few)
    if min(packs) == lanes:
        return 1.0
    small = 0.75 if wide else 2.0  # stride 1 is a matrix product then, over all taps at once
    return _filled(lanes, cin, cout) * (1.3 if few >= FEW else small)


def pooled(lanes: int, width: float) -> float:
    """The factor on a max pooling's taps."""
    return POOL[lanes][_pack(lanes, width)]


def enlarged(lanes: int, width: float) -> float:
    """The factor on an enlarged map's elements."""
    return ENLARGE[lanes][_pack(lanes, width)]


def depthwise(lanes: int, width: float) -> float:
    """The factor on a depthwise layer's taps."""
    return DEPTHWISE[lanes][_pack(lanes, width)]


def _pack(lanes: int, width: float) -> int:
    whole = int(width + 0.5)
    return next((pack for pack in (8, 4) if pack <= lanes and whole % pack == 0), 1)


def _filled(lanes: int, cin: float, cout: float) -> float:
    """What counting a last pack of 4 as one of 8 adds."""
    wide = [width + 4 if _pack(lanes, width) < lanes else width for width in (cin, cout)]
    return wide[0] * wide[1] / (cin * cout)
