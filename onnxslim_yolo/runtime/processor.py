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


def arm_bits(machine: str | None = None) -> int:
    """64 or 32 where a machine of this name (this one, by default) has an ARM processor; 0 where it has another."""
    name = (platform.machine() if machine is None else machine).lower()
    if name.startswith(("aarch64", "arm64")):
        return 64
    return 32 if name.startswith("arm") else 0


def adds_in_16_bits() -> bool:
    """Whether onnxruntime's int8 kernels add pairs of products in 16 bits here, where 8-bit weights overflow.

    They do on x86 without VNNI.
    """
    return not arm_bits() and not {"avx_vnni", "avx512_vnni"} & flags()
