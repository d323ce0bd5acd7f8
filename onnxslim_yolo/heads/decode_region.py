"""Where a detector's learned part ends: the maps of its last convolutions, and the arithmetic behind them.

Walking back from the table of boxes, everything up to the first convolution with learned weights is the decode. Not
learned are the convolutions that only take an expectation: weights 0, 1, 2, … over the bins (DFL).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.ir.graph import (
    Array,
    Node,
    Tensor,
    consumers,
    input_constant,
    is_constant,
    is_empty,
    producer,
    sole_consumer,
    static_shape,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import infer_shapes
from onnxslim_yolo.ops.arithmetic import is_product, is_sum
from onnxslim_yolo.ops.linear import is_conv, is_gemm, is_transposed_conv, multiplies_matrices
from onnxslim_yolo.ops.movement import is_join, tells_sizes
from onnxslim_yolo.ops.norms import is_batch_norm

FREE_SIZE = 160
"""The image side, pixels, at which a model of free input size is looked at: 525 cells, enough for a best 300."""


class UnrecognisedError(Exception):
    """The graph does not end in a head that is known; the message is the reason, for people."""


class NoDecodeError(UnrecognisedError):
    """There is no decode: the outputs are no boxes, or maps as they are."""


@dataclass(frozen=True)
class Region:
    """The decode.

    Attributes:
        table: the graph's output that it computes.
        maps: the learned maps it reads, (b, c, h, w), in order of their nodes.
        shapes: their shapes, measured where the graph does not declare them.
        sources: other tensors of which it reads the shape alone, and those shapes.
        nodes: its nodes, in the graph's order.
        size: (h, w) of the model's input, pixels.
    """

    table: Tensor
    maps: tuple[Tensor, ...]
    shapes: tuple[tuple[int, ...], ...]
    sources: tuple[tuple[Tensor, tuple[int, ...]], ...]
    nodes: tuple[Node, ...]
    size: tuple[int, int]


def find_region(model: Model) -> Region:
    """The decode of a model's first table of boxes.

    Raises:
        NoDecodeError: there is no table, or a convolution makes it.
        UnrecognisedError: what computes it does not start at convolutions' maps.
    """
    graph = model.graph
    tables = [output for output in graph.outputs if output.shape is None or len(output.shape) == 3]
    if not tables:
        raise NoDecodeError("no output is a table of boxes (rank 3): there is no decode to cut off")
    boundary, sources, inside = _walk(tables[0])
    if tables[0] in [*boundary] or not inside:
        raise NoDecodeError("the table of boxes is itself a convolution's output")
    nodes = {id(node): node for node in inside}
    maps = _move_forward(graph, boundary, nodes)
    size, shapes = _shapes(model, [*maps, *sources])
    if any(len(shape) != 4 for shape in shapes[: len(maps)]):
        raise UnrecognisedError("the decode does not start at feature maps of rank 4")
    order = {id(node): index for index, node in enumerate(graph.nodes)}
    return Region(
        table=tables[0],
        maps=tuple(maps),
        shapes=tuple(shapes[: len(maps)]),
        sources=tuple(zip(sources, shapes[len(maps) :], strict=True)),
        nodes=tuple(sorted(nodes.values(), key=lambda node: order[id(node)])),
        size=size,
    )


def run_region(model: Model, region: Region, maps: Sequence[Array]) -> Array:
    """The table that the graph's own decode computes from these maps, in float32."""
    inputs = [*region.maps, *(tensor for tensor, _ in region.sources)]
    values = [*maps, *(np.zeros(shape, np.float32) for _, shape in region.sources)]
    part = part_of(model.graph, region.nodes, inputs, [region.table])
    feeds = {
        tensor.name: value.astype(_dtype(tensor), copy=False) for tensor, value in zip(inputs, values, strict=True)
    }
    return np.asarray(run_part(part, feeds, "its decode")[0], np.float32)


def _walk(table: Tensor) -> tuple[list[Tensor], list[Tensor], list[Node]]:
    boundary: dict[int, Tensor] = {}
    sources: dict[int, Tensor] = {}
    inside: dict[int, Node] = {}
    stack = [table]
    while stack:
        tensor = stack.pop()
        node = producer(tensor)
        if is_constant(tensor) or is_empty(tensor):
            continue
        if node is None:
            raise UnrecognisedError(f"the boxes depend on the input '{tensor.name}' past every convolution")
        if id(node) in inside:
            continue
        if is_learned(node):
            boundary[id(tensor)] = tensor
            continue
        inside[id(node)] = node
        if tells_sizes(node):
            sources[id(node.inputs[0])] = node.inputs[0]
            continue
        stack += reversed(node.inputs)
    loose = [tensor for key, tensor in sources.items() if key not in boundary and not _is_inside(tensor, inside)]
    return list(boundary.values()), loose, list(inside.values())


def _is_inside(tensor: Tensor, inside: dict[int, Node]) -> bool:
    node = producer(tensor)
    return node is not None and id(node) in inside


def is_learned(node: Node) -> bool:
    """Whether a node has trained weights, which an expectation over bins has not."""
    if is_batch_norm(node) or is_transposed_conv(node) or is_gemm(node):
        return True
    return is_conv(node) and not takes_expectation(node)


def takes_expectation(node: Node) -> bool:
    """Whether a convolution or a product only sums bins, each times its number."""
    weight = input_constant(node, 1)
    if weight is None or weight.size < 2 or not (is_conv(node) or multiplies_matrices(node)):
        return False
    if is_conv(node) and (weight.ndim != 4 or weight.shape[0] != 1 or weight.shape[2:] != (1, 1)):
        return False
    return max(weight.shape) == weight.size and np.array_equal(weight.ravel(), np.arange(weight.size))


def _move_forward(graph: gs.Graph, boundary: list[Tensor], inside: dict[int, Node]) -> list[Tensor]:
    """Count per-channel factors and offsets (YOLOv7), and the joining of one level's maps, among the learned part."""
    maps = boundary
    while True:
        ids = {id(tensor) for tensor in maps}
        step = next((node for node in _readers(maps) if id(node) in inside and _belongs(graph, node, ids)), None)
        if step is None:
            return maps
        del inside[id(step)]
        read = {id(tensor) for tensor in step.inputs}
        first = next(index for index, tensor in enumerate(maps) if id(tensor) in read)
        rest = [tensor for tensor in maps if id(tensor) not in read]
        maps = [*rest[:first], step.outputs[0], *rest[first:]]


def _readers(maps: Sequence[Tensor]) -> list[Node]:
    return list({id(node): node for tensor in maps for node in consumers(tensor)}.values())


def _belongs(graph: gs.Graph, node: Node, maps: set[int]) -> bool:
    read = [tensor for tensor in node.inputs if not is_constant(tensor)]
    if not read or any(id(tensor) not in maps or sole_consumer(graph, tensor) is not node for tensor in read):
        return False
    if is_join(node):
        return node.attrs.get("axis") == 1 and len(read) == len(node.inputs) > 1 and _same_size(read)
    if not (is_product(node) or is_sum(node)) or len(read) != 1:
        return False
    constant = input_constant(node, 0 if is_constant(node.inputs[0]) else 1)
    return constant is not None and constant.ndim in (3, 4) and constant.shape[-2:] == (1, 1) and constant.size > 1


def _same_size(tensors: Sequence[Tensor]) -> bool:
    """Maps of one level, as far as declared: sizes that are unknown could be of flattened levels, so rank decides."""
    ranks = {len(tensor.shape) if tensor.shape is not None else 4 for tensor in tensors}
    return ranks == {4} and len({str(tensor.shape[2:]) for tensor in tensors if tensor.shape is not None}) <= 1


def _shapes(model: Model, tensors: Sequence[Tensor]) -> tuple[tuple[int, int], list[tuple[int, ...]]]:
    image = model.graph.inputs[0]
    size = static_shape(image)
    if size is not None and len(size) == 4:
        shapes = _inferred(model, tensors)
        if shapes is not None:
            return (size[2], size[3]), shapes
    return _measured(model, tensors)


def _inferred(model: Model, tensors: Sequence[Tensor]) -> list[tuple[int, ...]] | None:
    try:
        types = infer_shapes(model.graph, strict=False)
    except OnnxSlimError:
        return None
    shapes: list[tuple[int, ...]] = []
    for tensor in tensors:
        kind = types.get(tensor.name)
        dims = kind.tensor_type.shape.dim if kind is not None and kind.tensor_type.HasField("shape") else []
        if not dims or not all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims):
            return None
        shapes.append(tuple(dim.dim_value for dim in dims))
    return shapes


def _measured(model: Model, tensors: Sequence[Tensor]) -> tuple[tuple[int, int], list[tuple[int, ...]]]:
    graph, image = model.graph, model.graph.inputs[0]
    declared = list(image.shape) if image.shape is not None else [1, 3, None, None]
    if len(graph.inputs) != 1 or len(declared) != 4:
        raise UnrecognisedError("the model has not exactly one image (b, 3, h, w) as its input")
    defaults = (1, 3, FREE_SIZE, FREE_SIZE)
    shape = tuple(dim if isinstance(dim, int) and dim > 0 else d for dim, d in zip(declared, defaults, strict=True))
    part = part_of(graph, graph.nodes, [image], tensors)
    values = run_part(part, {image.name: np.zeros(shape, _dtype(image))}, "the model")
    return (shape[2], shape[3]), [tuple(value.shape) for value in values]


def part_of(graph: gs.Graph, nodes: Sequence[Node], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> gs.Graph:
    """A graph of these nodes alone, of stand-ins with the same names; its inputs and outputs have types."""
    twins: dict[int, Tensor] = {}
    for tensor in (*inputs, *outputs):
        twins[id(tensor)] = gs.Variable(tensor.name, _dtype(tensor), None)

    def twin(tensor: Tensor) -> Tensor:
        if isinstance(tensor, gs.Constant):
            return twins.setdefault(id(tensor), gs.Constant(tensor.name, tensor._values))
        return gs.Variable.empty() if is_empty(tensor) else twins.setdefault(id(tensor), gs.Variable(tensor.name))

    return gs.Graph(
        nodes=[
            gs.Node(n.op, n.name, n.attrs, [twin(t) for t in n.inputs], [twin(t) for t in n.outputs], n.domain)
            for n in nodes
        ],
        inputs=[twins[id(tensor)] for tensor in inputs],
        outputs=[twins[id(tensor)] for tensor in outputs],
        name="part",
        opset=graph.opset,
        import_domains=graph.import_domains,
        ir_version=graph.ir_version,
    )


def run_part(graph: gs.Graph, feeds: dict[str, Array], what: str) -> list[Array]:
    """Run such a graph; raises UnrecognisedError, which names `what`, where that fails."""
    return part_runner(graph, what)(feeds)


def part_runner(graph: gs.Graph, what: str) -> Callable[[dict[str, Array]], list[Array]]:
    """Such a graph, ready to be run more than once. Raises as `run_part`, and so does what it returns."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with _refused(what):
        data = gs.export_onnx(graph, do_type_check=False).SerializeToString()
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(feeds: dict[str, Array]) -> list[Array]:
        with _refused(what):
            values: list[Array] = session.run(None, feeds)
        return values

    return run


@contextmanager
def _refused(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        reason = str(error).strip().splitlines()[0][:200]
        raise UnrecognisedError(f"{what} cannot be run by itself: {reason}") from error


def _dtype(tensor: Tensor) -> np.dtype[np.generic]:
    return np.dtype(tensor.dtype) if tensor.dtype is not None else np.dtype(np.float32)
