"""Cut a detector's decode off, so that its raw maps become the outputs.

    maps (b, c_i, h_i, w_i) → [sigmoid, DFL, grids, anchors, TopK …] → table of boxes     becomes     maps

The arithmetic behind the last convolutions costs up to a sixth of a small detector's time, runs on every cell whether
it holds an object or not, and (TopK, GatherElements) is what NCNN cannot express. `onnxslim_yolo.postprocess` does it
on the few cells above the threshold instead. What that needs (kind of head, strides, anchors, bins, number of classes)
goes into the metadata `onnxslim_yolo.head`.

The head is recognised by what it computes (`analysis.head`), so it holds for any exporter's way to write it; what
is not recognised stays, and a note on the model says why. Other outputs (mask prototypes) stay behind the maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.heads.decode_region import NoDecodeError, UnrecognisedError
from onnxslim_yolo.heads.recognise import HeadCut, find_head
from onnxslim_yolo.heads.spec import HEAD_KEY, RANKED_KEY, HeadSpec
from onnxslim_yolo.ir.graph import Namer, Tensor, static_shape, sweep
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.rewrites.decode_nodes import DecodeWriter, write_v5, write_v8

_HINT = "--head keep compiles the model with its decode"


@dataclass(frozen=True)
class Head:
    """Where the network ends: `raw` at the maps of its last convolutions; `keep` leaves it as it is.

    Options:
        to: `raw` cuts the decode off. `decoded` writes one behind raw maps that the metadata describe; a model whose
            output is a table of boxes already stays. `keep` does nothing.
        strict: refuse a decode that is not recognised, which otherwise stays behind the maps, with a note.
    """

    name: ClassVar[str] = "head"
    effect: ClassVar[str] = "head"

    to: Literal["keep", "raw", "decoded"] = "raw"
    strict: bool = False

    def run(self, model: Model) -> int:
        """Cut, if asked to and possible. Returns 1 if the outputs changed, else 0; a refusal leaves a note.

        Raises:
            UnsupportedError: `strict`, and there is a decode that cannot be cut off.
        """
        if self.to == "keep":
            return 0
        if self.to == "decoded":
            return _decode(model)
        if HEAD_KEY in model.metadata:
            return 0
        try:
            cut = find_head(model)
        except UnrecognisedError as reason:
            if self.strict and not isinstance(reason, NoDecodeError):
                raise UnsupportedError(
                    f"the raw maps that are asked for cannot be had: {reason}", file=model.source.file, hint=_HINT
                ) from reason
            model.note(f"head: left as it is: {reason}")
            return 0
        apply_cut(model, cut)
        return 1


def apply_cut(model: Model, cut: HeadCut) -> None:
    """Let the maps take the table's place among the graph's outputs, and describe them in the metadata."""
    graph = model.graph
    others = [output for output in graph.outputs if output is not cut.table]
    for tensor, shape in zip(cut.maps, cut.shapes, strict=True):
        tensor.dtype, tensor.shape = tensor.dtype or cut.table.dtype, list(shape)
    graph.outputs = [*cut.maps, *others]
    sweep(graph)
    model.metadata[HEAD_KEY] = cut.spec.to_json()
    model.metadata.pop(RANKED_KEY, None)


def _decode(model: Model) -> int:
    graph = model.graph
    if any(output.shape is not None and len(output.shape) == 3 for output in graph.outputs):
        return 0
    try:
        head, maps, cells = _described(model)
    except UnrecognisedError as reason:
        model.note(f"head: left as it is: {reason}")
        return 0
    write = DecodeWriter(model)
    table = (write_v5 if head.kind == "v5-raw" else write_v8)(write, maps, cells, head)
    table.name, table.shape = Namer(graph)("boxes"), None
    graph.outputs = [table, *graph.outputs[head.outputs :]]
    del model.metadata[HEAD_KEY]
    reinfer(graph)
    return 1


def _described(model: Model) -> tuple[HeadSpec, list[Tensor], list[tuple[int, int]]]:
    """The head that the metadata describe, its maps, and each level's (h, w)."""
    if HEAD_KEY not in model.metadata:
        raise UnrecognisedError("the outputs are no table of boxes, and the metadata do not describe the head")
    head = HeadSpec.from_json(model.metadata[HEAD_KEY])
    if not head.kind.endswith("-raw") or head.end2end or (head.extra and head.kind == "v8-raw"):
        raise UnrecognisedError(
            f"writing the decode of a {head.kind} head with ranking, masks or points is not offered"
        )
    if model.opset < 13:
        raise UnrecognisedError(f"writing a decode needs opset 13 or later; the model has {model.opset}")
    maps = model.graph.outputs[: head.outputs]
    shapes = [static_shape(tensor) for tensor in maps]
    found = [shape for shape in shapes if shape is not None and len(shape) == 4]
    if len(found) != head.outputs:
        raise UnrecognisedError("writing a decode needs a fixed input size: the grid becomes a constant")
    return head, list(maps), [(shape[2], shape[3]) for shape in found[: head.levels]]
