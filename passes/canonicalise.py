"""canonicalise: one plain spelling of what exporters write in many ways.

1. The input gets its size: symbolic height and width become `imgsz`; a symbolic batch stays symbolic.
2. Shapes are inferred, `Shape` and what is computed from it becomes constant wherever it does not depend on the batch,
   and any node of constants alone is computed (`shape_nodes`), unless that would make the file larger. Repeated until
   nothing changes, since one answers the other.
3. A Reshape whose target is known but for the batch gets a constant target with −1 (or 0: copy) there; what else is
   computed from the batch is written down (`target_nodes`).
4. Identity, Dropout, Casts to the same type, and Reshape, Transpose, Expand, Slice, Pad, Concat that change nothing go
   (`noop_nodes`).
5. An Einsum becomes the nodes it stands for (`einsum_nodes`), so do casts by example and sequences of parts
   (`exporter_nodes`), a Gemm a plain layer (`gemm_nodes`), and an Expand goes that its readers do themselves
   (`expand_nodes`).
6. Vectors (biases, BatchNorm parameters) that an exporter merged because their values are equal become separate again:
   sharing them would tie channels that have nothing to do with each other. Equal integer constants are merged
   (`shared_constants`).
7. What no output needs goes.

All of it is exact: no arithmetic on activations changes, but for the order of summation in an Einsum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.graph import Model, sweep, toposort
from onnxslim_yolo.passes.einsum_nodes import rewrite_einsums
from onnxslim_yolo.passes.expand_nodes import drop_expands
from onnxslim_yolo.passes.exporter_nodes import rewrite_exported
from onnxslim_yolo.passes.gemm_nodes import plain_gemms
from onnxslim_yolo.passes.noop_nodes import drop_noops
from onnxslim_yolo.passes.shape_nodes import Room, fold_constants, resolve_reshapes
from onnxslim_yolo.passes.shared_constants import merge_integers, separate_vectors
from onnxslim_yolo.passes.target_nodes import resolve_targets
from onnxslim_yolo.shapes import reinfer

DEFAULT_SIZE = 640


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
        graph = model.graph
        rewrites = self._fix_inputs(model)
        rewrites += sweep(graph)
        graph.nodes = toposort(graph)
        room = Room.of(graph)
        while True:
            reinfer(graph)
            changed = drop_expands(graph) + sweep(graph)
            graph.nodes = toposort(graph)
            changed += (
                fold_constants(graph, room) + resolve_reshapes(graph) + resolve_targets(graph) + drop_noops(graph)
            )
            changed += rewrite_einsums(graph) + rewrite_exported(graph) + plain_gemms(graph)
            changed += sweep(graph)
            rewrites += changed
            if not changed:
                break
            graph.nodes = toposort(graph)
        rewrites += separate_vectors(graph) + merge_integers(graph)
        return rewrites

    def _fix_inputs(self, model: Model) -> int:
        fixed = 0
        for tensor in model.graph.inputs:
            if tensor.shape is None or len(tensor.shape) != 4:
                continue
            size = [self.height, self.width]
            stored = _stored_size(model)
            for k, axis in enumerate((2, 3)):
                dim = tensor.shape[axis]
                if not isinstance(dim, (int, np.integer)) or dim <= 0:
                    tensor.shape = [*tensor.shape[:axis], size[k] or stored[k], *tensor.shape[axis + 1 :]]
                    fixed += 1
                elif size[k] and size[k] != dim:
                    raise InputError(
                        f"the input '{tensor.name}' is fixed at {tensor.shape[2]}x{tensor.shape[3]} pixels, "
                        f"not {size[0] or dim}x{size[1] or dim}",
                        file=model.source.file,
                        hint="leave --imgsz out, or export the model with a dynamic size or the size you want",
                    )
            if not isinstance(tensor.shape[1], (int, np.integer)) or tensor.shape[1] <= 0:
                tensor.shape = [tensor.shape[0], 3, *tensor.shape[2:]]
                fixed += 1
        return fixed


def _stored_size(model: Model) -> tuple[int, int]:
    """The image size that Ultralytics' exporter left in the metadata, else 640."""
    digits = "".join(c if c.isdigit() else " " for c in model.metadata.get("imgsz", "")).split()
    sizes = [int(d) for d in digits if 0 < int(d) <= 1 << 14]
    if not sizes:
        return DEFAULT_SIZE, DEFAULT_SIZE
    return sizes[0], sizes[-1]
