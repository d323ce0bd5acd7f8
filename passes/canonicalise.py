"""canonicalise: one plain spelling of what exporters write in many ways.

1. The input gets its size: symbolic height and width become `imgsz`; a symbolic batch stays symbolic.
2. Shapes are inferred, `Shape` and what is computed from it becomes constant wherever it does not depend on the batch,
   and any node of constants alone is computed. Repeated until nothing changes, since one answers the other.
3. A Reshape whose target is known but for the batch gets a constant target with −1 (or 0: copy) there.
4. Identity, Dropout, Casts to the same type, and Reshape, Transpose, Expand, Slice, Pad, Concat that change nothing go.
5. An Einsum becomes the nodes it stands for (`einsum_nodes`), and an Expand goes that its readers do themselves
   (`expand_nodes`).
6. Vectors (biases, BatchNorm parameters) that an exporter merged because their values are equal become separate again:
   sharing them would tie channels that have nothing to do with each other. Equal integer constants are merged.
7. What no output needs goes.

All of it is exact: no arithmetic on activations changes, but for the order of summation in an Einsum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.folding import fold
from onnxslim_yolo.analysis.movement import CannotMoveError, pad_widths, slice_ranges
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.graph import (
    Model,
    Namer,
    Node,
    Tensor,
    bypass,
    constant_of,
    consumers,
    detach,
    has_input,
    initializers,
    input_constant,
    is_constant,
    is_empty,
    is_graph_output,
    producer,
    replace_constant,
    static_shape,
    sweep,
    toposort,
)
from onnxslim_yolo.passes.einsum_nodes import rewrite_einsums
from onnxslim_yolo.passes.expand_nodes import drop_expands
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
        while True:
            reinfer(graph)
            changed = _fold_constants(graph) + _resolve_reshapes(graph) + _drop_noops(graph)
            changed += rewrite_einsums(graph) + drop_expands(graph) + sweep(graph)
            rewrites += changed
            if not changed:
                break
            graph.nodes = toposort(graph)
        rewrites += _separate_vectors(graph) + _merge_integers(graph)
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


def _fold_constants(graph: gs.Graph) -> int:
    folded = 0
    for node in graph.nodes:
        if not node.outputs:
            continue  # folded or dropped already, and waiting to be swept
        values = _shape_value(node)
        results = [values] if values is not None else fold(node, graph.opset)
        if results is None:
            continue
        if any(is_graph_output(graph, tensor) for tensor in node.outputs):
            continue  # an output must be computed by a node
        for tensor, value in zip(list(node.outputs), results, strict=False):
            if not is_empty(tensor):
                _make_constant(tensor, np.asarray(value))
        detach(node)
        folded += 1
    return folded


def _make_constant(tensor: Tensor, value: np.ndarray) -> None:
    constant = gs.Constant(tensor.name, np.ascontiguousarray(value).reshape(np.shape(value)))
    for reader in consumers(tensor):
        reader.inputs = [constant if item is tensor else item for item in reader.inputs]


def _shape_value(node: Node) -> np.ndarray | None:
    """What a Shape, or a Gather or Slice of a Shape, yields where that does not depend on a symbolic size."""
    if node.op == "Size":
        shape = static_shape(node.inputs[0])
        return None if shape is None else np.asarray(int(np.prod(shape, dtype=np.int64)), dtype=np.int64)
    if node.op == "Shape":
        dims = _dims_of_shape(node)
        return None if dims is None or any(d is None for d in dims) else np.asarray(dims, dtype=np.int64)
    maker = producer(node.inputs[0]) if node.inputs else None
    if maker is None or maker.op != "Shape" or node.op not in ("Gather", "Slice"):
        return None
    dims = _dims_of_shape(maker)
    if dims is None:
        return None
    if node.op == "Gather":
        indices = input_constant(node, 1)
        if indices is None or np.any((indices >= len(dims)) | (indices < -len(dims))):
            return None
        taken = [dims[int(i)] for i in indices.reshape(-1)]
        return None if any(d is None for d in taken) else np.asarray(taken, dtype=np.int64).reshape(indices.shape)
    try:
        chosen = slice_ranges(node, (len(dims),)).get(0, range(len(dims)))
    except CannotMoveError:
        return None
    taken = [dims[i] for i in chosen]
    return None if any(d is None for d in taken) else np.asarray(taken, dtype=np.int64)


def _dims_of_shape(node: Node) -> list[int | None] | None:
    shape = node.inputs[0].shape
    if shape is None:
        return None
    dims = [int(d) if isinstance(d, (int, np.integer)) and d >= 0 else None for d in shape]
    rank = len(dims)
    start, end = int(node.attrs.get("start", 0)), int(node.attrs.get("end", rank))
    return dims[slice(start, end)]


def _resolve_reshapes(graph: gs.Graph) -> int:
    """Give a Reshape a constant target when all of it but one entry is known."""
    resolved, name = 0, Namer(graph)
    for node in graph.nodes:
        if (
            node.op != "Reshape"
            or len(node.inputs) < 2
            or is_constant(node.inputs[1])
            or node.attrs.get("allowzero", 0)
        ):
            continue
        target = _target_from_shape(node) or _target_from_concat(node.inputs[1])
        if target is not None:
            replace_constant(node, 1, np.asarray(target, dtype=np.int64), name(f"{node.name}_shape"))
            resolved += 1
    return resolved


def _target_from_shape(node: Node) -> list[int] | None:
    shape = node.outputs[0].shape
    if shape is None:
        return None
    known = [int(d) if isinstance(d, (int, np.integer)) and d > 0 else -1 for d in shape]
    return known if known.count(-1) <= 1 else None


def _target_from_concat(tensor: Tensor) -> list[int] | None:
    """[batch, 3, 85, …] written as a Concat: the one computed entry becomes −1."""
    node = producer(tensor)
    if node is None or node.op != "Concat":
        return None
    target: list[int] = []
    for part in node.inputs:
        value = constant_of(part)
        if value is not None:
            target += [int(v) for v in value.reshape(-1)]
        elif static_shape(part) == (1,):
            target.append(-1)
        else:
            return None
    return target if target.count(-1) <= 1 and 0 not in target else None


def _drop_noops(graph: gs.Graph) -> int:
    dropped = 0
    for node in list(graph.nodes):
        if not node.inputs or not node.outputs or not _does_nothing(node):
            continue
        if is_graph_output(graph, node.outputs[0]) and _must_stay(graph, node.inputs[0]):
            continue
        bypass(graph, node)
        dropped += 1
    return dropped


def _must_stay(graph: gs.Graph, tensor: Tensor) -> bool:
    """Whether an output cannot simply take this tensor's place: it is an input, a constant or an output itself."""
    return is_constant(tensor) or is_graph_output(graph, tensor) or any(tensor is item for item in graph.inputs)


def _does_nothing(node: Node) -> bool:
    if node.op == "Identity":
        return True
    if node.op == "Dropout":
        training = input_constant(node, 2)
        unused_mask = all(not tensor.outputs for tensor in node.outputs[1:])
        return unused_mask and (not has_input(node, 2) or (training is not None and not training.any()))
    if node.op in ("Reshape", "Flatten", "Expand", "Squeeze", "Unsqueeze"):
        return _same_shape(node)
    if node.op == "Cast":
        return node.inputs[0].dtype is not None and node.inputs[0].dtype == node.outputs[0].dtype
    if node.op == "Transpose":
        order = list(node.attrs.get("perm", ()))
        return bool(order) and order == list(range(len(order)))
    if node.op == "Concat":
        return len(node.inputs) == 1
    return _keeps_everything(node)


def _same_shape(node: Node) -> bool:
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if before is None or after is None or len(before) != len(after):
        return False
    pairs = list(zip(before, after, strict=True))
    # One symbolic dimension may differ in name only: the number of elements settles it.
    symbolic = [a for a, _ in pairs if not isinstance(a, (int, np.integer))]
    return len(symbolic) <= 1 and all(a == b or not isinstance(a, (int, np.integer)) for a, b in pairs)


def _keeps_everything(node: Node) -> bool:
    shape = static_shape(node.inputs[0])
    rank = len(node.inputs[0].shape or ())
    try:
        if node.op == "Pad" and rank:
            return all(width == (0, 0) for width in pad_widths(node, rank))
        if node.op == "Slice" and shape is not None:
            return all(taken == range(shape[axis]) for axis, taken in slice_ranges(node, shape).items())
    except CannotMoveError:
        return False
    return False


def _separate_vectors(graph: gs.Graph) -> int:
    separated, name = 0, Namer(graph)
    for constant in list(initializers(graph)):
        if (
            len(constant.outputs) < 2
            or len(constant.shape) > 1
            or not _is_float(constant)
            or np.prod(constant.shape) < 2
        ):
            continue
        owner: Node | None = None
        for node in consumers(constant):
            for index, tensor in enumerate(node.inputs):
                if tensor is not constant:
                    continue
                if owner is None:
                    owner = node
                    continue
                replace_constant(node, index, constant.values, name(f"{constant.name}__{node.name}"))
                separated += 1
    return separated


def _merge_integers(graph: gs.Graph) -> int:
    """Let equal integer constants (targets, axes, bounds) be one."""
    first: dict[tuple[str, tuple[int, ...], bytes], gs.Constant] = {}
    merged = 0
    for constant in list(initializers(graph)):
        if _is_float(constant) or constant.dtype is None:
            continue
        key = (str(constant.dtype), tuple(constant.shape), constant.values.tobytes())
        kept = first.setdefault(key, constant)
        if kept is constant:
            continue
        for node in consumers(constant):
            node.inputs = [kept if tensor is constant else tensor for tensor in node.inputs]
        merged += 1
    return merged


def _is_float(constant: gs.Constant) -> bool:
    try:
        return np.dtype(constant.dtype).kind not in "iub"
    except TypeError:
        return True
