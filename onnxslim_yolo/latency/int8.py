"""Latency of layers in int8: entries of a table beside those of their float forms.

A table holds a layer's int8 form as a family of the same kind whose `op` ends in "int8" ("int8", "silu int8"), so that
tables with and without such entries are one format. What was not measured is not estimated: whether int8 gains depends
on instructions (dot products, VNNI) that the analytic model does not know.

In ncnn only convolutions and products with a weight have one, which reads and writes floats ("int8"), as what reads
these is to have them: ncnn's depthwise kernels leave them in packs of 8, which a Pi 4's other layers take apart one by
one. Where all readers are in int8 a convolution hands on codes instead, and has a time of its own ("codes int8").
onnxruntime hands codes on everywhere, and what makes or reads them at the ends of a chain is a layer of its own:
"quantize" and "dequantize". Its int8 convolutions read and write channels last; where another operator wants them
first, they are moved: "transpose".
Of a result that is clipped (ReLU6) ncnn's int8 kernels take one value at a time: "clip int8", "clip codes int8".
"""

from __future__ import annotations

from dataclasses import replace

from onnxslim_yolo.latency.layers import Family, LayerKey
from onnxslim_yolo.latency.packing import Runtime
from onnxslim_yolo.latency.table import LatencyTable

INT8 = "int8"
CODES, CLIPS = f"codes {INT8}", "clip"
HANDED_ON = 1024
"""Values of a map from which on ncnn's int8 convolutions hand on codes: of fewer nothing is gained, nor seen when it is
checked."""
TURN = "transpose"
ENDS = ("quantize", "dequantize", TURN)
THROUGH_NCNN = frozenset(("conv", "depthwise"))
"""What reads and writes codes in ncnn."""
IN_NCNN = THROUGH_NCNN | {"matmul"}
WITH_WEIGHT = IN_NCNN | {"group-conv"}
IN_ONNXRUNTIME = WITH_WEIGHT | {"maxpool", "avgpool", "resize", "concat", "split", "binary", "unary"}
UNARY = frozenset(("sigmoid", "silu", "leaky"))


def int8_form(family: Family) -> Family:
    """The family of a layer's int8 form."""
    return replace(family, op=f"{family.op} {INT8}".strip())


def codes_form(family: Family) -> Family:
    """The family of a convolution's int8 form that hands on codes in ncnn; of an int8 form, with what it clips."""
    clips = family.op.startswith(CLIPS)
    return replace(family, op=f"{CLIPS} {CODES}" if clips else CODES)


def clipped_form(family: Family) -> Family:
    """The family of an int8 form in ncnn whose result is clipped (ReLU6), which its kernels do one by one."""
    return replace(family, op=f"{CLIPS} {family.op}")


def gives_codes(family: Family) -> bool:
    """Whether a family is an int8 form that hands on codes in ncnn."""
    return family.op.endswith(CODES)


def clips(family: Family) -> bool:
    """Whether a family is an int8 form in ncnn whose result is clipped."""
    return family.op.startswith(f"{CLIPS} ")


def float_form(family: Family) -> Family:
    """The family that an int8 form is one of."""
    return replace(family, op="" if family.kind in IN_NCNN else family.op.removesuffix(INT8).strip())


def is_int8(family: Family) -> bool:
    """Whether a family is an int8 form."""
    return family.op.split(" ")[-1] == INT8


def has_form(family: Family, runtime: Runtime) -> bool:
    """Whether a runtime has an int8 form of it."""
    if family.kind == "matmul" and family.op:  # of two maps
        return False
    if runtime == "ncnn":
        return family.kind in IN_NCNN
    if family.kind == "resize":
        return family.op == "nearest"
    return family.kind in IN_ONNXRUNTIME and (family.kind != "unary" or family.op in UNARY)


def end_of_chain(which: str, size: tuple[int, int], width: int) -> LayerKey:
    """A tensor's codes made of floats ("quantize"), or the other way."""
    return LayerKey(Family("unary", f"{which} {INT8}", size=size), (width,), (width,))


def knows_int8(table: LatencyTable) -> bool:
    """Whether int8 was measured."""
    return any(is_int8(family) for family in table.families)


def int8_us(table: LatencyTable, key: LayerKey, *, codes: bool = False) -> float | None:
    """µs of a layer's int8 form, with its activation where that was measured; None where nothing like it was.

    `codes`: of that which hands on codes, where it was measured and takes less. What it takes more its reader takes
    less, which need not make them: on a Pi 5 and a Pi 4 the two together are within an instruction a value.
    """
    if is_int8(key.family):
        return _us(table, key.family, key)
    forms = [int8_form(key.family), codes_form(key.family)][: 1 + codes]
    if key.activation == CLIPS:
        times = [_us(table, clipped_form(form), key) for form in forms]
        if times[0] is not None:
            return min(us for us in times if us is not None)
    times = [_us(table, form, key) for form in forms]
    return None if times[0] is None else min(us for us in times if us is not None)


def _us(table: LatencyTable, family: Family, key: LayerKey) -> float | None:
    alone = table.measured(family, key.ins, key.outs)
    return None if alone is None else table.scale * alone + table.overhead


def without_int8(table: LatencyTable) -> LatencyTable:
    """A table that knows the floats' times only."""
    families = {family: grid for family, grid in table.families.items() if not is_int8(family)}
    return replace(table, families=families, _cache={}, _near={})


def scaled_int8(table: LatencyTable, factor: float) -> LatencyTable:
    """A table whose int8 times are this many times what they are."""
    families = {
        family: replace(grid, us={cell: us * factor for cell, us in grid.us.items()}) if is_int8(family) else grid
        for family, grid in table.families.items()
    }
    return replace(table, families=families, _cache={})
