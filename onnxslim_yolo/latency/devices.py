"""Machines by name: what `--for` takes, and what follows from it.

A *processor* has an instruction set, an arithmetic that ncnn computes in there by itself, and caches; latency is judged
by its table, or by its instruction set's, or by the analytic model. An *accelerator* is a grid and a note: what widths
its vendor's documents ask for; nothing here predicts its time.

Sources: Arm's technical reference manuals of the Cortex cores, and the boards' data sheets, for caches; ncnn's
`src/cpu.cpp` for what it computes in; the accelerators' documents stand with them.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Literal, get_args

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.runtime import processor

Isa = Literal["avx512", "avx2", "neon-fp16", "neon"]
Arithmetic = Literal["fp16", "fp32", "bf16"]

DeviceName = Literal[
    "host", "pi5", "pi4", "pi3", "pizero2", "rk3588", "rk3566", "android", "android-fp32", "x86-avx512", "x86-avx2",
    "pi5-bf16", "pi4-bf16", "avx512", "avx2", "neon-fp16", "neon", "hexagon", "ascend", "artpec9", "artpec8", "rknpu",
    "tinpu",
]  # fmt: skip
"""What `--for` takes. pi5-bf16 and pi4-bf16: with `use_bf16_storage` set and fp16 switched off in ncnn. avx512, avx2,
neon-fp16 and neon name an instruction set and nothing else."""


@dataclass(frozen=True)
class Likeness:
    """Whose latency table a device is judged by, and how well that does (`bench/arm_boards.py`).

    Attributes:
        of: the device that has a table.
        factor: how many times that one's time a network takes here.
        error: median relative error on ncnn's published networks, each held out from the factor that predicts it.
        timed: the board that ncnn's published times are of.
    """

    of: str
    factor: float
    error: float
    timed: str


@dataclass(frozen=True)
class Device:
    """A machine that a network is compiled for.

    Attributes:
        name, title: as typed, and in words.
        isa: its instruction set; None of an accelerator.
        arithmetic: what ncnn computes in there by itself, or, bf16, stores in where it is told to.
        caches: bytes of the first, second and third level that one core sees; 0: none. Empty: not known.
        grid: channels that a width should be a multiple of.
        note: what a user should know. source: where that is from.
        like: the device whose table, made slower or faster, is this one's; None: it has its own, or there is none.
    """

    name: str
    title: str
    isa: Isa | None
    arithmetic: Arithmetic = "fp32"
    caches: tuple[int, ...] = ()
    grid: int = 8
    note: str = ""
    source: str = ""
    like: Likeness | None = None

    @property
    def is_arm(self) -> bool:
        """Whether it is an ARM processor."""
        return self.isa in ("neon", "neon-fp16")

    @property
    def half(self) -> bool:
        """Whether ncnn computes in fp16 there by itself."""
        return self.arithmetic == "fp16"


_K, _M = 1 << 10, 1 << 20
_GRID_ONLY = "an accelerator: widths are multiples of {}, latency is not predicted"
_QUALCOMM = "docs.qualcomm.com/doc/80-63442-10/topic/htp_guidelines_channels.html"
_AXIS = "developer.axis.com/computer-vision/on-device/system-on-chip/artpec-{}/optimization-tips"
_HUAWEI = "hiascend.com/document/detail/en/canncommercial/850/devaids/amct/atlasamct_16_0397.html (ascend_optimized)"
_TI = "software-dl.ti.com/C2000/esd/mcu_ai/user_guide/devices/npu_guidelines.html"
_ROCKCHIP = "RKNN's native layout NC1HWC2, whose C2 is 16 for int8 (docs.rs/rknn-runtime, Nc1hwc2Layout)"


_A53_3 = Likeness("pi4", 1.818, 0.127, "Raspberry Pi 3 B+")
_A53_ZERO = Likeness("pi4", 3.193, 0.075, "Raspberry Pi Zero 2 W")
_A76 = Likeness("pi5", 1.218, 0.123, "a board with an RK3588")
_A55 = Likeness("pi5", 3.888, 0.115, "OrangePi CM4")
_KRYO_485 = Likeness("pi5", 0.696, 0.077, "a phone with a Snapdragon 855+")
_KRYO = Likeness("pi4", 0.627, 0.072, "a phone with a Snapdragon 821")


def _accelerator(name: str, title: str, grid: int, source: str) -> Device:
    return Device(name, title, None, "fp32", (), grid, _GRID_ONLY.format(grid), source)


_ALL = (
    Device("pi5", "Raspberry Pi 5 (Cortex-A76)", "neon-fp16", "fp16", (64 * _K, 512 * _K, 2 * _M), 8),
    Device("pi4", "Raspberry Pi 4 (Cortex-A72)", "neon", "fp32", (32 * _K, _M, 0), 4),
    Device("pi5-bf16", "Raspberry Pi 5 (Cortex-A76), ncnn in bf16", "neon", "bf16", (64 * _K, 512 * _K, 2 * _M), 4),
    Device("pi4-bf16", "Raspberry Pi 4 (Cortex-A72), ncnn in bf16", "neon", "bf16", (32 * _K, _M, 0), 4),
    Device("pi3", "Raspberry Pi 3 (Cortex-A53)", "neon", "fp32", (32 * _K, 512 * _K, 0), 4, like=_A53_3),
    Device("pizero2", "Raspberry Pi Zero 2 (Cortex-A53)", "neon", "fp32", (32 * _K, 512 * _K, 0), 4, like=_A53_ZERO),
    Device("rk3588", "RK3588 (Cortex-A76)", "neon-fp16", "fp16", (64 * _K, 512 * _K, 3 * _M), 8, like=_A76),
    Device("rk3566", "RK3566 (Cortex-A55)", "neon-fp16", "fp16", (32 * _K, 0, 512 * _K), 8, like=_A55),
    Device("android", "a phone with fp16 arithmetic (since about 2018)", "neon-fp16", "fp16", (), 8, like=_KRYO_485),
    Device("android-fp32", "a phone without fp16 arithmetic", "neon", "fp32", (), 4, like=_KRYO),
    Device("x86-avx512", "x86 with AVX-512", "avx512", "fp32", (), 16),
    Device("x86-avx2", "x86 with AVX2", "avx2", "fp32", (), 8),
    Device("avx512", "AVX-512", "avx512", "fp32", (), 16),
    Device("avx2", "AVX2", "avx2", "fp32", (), 8),
    Device("neon-fp16", "ARM64 with fp16 arithmetic", "neon-fp16", "fp16", (), 8),
    Device("neon", "ARM without fp16 arithmetic", "neon", "fp32", (), 4),
    _accelerator("hexagon", "Qualcomm Hexagon HTP", 32, _QUALCOMM),
    _accelerator("ascend", "Huawei Ascend", 16, _HUAWEI),
    _accelerator("artpec9", "Axis ARTPEC-9", 16, _AXIS.format(9)),
    _accelerator("artpec8", "Axis ARTPEC-8", 6, _AXIS.format(8)),
    _accelerator("rknpu", "Rockchip RKNPU", 16, _ROCKCHIP),
    _accelerator("tinpu", "Texas Instruments TINPU", 4, _TI),
)
DEVICES: dict[str, Device] = {device.name: device for device in _ALL}
NAMES: tuple[str, ...] = get_args(DeviceName)
SHOWN = "pi5|pi4|pi3|pizero2|rk3588|rk3566|android|android-fp32|x86-avx512|x86-avx2|host"


def device_of(name: str) -> Device:
    """A device by name; "host" is this machine. Raises UsageError."""
    if name == "host":
        return host_device()
    if name not in DEVICES:
        raise UsageError(f"there is no device '{name}'", hint=f"one of {', '.join(NAMES)}")
    return DEVICES[name]


def isa_of(name: str) -> Isa:
    """The instruction set that latency on a device is judged by; this machine's where it is an accelerator."""
    return device_of(name).isa or host_isa()


def host_device() -> Device:
    """This machine, as far as widths depend on it."""
    isa = host_isa()
    fp16: Arithmetic = "fp16" if isa == "neon-fp16" else "fp32"
    grids = {"avx512": 16, "avx2": 8, "neon-fp16": 8, "neon": 4}
    return Device("host", "this machine", isa, fp16, (), grids[isa])


def host_isa() -> Isa:
    """The widest instruction set of this machine that runtimes use."""
    if bits := processor.arm_bits():
        return "neon-fp16" if bits == 64 and _has_half() else "neon"
    return "avx512" if "avx512f" in processor.flags() else "avx2"


def adds_in_16_bits(name: str) -> bool:
    """Whether onnxruntime's int8 kernels there add pairs of products in 16 bits, where 8-bit weights overflow.

    AVX2 and AVX-512 without VNNI do. Of a machine that is only named with AVX-512, VNNI is assumed.
    """
    if name == "host":
        return processor.adds_in_16_bits()
    return device_of(name).isa == "avx2"


_AT_HWCAP, _HWCAP_ASIMDHP = 16, 1 << 10  # <linux/auxvec.h>, arm64's <asm/hwcap.h>


def _has_half() -> bool:
    """Whether an ARM64 processor has fp16 arithmetic, which a Pi 4's and older ones have not."""
    if sys.platform == "darwin":
        return True  # every Apple chip
    try:
        ask = ctypes.CDLL(None).getauxval
        ask.restype, ask.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
        return bool(ask(_AT_HWCAP) & _HWCAP_ASIMDHP)
    except (OSError, AttributeError, TypeError):
        return "asimdhp" in processor.flags()
