"""Attributes as the ONNX schema means them: what a node says, and what the schema says where it says nothing.

No default is typed anywhere else. Three things differ between versions of an operator, and end here:

1. A default: Softmax's `axis` was 1 and is −1. `spell_out` writes it down, on load.
2. A name that was dropped (`spatial`): the newest version that has it tells its default.
3. An attribute that became an input (the axes of Squeeze and of reductions, the bounds of Slice and Clip, the widths of
   Pad, the sizes of Split, the scales of Upsample): `operand` reads it wherever it is, `set_operand` writes it there.

Nothing that the schema implies is put on a node, so that what is written is as short as what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import Array, Node, constant_of, has_input, replace_constant

FORMER = {"constant_value": "value", "K": "k"}
"""Inputs that were attributes of another name."""

FIRST_RESIZE = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
"""What Upsample, and Resize of opset 10, do: they had no attributes that say so."""

PER_AXIS = {"strides": 1, "dilations": 1, "pads": 0, "output_padding": 0}
"""What windows take per axis where nothing is said (the schema has it in words: "defaults to 1 along each axis")."""

UNFOLLOWED_AXES = {"Concat": "axis", "Flatten": "axis", "Squeeze": "axes", "Unsqueeze": "axes", "Slice": "axes"}
"""Operators before opset 11 whose shapes onnx does not infer with an axis counted from the end: the attribute of it."""

AXES_OF_THE_RESULT = frozenset({"Unsqueeze"})
"""Those of them whose axes are counted in what they make, which has as many more."""


@cache
def defaults(op: str) -> Mapping[str, Any]:
    """Attribute → default of an operator, by the newest version of its schema that has the attribute."""
    found: dict[str, Any] = {}
    for schema in _versions(op):
        for name, attribute in schema.attributes.items():
            if name not in found and attribute.default_value.type:
                found[name] = _plain(onnx.helper.get_attribute_value(attribute.default_value))
    return found


def attributes(op: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All attributes of an operator that are said or have a default; text as text."""
    return {**defaults(op), **{name: _plain(value) for name, value in given.items()}}


def attribute(node: Node, name: str) -> Any:
    """A node's attribute: what it says, else the schema's default, else None. Text as text."""
    value = node.attrs.get(name)
    if value is None:
        value = FIRST_RESIZE.get(name) if is_first_resize(node) else None
    return defaults(node.op).get(name) if value is None else _plain(value)


def per_axis(node: Node, name: str, rank: int) -> list[int]:
    """`strides`, `dilations`, `pads` or `output_padding` of a window over `rank` axes; of pads twice as many."""
    return window_numbers(node.attrs, name, rank)


def window_numbers(given: Mapping[str, Any], name: str, rank: int) -> list[int]:
    """As `per_axis`, of attributes by name."""
    values = given.get(name)
    if values is None or not len(values):
        return [PER_AXIS[name]] * (2 * rank if name == "pads" else rank)
    return [int(value) for value in values]


def permutation(node: Node, rank: int) -> list[int]:
    """The axes of a Transpose; the reverse where it says none."""
    given = node.attrs.get("perm")
    return list(range(rank - 1, -1, -1)) if given is None else [int(axis) for axis in given]


def softmax_axes(node: Node, rank: int, opset: int) -> list[int]:
    """The axes over which a Softmax, LogSoftmax or Hardmax adds up to one: before opset 13 all from its own on."""
    axis = int(attribute(node, "axis")) % rank
    return list(range(axis, rank)) if opset < 13 else [axis]


def operand(node: Node, name: str) -> Array | None:
    """A constant that says how a node works, be it an input or, in older opsets, an attribute.

    None where it is not given, and where it is computed: `is_computed` tells which.
    """
    index = _place(node, name)
    if index is not None and has_input(node, index):
        return constant_of(node.inputs[index])
    value = attribute(node, FORMER.get(name, name))
    if value is None or (name in ("min", "max") and abs(value) >= np.finfo(np.float32).max):
        return None  # a bound that was a default once, and bounds nothing
    return np.atleast_1d(np.asarray(value))


def is_computed(node: Node, name: str) -> bool:
    """Whether something says it that is no constant."""
    index = _place(node, name)
    return index is not None and has_input(node, index) and constant_of(node.inputs[index]) is None


def set_operand(node: Node, name: str, values: Array, opset: int, fresh: Callable[[], str]) -> None:
    """Say an operand otherwise, where this version of the operator has it; `fresh` names the constant if it is one."""
    if _is_attribute(node.op, FORMER.get(name, name), opset):
        node.attrs[FORMER.get(name, name)] = values.reshape(-1).tolist()
        return
    index = _place(node, name)
    if index is None:
        raise ValueError(f"{node.op} has no operand '{name}'")
    replace_constant(node, index, values, fresh())


def former_inputs(node: Node) -> dict[int, Array]:
    """What a node says in attributes and newer versions of it in inputs, by their places."""
    schema = next(iter(_versions(node.op)), None)
    inputs = [formal.name for formal in schema.inputs] if schema is not None else []
    said = {place: FORMER.get(name, name) for place, name in enumerate(inputs)}
    return {place: np.asarray(node.attrs[name]) for place, name in said.items() if name in node.attrs}


def spell_out(graph: gs.Graph) -> None:
    """Write down the defaults that later versions of an operator have changed, where a node relies on them."""
    for node in graph.nodes:
        for name, value in _superseded(node.op, int(graph.opset)).items():
            node.attrs.setdefault(name, value)


@cache
def _superseded(op: str, opset: int) -> Mapping[str, Any]:
    """Attribute → default, where the version at an opset has another one than the newest."""
    own: Mapping[str, Any] = next((s.attributes for s in _versions(op) if s.since_version <= opset), {})
    given = {name: a.default_value for name, a in own.items() if a.default_value.type}
    values = {name: _plain(onnx.helper.get_attribute_value(value)) for name, value in given.items()}
    return {name: value for name, value in values.items() if value != defaults(op)[name]}


@cache
def _versions(op: str) -> tuple[Any, ...]:
    """Every version of an operator's schema, the newest first; none where the installed onnx is older than it."""
    found: list[Any] = []
    version = onnx.defs.onnx_opset_version()
    while version > 0:
        try:
            found.append(onnx.defs.get_schema(op, version, ""))
        except onnx.defs.SchemaError:
            break
        version = found[-1].since_version - 1
    return tuple(found)


def since(op: str) -> int:
    """The first opset that has an operator as it works today: those before 6 tell what is done in place."""
    return max(6, int(_versions(op)[-1].since_version))


@cache
def _is_attribute(op: str, name: str, opset: int) -> bool:
    version = next((schema for schema in _versions(op) if schema.since_version <= opset), None)
    return version is not None and name in version.attributes


@cache
def _names(op: str) -> Mapping[str, int]:
    """Input → place, by the newest version that has it."""
    found: dict[str, int] = {}
    for schema in _versions(op):
        for place, formal in enumerate(schema.inputs):
            found.setdefault(formal.name, place)
    return found


def _place(node: Node, name: str) -> int | None:
    if is_first_resize(node):  # without regions in front of its scales
        return 1 if name == "scales" else None
    return _names(node.op).get(name)


def is_first_resize(node: Node) -> bool:
    """Whether it enlarges as Upsample does, which Resize did at opset 10."""
    return node.op == "Upsample" or (node.op == "Resize" and len(node.inputs) == 2)


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
