"""What ncnn's ARM kernels make of a width, as factors on the work at it.

Read in ncnn's sources (src/layer/arm, 2026-07) and fitted to counted instructions of 6,000 one-layer networks
(bench/arm_tables.py), weighted as bench/arm_latency.py has them: in fp16, channels lie in packs of 8, 4 or 1, in fp32
of 4 or 1.

* Products of matrices make 8 output channels at a time, then 4, 2 and 1: what is left over costs more than its share.
  Reading inputs costs as many products as `Kernel.read` output channels do, writing outputs as `write` input channels.
* 3×3 convolutions with stride 1 use Winograd's algorithm if *either* side has 16 channels (fp32: 8): the same, of fewer
  products, with transforms where others read and write.
* What is convolved directly (other strides and kernels, and below Winograd's widths) has kernels for whole packs. In
  fp16 fewer than 8 outputs take as long as 17 to 40 whole ones; 4 inputs beyond a multiple of 8 as 21 outputs.
* Depthwise in fp16: packs of 4 have no kernel of their own, and take nine to twelve times as long as the next multiple
  of 8; unpacked ones three to four times, of kernels other than 3×3 thirty times. Pooling and enlarging are dearest
  where channels are not packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from onnxslim_yolo.latency.layers import Family

WINOGRAD_FROM = {8: 16, 4: 8}
"""Channels of either side from which Winograd's algorithm is used, by lanes."""

WIDE = 128
"""Channels up to which its tiles are 6×6, of 4×4 beyond."""


@dataclass(frozen=True)
class Kernel:
    """How a way of multiplying takes its channels, where a product of whole packs is 1.

    Attributes:
        product: what one is, of wide layers. read, write: what an input and an output cost, in products.
        rest: what 1 … 7 output channels beyond a multiple of 8 cost, in channels.
        odd: factor for inputs that are not packed.
    """

    product: float
    read: float
    write: float
    rest: tuple[float, ...]
    odd: float = 1.0

    def factor(self, cin: float, cout: float, packed: bool) -> float:
        """The factor on cin · cout multiplications."""
        whole, left = divmod(int(cout + 0.5), 8)
        made = (8 * whole + (self.rest[left - 1] if left else 0.0)) / max(int(cout + 0.5), 1)
        return self.product * (made * (1.0 if packed else self.odd) + self.write / cin + self.read / cout)


_HALF_REST = (5.2, 6.8, 12.0, 14.8, 20.0, 21.6, 26.8)
_FULL_REST = (3.1, 4.0, 6.0, 4.5, 7.6, 8.5, 10.6)
MATRIX = {8: Kernel(0.96, 0.5, 4.5, _HALF_REST), 4: Kernel(0.85, 0.5, 4.3, _FULL_REST)}
WINOGRAD = {
    8: Kernel(0.2, 17.2, 21.7, (8.0, 13.0, 18.8, 19.3, 26.0, 32.0, 37.0), 1.25),
    4: Kernel(0.14, 15.2, 14.1, (4.1, 7.0, 9.7, 4.5, 8.8, 11.5, 14.5), 1.08),
}
DIRECT = {8: Kernel(0.97, 0.1, 2.0, tuple(13.2 + 3.7 * n for n in range(1, 8))), 4: Kernel(0.95, 0.3, 2.0, (0.0,) * 7)}
UNPACKED = {8: (1.0, 1.0, 1.0), 4: (0.71, 0.45, 0.75)}
"""Direct convolutions by lanes, beside those of whole packs: of unpacked inputs, of both sides, of outputs."""

STEM = {8: (22.0, 0.45), 4: (9.4, 0.25)}
"""What cutting an image into phases costs, in output channels, and the convolution of them."""
FEW = 16
"""Channels below which unpacked inputs are convolved in another way."""

POOL = {8: {8: 3.1, 4: 6.0, 1: 29.5}, 4: {4: 3.4, 1: 9.5}}
POOL_OWN = {4: 0.5, 1: 1.4}
"""Of 3×3 with stride 2 in fp32, which has a kernel of its own."""
AVERAGE = {8: {8: 8.7, 4: 17.0, 1: 63.0}, 4: {4: 9.4, 1: 35.0}}
"""Of an average over small windows; one over the whole map is a sum."""
ENLARGE = {8: {8: 1.75, 4: 3.3, 1: 10.5}, 4: {4: 2.3, 1: 7.1}}
DEPTHWISE = {
    8: {3: {8: 0.9, 4: 9.7, 1: 3.4}, 5: {8: 0.8, 4: 7.7, 1: 33.5}, 0: {8: 4.0, 4: 7.2, 1: 32.0}},
    4: {3: {4: 0.83, 1: 2.4}, 5: {4: 1.14, 1: 1.3}, 0: {4: 5.1, 1: 2.5}},
}
"""By lanes, kernel (0: one that ncnn has nothing of its own for) and pack. 5×5 unpacked has a kernel in fp32 only."""
"""Factors by lanes and pack."""
MAP = {8: (2, 0.005, 0.297, 2 << 20), 4: (4, 0.284, 0.013, 1 << 20)}
"""By lanes: bytes of a number, ns of each, ns more of those that the last cache does not hold, and what that holds.

As bench/results/arm_latency.json has them."""
MOVE = {8: {"view": 1.9, "transpose": 5.1, "softmax": 5.6}, 4: {"view": 1.24, "transpose": 3.0, "softmax": 3.7}}
COPY = {8: 1.7, 4: 1.2}
"""Factors on moved elements by lanes: what decodes boxes, counted blob by blob in YOLOv5n and YOLOv8n."""


def multiplied(family: Family, lanes: int, cin: float, cout: float) -> float:
    """The factor on cin · cout multiplications, where a product of whole packs is 1."""
    packs = (_pack(lanes, cin), _pack(lanes, cout))
    if family.kernel == (6, 6) and cin <= 4:  # as four phases (see `emit.ncnn.stem`)
        return STEM[lanes][0] / cout + STEM[lanes][1]
    if family.kind == "conv" and family.kernel == (3, 3) and family.stride == (1, 1):
        if max(cin, cout) >= WINOGRAD_FROM[lanes]:
            return WINOGRAD[lanes].factor(cin, cout, packs[0] > 1) * _tiled(family, max(cin, cout))
        if packs == (4, 4) and lanes == 8:  # a product of matrices, over all taps at once
            return 0.85 * MATRIX[lanes].factor(cin, cout, packed=True)
    elif family.kind == "matmul" or family.kernel == (1, 1):
        return MATRIX[lanes].factor(cin, cout, packs[0] > 1)
    return _direct(lanes, packs, cin, cout)


def _tiled(family: Family, widest: float) -> float:
    """What Winograd's tiles hold beyond the map, and by how much smaller ones do more."""
    side, more = (6, 1.0) if widest <= WIDE else (4, 1.27)
    return more * prod(-(-length // side) * side / length for length in family.size)


def _direct(lanes: int, packs: tuple[int, int], cin: float, cout: float) -> float:
    kernel, (ins, both, outs) = DIRECT[lanes], UNPACKED[lanes]
    if packs[0] == 1:
        if packs[1] > 1:
            return ins * ((1.2 if packs[1] == lanes else 2.4) + 3.0 / cout + 1.0 / cin)
        spread = (70.0 if lanes == 8 else 31.0) if cin >= FEW else (40.0 if lanes == 8 else 5.0)
        return both * (1.2 if cin >= FEW else 1.5) * (1 + spread / cout) * (1 + 5.0 / cin)
    if lanes == 8:
        return kernel.factor(cin, cout, packed=True) + (21.0 / cout if packs[0] < lanes else 0.0)
    if packs[1] == 1:
        return outs * kernel.product * (1 + kernel.write / cin + 10.0 / cout)
    return kernel.product * (1 + kernel.write / cin + kernel.read / cout)


def pooled(lanes: int, width: float, family: Family) -> float:
    """The factor on a max pooling's taps."""
    own = lanes == 4 and family.kernel == (3, 3) and family.stride == (2, 2)
    return (POOL_OWN if own else POOL[lanes])[_pack(lanes, width)]


def averaged(lanes: int, width: float, family: Family) -> float:
    """The factor on an average pooling's taps."""
    return AVERAGE[lanes][_pack(lanes, width)] if family.area > 1 else 1.0


def enlarged(lanes: int, width: float) -> float:
    """The factor on an enlarged map's elements."""
    return ENLARGE[lanes][_pack(lanes, width)]


def copied(kind: str, alike: bool) -> float:
    """The factor on the elements of a Concat, Split or addition, whose parts may be packed alike."""
    return 1.1 if kind == "binary" else 1.0 if not alike else 0.5 if kind == "concat" else 0.25


def moved(lanes: int, op: str) -> float:
    """The factor on elements that are laid out anew. A reshaped map is copied: what is packed is unpacked there."""
    return MOVE[lanes].get(op, COPY[lanes])


def mapped(lanes: int, elements: float) -> float:
    """µs that so many elements of maps take, read and written."""
    number, each, far, holds = MAP[lanes]
    size = number * elements
    return size * (each + (far if size > holds else 0.0)) / 1e3


def depthwise(lanes: int, width: float, family: Family) -> float:
    """The factor on a depthwise layer's taps."""
    by_kernel, kernel = DEPTHWISE[lanes], family.kernel
    own = kernel[0] if kernel[0] == kernel[1] and kernel[0] in by_kernel else 0
    return by_kernel[own][_pack(lanes, width)]


def _pack(lanes: int, width: float) -> int:
    whole = int(width + 0.5)
    return next((pack for pack in (8, 4) if pack <= lanes and whole % pack == 0), 1)
