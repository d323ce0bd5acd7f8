"""Latency from packing rules alone: for runtimes and instruction sets of which there is no table.

A layer takes  c₀ + max(arithmetic, memory)  µs, where

* arithmetic = multiply-accumulates at the widths that are computed (onnxruntime pads outputs to whole blocks), over a
  rate per register lane, times a penalty for each side whose channels do not fill the registers;
* memory = bytes read and written over a bandwidth.

Pooling and depthwise layers work on k² taps an element and, unpacked, on one channel at a time; that is where the worst
cliffs are. The constants were fitted to one-layer networks on an AVX-512 core (ncnn 1.0.20261020, onnxruntime 1.31) and
stand for others only in proportion: good for choosing widths, not for promising milliseconds. Those of ARM in ncnn
come from counted instructions (see `neon`); onnxruntime interleaves no channels there, so that its widths are smooth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from onnxslim_yolo.latency.layers import Family, LayerKey
from onnxslim_yolo.latency.neon import averaged, copied, depthwise, enlarged, mapped, moved, multiplied, pooled
from onnxslim_yolo.latency.packing import ALIGNMENT, Runtime, blocks_of, lanes_of, pack_of, padded


@dataclass(frozen=True)
class Constants:
    """What is fitted.

    Attributes:
        call: µs that any layer takes.
        macs: 10³ multiply-accumulates per µs and lane, 1×1.
        winograd: how many times faster 3×3 stride 1 is, per multiply-accumulate.
        partial: factor for a side whose pack is half a register; odd: for one whose channels are not packed at all.
        taps: 10³ taps of pooling and depthwise per µs and lane.
        lonely: by what an unpacked channel's tap is slower than a full register's, at most (compilers vectorise some).
        bandwidth: 10³ elements moved per µs.
        exponentials: 10³ of them per µs and lane.
    """

    call: float
    macs: float
    winograd: float
    partial: float
    odd: float
    taps: float
    lonely: float
    bandwidth: float
    exponentials: float


CONSTANTS: dict[Runtime, Constants] = {
    "ncnn": Constants(2.0, 5.3, 2.6, 1.1, 1.35, 1.0, 8.0, 6.0, 0.12),
    "onnxruntime": Constants(3.0, 5.5, 1.0, 1.05, 1.45, 0.8, 2.0, 4.0, 0.12),
}
ARM: dict[str, Constants] = {
    "neon-fp16": Constants(2.0, 3.4, 1.0, 1.0, 1.0, 1.7, 1.0, 4.0, 0.152),
    "neon": Constants(2.5, 1.2, 1.0, 1.0, 1.0, 0.9, 1.0, 1.4, 0.053),
}
"""Of ncnn on ARM: a Cortex-A76 in fp16, a Cortex-A72 in fp32."""

REGISTER = 4
"""fp32 numbers in an ARM register: what onnxruntime computes with there, whatever arithmetic there is."""

REORDERED = 3.0e3
"""Elements per µs that onnxruntime converts between blocked and plain layout."""

EXPENSIVE = frozenset({"silu", "sigmoid", "mish", "gelu", "tanh", "elu", "exp"})
"""Activations that evaluate an exponential."""


@dataclass(frozen=True)
class AnalyticModel:
    """Predicts layers of a runtime on an instruction set; one thread."""

    runtime: Runtime
    isa: str

    @cached_property
    def lanes(self) -> int:
        """Channels in a register."""
        return lanes_of(self.isa)

    @cached_property
    def blocks(self) -> int:
        """Channels that the runtime interleaves."""
        return blocks_of(self.runtime, self.isa)

    @cached_property
    def constants(self) -> Constants:
        """What is fitted for this runtime and instruction set."""
        return ARM[self.isa] if self._on_arm else CONSTANTS[self.runtime]

    @cached_property
    def _on_arm(self) -> bool:
        return self.runtime == "ncnn" and self.isa in ARM

    @cached_property
    def _vector(self) -> int:
        """Numbers that one instruction computes."""
        return REGISTER if self.blocks == 1 else self.lanes

    def predict(self, key: LayerKey) -> float:
        """µs of one layer."""
        return self.estimate(key.family, key.ins, key.outs) + self.conversion(key.family, key.ins, key.outs)

    def conversion(self, family: Family, ins: tuple[int, ...], outs: tuple[int, ...]) -> float:
        """µs that onnxruntime spends around a layer on changing layouts; 0 in ncnn, whose layers do it themselves.

        Blocked convolutions feed each other without conversion. A convolution with fewer channels than a block reads
        plain layout; a Concat of blocked tensors needs whole blocks in every part, a Split always plain layout
        (onnxruntime's `nchwc_transformer.cc`). What a neighbour hands over is not known here: where a width is no
        multiple of 4, the layers around are taken to be in plain layout, too.
        """
        if self.runtime != "onnxruntime" or self.blocks == 1:
            return 0.0
        blocks = [width % self.lanes == 0 for width in (*ins, *outs)]
        moved = 0.0
        if family.kind == "conv" and 4 < ins[0] < self.lanes:
            moved = family.area * prod(family.stride) * ins[0]
        elif family.kind == "split" or (family.kind == "concat" and not all(blocks)):
            moved = family.area * sum(w for w in (*ins, *outs) if w % ALIGNMENT == 0)
        return moved / REORDERED

    def estimate(self, family: Family, ins: tuple[float, ...], outs: tuple[float, ...]) -> float:
        """µs for widths that need not be whole (a fraction falls in the class of the nearest whole number)."""
        constants = self.constants
        elements = family.area * sum(outs)
        if family.kind in ("conv", "group-conv", "deconv", "matmul"):
            work = self._multiply(family, ins[0], outs[0], constants)
        elif family.kind in ("depthwise", "maxpool", "avgpool"):
            work = elements * prod(family.kernel) / (constants.taps * 1e3 * self._vector)
            if self._on_arm:
                work *= {"depthwise": depthwise, "maxpool": pooled, "avgpool": averaged}[family.kind](
                    self.lanes, outs[0], family
                )
            elif self.blocks == 1:
                pass  # nothing is interleaved: every width is like any other
            elif self._pack(outs[0]) == 1 and family.kind != "avgpool":
                work *= min(constants.lonely, self.lanes)
            elif self._pack(outs[0]) < self.lanes:
                work *= self.lanes / self._pack(outs[0]) / 1.3 if self.runtime == "ncnn" else 1.2
        elif family.op in EXPENSIVE:
            work = elements / (constants.exponentials * 1e3 * self._vector)
        elif family.kind == "move" and self._on_arm:
            work = elements / (constants.bandwidth * 1e3) * moved(self.lanes, family.op)
        elif family.op in ("view", "slice"):
            work = elements * (0.25 if self.runtime == "ncnn" else 0.0) / (constants.bandwidth * 1e3)
        else:
            work = elements / (constants.bandwidth * 1e3) * self._repacking(family, ins, outs)
        inputs = family.area * prod(family.stride) * sum(ins) if family.kind not in ("matmul", "move") else 0.0
        if self._on_arm:
            inputs = elements if family.kind == "move" else inputs
            return constants.call + work + mapped(self.lanes, inputs + elements)
        memory = (inputs + elements) / (4 * constants.bandwidth * 1e3)
        return constants.call + max(work, memory)

    def _pack(self, width: float) -> int:
        pack = self._packs.get(width)
        if pack is None:
            pack = self._packs[width] = pack_of(self.runtime, self.blocks, int(width + 0.5))
        return pack

    @cached_property
    def _packs(self) -> dict[float, int]:
        """Of widths that were asked for: a table is thousands of them."""
        return {}

    def _multiply(self, family: Family, cin: float, cout: float, constants: Constants) -> float:
        taps, packs = prod(family.kernel), (self._pack(cin), self._pack(cout))
        wide = padded(self.runtime, self.blocks, cout) if packs[0] > 1 else cout
        macs = family.area * taps * cin * wide / family.groups
        if family.kind == "deconv":
            macs /= prod(family.stride)
        rate = constants.macs * 1e3 * self._vector
        if self.blocks == 1:
            return macs / rate
        if self._on_arm:
            alone = 2.0 if family.kind == "group-conv" and self._pack(min(cin, cout)) == 1 else 1.0
            return macs * multiplied(family, self.lanes, cin, cout) * alone / rate
        if family.kind == "conv" and family.kernel == (3, 3) and family.stride == (1, 1) and min(cin, cout) >= 8:
            rate *= constants.winograd
        for pack in packs[:1] if self.runtime == "onnxruntime" else packs:
            macs *= constants.odd if pack == 1 else constants.partial if pack < self.lanes else 1.0
        if family.kind == "group-conv" and self._pack(min(cin, cout)) == 1:
            macs *= 2.0
        return macs / rate

    def _repacking(self, family: Family, ins: tuple[float, ...], outs: tuple[float, ...]) -> float:
        """How much slower a copy is whose parts are packed unlike each other or not at all."""
        if family.kind not in ("concat", "split", "resize", "binary"):
            return 1.0
        if self._on_arm and family.kind == "resize":
            return enlarged(self.lanes, outs[0])
        packs = {self._pack(width) for width in (*ins, *outs)}
        if self._on_arm:
            return copied(family.kind, len(packs) == 1)
        return 1.0 if len(packs) == 1 and 1 not in packs else 1.5 if 1 not in packs else 2.0
