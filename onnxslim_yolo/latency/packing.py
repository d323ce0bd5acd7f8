"""How runtimes lay channels out in registers, and which widths therefore behave alike.

ncnn interleaves `elempack` channels: as many as a register holds where that divides the width, else the next smaller of
16, 8, 4, 1 (its `Layer::support_packing`). onnxruntime interleaves blocks of 16 (AVX-512) or 8 (NCHWc): outputs are
padded up to whole blocks, inputs need a multiple of 4, and what does not fit runs unblocked. On ARM64 it interleaves
nothing (see `blocks_of`).

Latency is smooth in the width within one class of packs and jumps between classes. So tables are interpolated within a
class only.
"""

from __future__ import annotations

from typing import Literal

from onnxslim_yolo.latency.devices import host_isa, isa_of

__all__ = [
    "ALIGNMENT",
    "PACK",
    "RUNTIMES",
    "Runtime",
    "blocks_of",
    "host_isa",
    "lanes_of",
    "pack_of",
    "packs_of",
    "padded",
]

Runtime = Literal["ncnn", "onnxruntime"]
RUNTIMES: tuple[Runtime, ...] = ("ncnn", "onnxruntime")

PACK: dict[str, int] = {"avx512": 16, "avx2": 8, "neon-fp16": 8, "neon": 4}
"""Channels in one vector register: 16 fp32 (AVX-512), 8 (AVX2; NEON with fp16 arithmetic), 4 (NEON)."""

ALIGNMENT = 4
"""onnxruntime's blocked convolutions take inputs whose number of channels is a multiple of this."""


def pack_of(runtime: Runtime, lanes: int, width: int) -> int:
    """The class of a width: the largest of 16, 8, 4 up to `lanes` that divides it and means something; else 1."""
    if runtime == "onnxruntime":
        return lanes if width % lanes == 0 else ALIGNMENT if width % ALIGNMENT == 0 else 1
    for pack in (16, 8, 4):
        if pack <= lanes and width % pack == 0:
            return pack
    return 1


def packs_of(runtime: Runtime, lanes: int) -> tuple[int, ...]:
    """All classes, the best first."""
    if runtime == "onnxruntime":
        return tuple(dict.fromkeys((lanes, ALIGNMENT, 1))) if lanes > 1 else (1,)
    return (*(pack for pack in (16, 8, 4) if pack <= lanes), 1)


def padded(runtime: Runtime, lanes: int, width: float) -> float:
    """The width that is computed, where a runtime pads: onnxruntime whole blocks, ncnn none."""
    if runtime == "onnxruntime":
        return float(-(-width // lanes) * lanes)
    return float(width)


def lanes_of(isa: str) -> int:
    """Channels a register holds under an instruction set, or on a device.

    Raises:
        UsageError: there is no such.
    """
    return PACK[isa if isa in PACK else isa_of(isa)]


def blocks_of(runtime: Runtime, isa: str) -> int:
    """Channels that a runtime interleaves, which decides the classes of widths.

    onnxruntime's blocked kernels exist for ARM64 behind a build option that is off: nothing is interleaved there.
    """
    return 1 if runtime == "onnxruntime" and isa_of(isa).startswith("neon") else lanes_of(isa)
