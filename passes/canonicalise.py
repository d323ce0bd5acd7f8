"""canonicalise: one plain spelling of what exporters write in many ways.

1. The input gets its size: symbolic height and width become `imgsz`; a symbolic batch stays symbolic.
2. Shapes are inferred, `Shape` and what is computed from it becomes constant wherever it does not depend on the batch,
   and any node of constants alone is computed (`shape_nodes`), unless that would make the file larger. Repeated until
   nothing changes, since one answers the other.
3. A Reshape whose target is known but for the batch gets a constant target with −1 (or 0: copy) there; what else is
   computed from the batch is written down (`target_nodes`).
4. Identity, Dropout, Casts to the same type, and Reshape, Transpose, Expand, Slice, Pad, Concat that change nothing go
   (`noop_nodes`).
5. An Einsum becomes the nodes it stands for (`einsum_nodes`), so do casts by example, sequences of parts and gathers by
   lists of places (`exporter_nodes`), a Gemm or MatMul a plain layer (`gemm_nodes`), a CenterCropPad a Pad
   (`crop_nodes`), a ScatterND that writes a box a Concat (`scatter_nodes`), and an Expand goes that its readers do
   themselves (`expand_nodes`).
6. Vectors (biases, BatchNorm parameters) that an exporter merged because their values are equal become separate again:
   sharing them would tie channels that have nothing to do with each other. Equal integer constants are merged
   (`shared_constants`).
7. What no output needs goes.

All of it is exact: no arithmetic on activations changes, but for the order of summation in an Einsum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.errors import InputError, OnnxSlimError
from onnxslim_yolo.ir.graph import sweep, toposort
from onnxslim_yolo.ir.input_format import image_axes
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.old_axes import settle_axes
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.rewrites.crop_nodes import pads_for_crops
from onnxslim_yolo.rewrites.einsum_nodes import rewrite_einsums
from onnxslim_yolo.rewrites.expand_nodes import drop_expands
from onnxslim_yolo.rewrites.exporter_nodes import rewrite_exported
from onnxslim_yolo.rewrites.gemm_nodes import plain_gemms
from onnxslim_yolo.rewrites.noop_nodes import drop_noops
from onnxslim_yolo.rewrites.scatter_nodes import boxes_for_scatters
from onnxslim_yolo.rewrites.shape_nodes import Room, fold_constants, resolve_reshapes
from onnxslim_yolo.rewrites.shared_constants import merge_integers, separate_vectors
from onnxslim_yolo.rewrites.target_nodes import resolve_targets

DEFAULT_SIZE = 640
GUESSED = "the input's size was guessed:"
_OTHER_SIZE = "the graph may hold sizes for other images: give the --imgsz that it was exported with"


@dataclass(frozen=True)
class Canonicalise:
    """Fold constants, resolve shape arithmetic, drop what does nothing.

    Args:
        height: the input's height in pixels where the file leaves it open (0: what the file says, else 640).
        width: the same for its width.
    """

    name: ClassVar[str] = "canonicalise"

    height: int = 0
    width: int = 0

    def run(self, model: Model) -> int:
        """Canonicalise in place; return the number of rewrites.

        Raises:
            InputError: the size contradicts a fixed input size, or the graph's shapes contradict each other.
        """
        fixed = self._fix_inputs(model)
        try:
            return fixed + _simplify(model.graph)
        except OnnxSlimError as error:
            guess = next((note for note in model.notes if note.startswith(GUESSED)), None)
            error.file = error.file or model.source.file
            error.hint = guess or (_OTHER_SIZE if fixed and (self.height or self.width) else error.hint)
            raise

    def _fix_inputs(self, model: Model) -> int:
        fixed = 0
        for tensor in model.graph.inputs:
            if tensor.shape is None or len(tensor.shape) != 4:
                continue
            size = [self.height, self.width]
            channel, axes = image_axes(tensor.shape)
            sides = [tensor.shape[axis] for axis in axes]
            stored, guessed = _stored_size(model)
            opened = [k for k in (0, 1) if not _is_fixed(sides[k])]
            for k, axis in enumerate(axes):
                if k in opened:
                    sides[k] = size[k] or stored[k]
                    tensor.shape = [*tensor.shape[:axis], sides[k], *tensor.shape[axis + 1 :]]
                    fixed += 1
                elif size[k] and size[k] != sides[k]:
                    raise InputError(
                        f"the input '{tensor.name}' is fixed at {sides[0]}x{sides[1]} pixels, "
                        f"not {size[0] or sides[0]}x{size[1] or sides[1]}",
                        file=model.source.file,
                        hint="leave --imgsz out, or export the model with a dynamic size or the size you want",
                    )
            if opened:
                chosen = guessed and not all(size[k] for k in opened)
                model.note(_size_note(tensor.name, sides, chosen))
            if not _is_fixed(tensor.shape[channel]):
                tensor.shape = [*tensor.shape[:channel], 3, *tensor.shape[channel + 1 :]]
                fixed += 1
        return fixed


_REWRITES = (
    settle_axes, resolve_reshapes, resolve_targets, drop_noops, rewrite_einsums, rewrite_exported, plain_gemms,
    pads_for_crops, boxes_for_scatters,
)  # fmt: skip


def _simplify(graph: gs.Graph) -> int:
    """Fold and rewrite until nothing changes; how many rewrites."""
    rewrites = sweep(graph)
    graph.nodes = toposort(graph)
    room = Room.of(graph)
    while True:
        reinfer(graph)
        changed = 0
        for rewrite in (drop_expands, partial(fold_constants, room=room), *_REWRITES):
            made = rewrite(graph)
            if made:
                changed += made + sweep(graph)  # no rewrite meets a node that another left detached
                graph.nodes = toposort(graph)
        rewrites += changed
        if not changed:
            break
    rewrites += separate_vectors(graph) + merge_integers(graph)
    return rewrites


def _is_fixed(dim: object) -> bool:
    return bool(isinstance(dim, (int, np.integer)) and dim > 0)


def _size_note(name: str, sides: Sequence[int], guessed: bool) -> str:
    """What is said where a file leaves its input's height or width open."""
    size = f"{sides[0]}x{sides[1]}"
    if guessed:
        return f"{GUESSED} {size}, for '{name}' leaves it open; --imgsz says otherwise"
    return f"'{name}' leaves its size open: it is compiled at {size}"


def _stored_size(model: Model) -> tuple[tuple[int, int], bool]:
    """The image size that Ultralytics' exporter left in the metadata, else 640; and whether that is a guess."""
    digits = "".join(c if c.isdigit() else " " for c in model.metadata.get("imgsz", "")).split()
    sizes = [int(d) for d in digits if 0 < int(d) <= 1 << 14]
    if not sizes:
        return (DEFAULT_SIZE, DEFAULT_SIZE), True
    return (sizes[0], sizes[-1]), False
