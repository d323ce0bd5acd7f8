"""What this machine's processor is, as far as it decides how layers are computed."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

NARROW = 63
"""The largest int8 weight where pairs of products are added up in 16 bits, which hold no more."""


@cache
def flags() -> set[str]:
    """The words that the system describes the processor by; none where it does not."""
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return set()


def is_arm() -> bool:
    """Whether it is an ARM processor, of 32 or 64 bits."""
    return platform.machine().lower().startswith(("arm", "aarch64"))


def adds_in_16_bits() -> bool:
    """Whether onnxruntime's int8 kernels add pairs of products in 16 bits here, where 8-bit weights overflow.

    They do on x86 without VNNI.
    """
    return not is_arm() and not {"avx_vnni", "avx512_vnni"} & flags()
