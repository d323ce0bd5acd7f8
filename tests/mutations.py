"""Mistakes in one place of a model, each of which a comparison has to notice or to name the column as blind.

Columns are zeroed and swapped in what the model gave (that is what an edit behind the output would do); biases of the
last layers are dropped and single weight tensors spoiled by 1 % in the graph, which is then run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxslim_yolo.ir.graph import input_constant, replace_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import Canonicalise
from onnxslim_yolo.runtime.onnx_run import run_onnx
from onnxslim_yolo.verify.columns import Feeds
from onnxslim_yolo.verify.compare import TOLERANCE, Difference
from onnxslim_yolo.verify.control import last_layers, spoiled_weight
from onnxslim_yolo.verify.feeds import shared_feeds
from onnxslim_yolo.verify.judge import Judge, judge_of
from onnxslim_yolo.verify.ruler import Ruler
from onnxslim_yolo.verify.weights import changed_weights


@dataclass(frozen=True)
class Outcome:
    """One mistake: what was done, to what, and whether it was noticed, named (as blind, by its weights), or missed."""

    mutation: str
    place: str
    outcome: str
    worst: float


class Subject:
    """A model with its judge."""

    def __init__(self, path) -> None:
        self.model = Model.from_onnx(onnx.load(path))
        Canonicalise().run(self.model)
        self.feeds = shared_feeds(self.model)
        self.judge = judge_of(self.model, self.feeds)

    def run(self, model: Model) -> list[Feeds]:
        return run_onnx(model, self.feeds)


def outcome(mutation: str, place: str, found: list[Difference], ruler: Ruler | None, column: int = -1) -> Outcome:
    worst = max(found, key=lambda d: d.worst)
    if not worst.worst <= TOLERANCE:
        return Outcome(mutation, place, "noticed", worst.worst)
    named = ruler is not None and bool((ruler.blind | ruler.dim | ruler.silent)[column])
    return Outcome(mutation, place, "named blind" if named else "missed", worst.worst)


def columns_spoiled(judge: Judge, got: list[Feeds]) -> Iterator[Outcome]:
    """Every column zeroed, and every one swapped with its neighbour."""
    for name, ruler in judge.rulers.items():
        if name not in got[0]:
            continue
        axis, count = ruler.meaning.axis, ruler.meaning.count
        for column in range(count):
            for mutation in ("zero a column", "swap two columns"):
                other = (column + 1) % count
                runs = [dict(run) for run in got]
                for run in runs:
                    table = run[name].copy() if axis is None else np.moveaxis(run[name], axis, -1).copy()
                    if mutation == "zero a column":
                        table[..., column if axis is not None else slice(None)] = 0
                    elif count < 2:
                        continue
                    else:
                        table[..., [column, other]] = table[..., [other, column]]
                    run[name] = table if axis is None else np.moveaxis(table, -1, axis)
                if all(np.array_equal(a[name], b[name]) for a, b in zip(runs, got, strict=True)):
                    continue  # nothing was changed: the column is zero, or equals its neighbour
                place = f"{name}, {ruler.meaning.name(column)}"
                yield outcome(mutation, place, judge.compare(runs), ruler, column)


def biases_dropped(model: Model) -> Iterator[tuple[str, str, Model]]:
    """The model with one last layer's bias zero."""
    for layer in last_layers(model):
        bias = input_constant(layer, 2) if layer.op != "MatMul" else None
        if bias is None or not np.any(bias):
            continue
        copy = model.copy()
        twin = next(node for node in copy.graph.nodes if node.name == layer.name)
        replace_constant(twin, 2, np.zeros_like(bias))
        yield "drop a last layer's bias", layer.name, copy


def weights_spoiled(model: Model, most: int = 0) -> Iterator[tuple[str, str, Model]]:
    """The model with one weight tensor 1 % off; `most`: so many of them, evenly picked."""
    places = [
        (node.name, index, tensor.name)
        for node in model.graph.nodes
        for index, tensor in enumerate(node.inputs)
        if (value := input_constant(node, index)) is not None
        and value.dtype.kind == "f"
        and value.size > 1
        and np.any(value)
        and node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "Add", "Mul")
    ]
    step = 1 if not most else -(-len(places) // most)
    for node_name, index, tensor in places[::step]:
        copy = model.copy()
        twin = next(node for node in copy.graph.nodes if node.name == node_name)
        replace_constant(twin, index, spoiled_weight(np.asarray(input_constant(twin, index))), f"{tensor}__spoiled")
        yield "spoil a weight tensor by 1 %", tensor, copy


def _weights_of(subject: Subject, mutation: str, place: str, model: Model) -> Outcome:
    """As `verify` has it: what no output shows is named where the weights are compared by themselves."""
    found = outcome(mutation, place, subject.judge.compare(subject.run(model)), None)
    named = found.outcome == "missed" and changed_weights(subject.model, model)
    return replace(found, outcome="named") if named else found


def all_outcomes(subject: Subject, most: int = 0) -> Iterator[Outcome]:
    """Every mistake in onnxruntime."""
    yield from columns_spoiled(subject.judge, subject.run(subject.model))
    for mutation, place, model in (*biases_dropped(subject.model), *weights_spoiled(subject.model, most)):
        yield _weights_of(subject, mutation, place, model)
