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

from onnxslim_yolo.analysis.decode_region import UnrecognisedError
from onnxslim_yolo.analysis.head import HeadCut, find_head
from onnxslim_yolo.graph import Model, sweep
from onnxslim_yolo.head_spec import HEAD_KEY


@dataclass(frozen=True)
class Head:
    """Where the network ends: `raw` at the maps of its last convolutions; `keep` leaves it as it is.

    Options:
        to: `raw` cuts the decode off. `decoded` asks for boxes as the output: nothing to do for a model that has them,
            and refused with a note for one that ends in raw maps. `keep` does nothing.
    """

    name: ClassVar[str] = "head"
    effect: ClassVar[str] = "head"

    to: Literal["keep", "raw", "decoded"] = "raw"

    def run(self, model: Model) -> int:
        """Cut, if asked to and possible. Returns 1 if the outputs changed, else 0; a refusal leaves a note."""
        if self.to == "keep":
            return 0
        if self.to == "decoded":
            return _expect_decoded(model)
        if HEAD_KEY in model.metadata:
            return 0
        try:
            cut = find_head(model)
        except UnrecognisedError as reason:
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


def _expect_decoded(model: Model) -> int:
    if any(output.shape is not None and len(output.shape) == 3 for output in model.graph.outputs):
        return 0
    model.note("head: the model ends in raw maps; decode them with onnxslim_yolo.postprocess")
    return 0
