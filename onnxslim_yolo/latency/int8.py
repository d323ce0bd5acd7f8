"""Latency of layers in int8: entries of a table beside those of their float forms.

A table holds a layer's int8 form as a family of the same kind whose `op` ends in "int8" ("int8", "silu int8"), so that
tables with and without such entries are one format. What was not measured is not estimated: whether int8 gains depends
on instructions (dot products, VNNI) that the analytic model does not know.

In ncnn a convolution's int8 form reads and writes floats, and nothing else has one. onnxruntime hands codes on, and
what makes or reads codes at the ends of a chain is a layer of its own: "quantize" and "dequantize".
"""

from __future__ import annotations

from dataclasses import replace

from onnxslim_yolo.latency.layers import Family, LayerKey
from onnxslim_yolo.latency.packing import Runtime
from onnxslim_yolo.latency.table import LatencyTable

INT8 = "int8"
ENDS = ("quantize", "dequantize")
IN_NCNN = frozenset(("conv", "depthwise"))
IN_ONNXRUNTIME = frozenset(
    ("conv", "group-conv", "depthwise", "maxpool", "avgpool", "resize", "concat", "split", "binary", "unary")
)
UNARY = frozenset(("sigmoid", "silu", "leaky"))


def int8_form(family: Family) -> Family:
    """The family of a layer's int8 form."""
    return replace(family, op=f"{family.op} {INT8}".strip())


def float_form(family: Family) -> Family:
    """The family that an int8 form is one of."""
    return replace(family, op=family.op.removesuffix(INT8).strip())


def is_int8(family: Family) -> bool:
    """Whether a family is an int8 form."""
    return family.op.split(" ")[-1] == INT8


def has_form(family: Family, runtime: Runtime) -> bool:
    """Whether a runtime has an int8 form of it."""
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


def int8_us(table: LatencyTable, key: LayerKey) -> float | None:
    """µs of a layer's int8 form; None where nothing like it was measured."""
    family = key.family if is_int8(key.family) else int8_form(key.family)
    alone = table.measured(family, key.ins, key.outs)
    return None if alone is None else table.scale * alone + table.overhead


def scaled_int8(table: LatencyTable, factor: float) -> LatencyTable:
    """A table whose int8 times are this many times what they are."""
    families = {
        family: replace(grid, us={cell: us * factor for cell, us in grid.us.items()}) if is_int8(family) else grid
        for family, grid in table.families.items()
    }
    return replace(table, families=families, _cache={})
