"""The author's own export of the same weights, as what a result is compared with (`--reference model.onnx`).

A checkpoint is rebuilt from classes known by name; what its own code computes, only its own export knows. That export
may call its input and outputs otherwise, leave sizes open, or give the training outputs besides: it is fitted to the
model's, or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, compose, helper

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import require_file
from onnxslim_yolo.load.onnx import read_onnx

PREFIX = "reference/"

Shape = tuple[int | None, ...]


def fit_reference(file: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The export with `model`'s inputs, and of its outputs those that `model` has, in its order and under its names.

    Outputs are matched by name, else by shape in their order.

    Raises:
        InputError: the file is broken, or does not take or give what the model does.
    """
    require_file(file)
    export = read_onnx(file)
    held = {tensor.name for tensor in export.graph.initializer}
    inputs = [value for value in export.graph.input if value.name not in held]
    if len(inputs) != len(model.graph.input):
        raise InputError(f"takes {len(inputs)} inputs, the model {len(model.graph.input)}", file=file)
    for theirs, ours in zip(inputs, model.graph.input, strict=True):
        if not _fits(_shape(theirs), _shape(ours)):
            raise InputError(
                f"takes {_text(_shape(theirs))} where the model takes {_text(_shape(ours))}",
                file=file,
                hint="--imgsz sets the model's size to the one that was exported",
            )
    chosen = _matched(list(export.graph.output), list(model.graph.output), file)
    return _wired(export, [value.name for value in inputs], [value.name for value in chosen], model)


def _matched(
    theirs: Sequence[onnx.ValueInfoProto], ours: Sequence[onnx.ValueInfoProto], file: Path
) -> list[onnx.ValueInfoProto]:
    """One of theirs for each of ours."""
    free, chosen = list(theirs), []
    for wanted in ours:
        fitting = [value for value in free if _fits(_shape(value), _shape(wanted))]
        named = [value for value in fitting if value.name == wanted.name]
        if not fitting:
            given = ", ".join(f"{value.name} {_text(_shape(value))}" for value in theirs)
            raise InputError(
                f"gives nothing like the model's {wanted.name} {_text(_shape(wanted))}; it gives {given}",
                file=file,
                hint="export the same weights with the head decoded as the model decodes it, without NMS, at its size",
            )
        chosen.append((named or fitting)[0])
        free.remove(chosen[-1])
    return chosen


def _wired(
    export: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str], model: onnx.ModelProto
) -> onnx.ModelProto:
    """The export behind the model's inputs and outputs, its own names out of their way."""
    fitted = compose.add_prefix(export, PREFIX)
    graph = fitted.graph
    theirs = {value.name: value for value in (*graph.input, *graph.output)}
    before = [
        _step(ours.name, ours, PREFIX + name, theirs) for ours, name in zip(model.graph.input, inputs, strict=True)
    ]
    behind = [
        helper.make_node("Cast", [PREFIX + name], [ours.name], to=ours.type.tensor_type.elem_type)
        for ours, name in zip(model.graph.output, outputs, strict=True)
    ]
    nodes = [*before, *graph.node, *behind]
    kept = [value for value in graph.input if value.name not in {PREFIX + name for name in inputs}]
    for field, values in (
        (graph.node, nodes),
        (graph.input, [*model.graph.input, *kept]),
        (graph.output, model.graph.output),
    ):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)
    del graph.value_info[:]
    return fitted


def _step(
    source: str, ours: onnx.ValueInfoProto, target: str, theirs: dict[str, onnx.ValueInfoProto]
) -> onnx.NodeProto:
    kind = theirs[target].type.tensor_type.elem_type or ours.type.tensor_type.elem_type or TensorProto.FLOAT
    return helper.make_node("Cast", [source], [target], to=kind)


def _shape(value: onnx.ValueInfoProto) -> Shape | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim)


def _fits(theirs: Shape | None, ours: Shape | None) -> bool:
    """Whether they may be the same; what is open may be anything."""
    if theirs is None or ours is None:
        return True
    return len(theirs) == len(ours) and all(a is None or b is None or a == b for a, b in zip(theirs, ours, strict=True))


def _text(shape: Shape | None) -> str:
    return "?" if shape is None else "(" + ", ".join("?" if n is None else str(n) for n in shape) + ")"
