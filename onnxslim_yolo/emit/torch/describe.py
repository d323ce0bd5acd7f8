"""A graph as plain data plus named weights: what `GraphModule` walks, and what is saved. Needs no torch.

Where a weight goes:

* the weight of Conv, ConvTranspose, Gemm, PRelu …, the tensors of BatchNormalization: a parameter (running statistics:
  a buffer) of the module whose path is the weight's name without `.weight`, or else made from the node's name;
* `KEY.T`, the transposed weight of a Linear: the parameter KEY, transposed when used;
* any other floating-point constant named like a state_dict's key (`a.b.c`): a parameter of that name;
* any other: a constant, which no state_dict holds; integers are written into the description.

Floating point is float32 throughout, whatever a graph stores or casts to: it is what trainers take.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import concrete_shapes
from onnxslim_yolo.ir.attributes import attribute, former_inputs, is_first_resize, per_axis, softmax_axes
from onnxslim_yolo.ir.graph import Array, Node, Tensor, input_constant, is_empty
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load.saved_module import TRACED_ROWS, Description
from onnxslim_yolo.ops.norms import SOFTMAXES

SLOTS: dict[str, tuple[str, ...]] = {
    "Conv": ("weight", "bias"),
    "ConvTranspose": ("weight", "bias"),
    "Gemm": ("weight", "bias"),
    "PRelu": ("weight",),
    "LayerNormalization": ("weight", "bias"),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
}
"""What the initializers from input 1 on are called in PyTorch."""
_FLOATS = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
STATIC_FLOATS = {"Resize": (1, 2), "Upsample": (1,), "Clip": (1, 2), "Pad": (2,)}
"""Floating-point inputs that are settings, no data: operator → positions."""

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)+|\d+(\.\w+)+")
"""What a state_dict's key looks like, unlike the exporter's own names (`/model.0/Constant_output_0`)."""


class _Writer:
    """Collects weights while the nodes are described."""

    def __init__(self, graph: gs.Graph) -> None:
        self.weights: dict[str, Array] = {}
        self.constants: dict[str, Array] = {}
        self.loose: list[str] = []
        self.fixed: list[str] = []
        self.owner: dict[int, str] = {}
        self.held: dict[str, int] = {}
        self.paths: set[str] = set()
        self.shapes = concrete_shapes(graph)
        self.opset = graph.opset

    def node(self, node: Node) -> dict[str, Any]:
        """A node as plain data."""
        slots = SLOTS.get(node.op, ())
        path = self._path(node) if slots and isinstance(node.inputs[1], gs.Constant) else ""
        whole = path and node.op in ("Conv", "BatchNormalization") and self._is_module(node)
        given = [self._source(node, k, t, path, bool(whole)) for k, t in enumerate(node.inputs)]
        entry: dict[str, Any] = {
            "op": "Upsample" if is_first_resize(node) else node.op,
            "name": node.name,
            "module": path if whole else "",
            "inputs": [*given, *_former(node, len(given))],
            "outputs": [tensor.name for tensor in node.outputs],
            "attributes": {key: _plain(value) for key, value in node.attrs.items() if not _is_tensor(value)},
        }
        if entry["attributes"].get("to") in _FLOATS:
            entry["attributes"]["to"] = onnx.TensorProto.FLOAT
        known = self.shapes.get(id(node.inputs[0]))
        if node.op in SOFTMAXES and known:
            entry["attributes"]["axes"] = softmax_axes(node, len(known), self.opset)
        weight = input_constant(node, 1)
        if node.op == "Conv" and path and weight is not None and is_expectation(weight):
            entry["fixed"] = True
            self.fixed += [] if whole else [f"{path}.weight"]
        shape = self.shapes.get(id(node.inputs[0]))
        if node.op == "Reshape" and shape:
            entry["attributes"][TRACED_ROWS] = shape[0]
        return entry

    def _path(self, node: Node) -> str:
        """The module's path, unique. A weight that two nodes share has one path."""
        weight = node.inputs[1]
        if id(weight) in self.owner:
            return self.owner[id(weight)]
        name = weight.name
        if name.endswith(".weight") and _KEY.fullmatch(name):
            path = self._unique(name[: -len(".weight")])
        else:
            path = self._own_path(node)
        self.owner[id(weight)] = path
        return path

    def _own_path(self, node: Node) -> str:
        """A path of the node's own name, one for each node."""
        if id(node) not in self.owner:
            self.owner[id(node)] = self._unique(re.sub(r"\W+", "_", node.name).strip("_") or "layer")
        return self.owner[id(node)]

    def _unique(self, path: str) -> str:
        while path in self.paths:
            path += "_"
        self.paths.add(path)
        return path

    def _is_module(self, node: Node) -> bool:
        """Whether nn.Conv2d or nn.BatchNorm2d can do it: two spatial axes, even padding, constants, nothing shared."""
        given = node.inputs[1 : 1 + len(SLOTS[node.op])]
        if not all(isinstance(tensor, gs.Constant) and len(tensor.outputs) == 1 for tensor in given):
            return False
        if node.op == "BatchNormalization":
            shape = self.shapes.get(id(node.inputs[0]))
            return shape is not None and len(shape) == 4
        pads = per_axis(node, "pads", 2)
        auto = attribute(node, "auto_pad") in ("NOTSET", "VALID")
        weight = input_constant(node, 1)
        return auto and weight is not None and weight.ndim == 4 and pads[:2] == pads[2:]

    def _source(self, node: Node, position: int, tensor: Tensor, path: str, whole: bool) -> dict[str, Any] | None:
        if is_empty(tensor):
            return None
        if not isinstance(tensor, gs.Constant):
            return {"value": tensor.name}
        values = _single(tensor.values)
        slots = SLOTS.get(node.op, ())
        if path and 1 <= position <= len(slots):
            key = f"{path}.{slots[position - 1]}"
            if self.held.setdefault(key, id(tensor)) != id(tensor):  # a shared weight, and a bias of its own
                key = f"{self._own_path(node)}.{slots[position - 1]}"
            if key not in self.weights:
                self.weights[key] = values
                self.loose += [] if whole else [key]
                self.fixed += [key] if not whole and slots[position - 1].startswith("running_") else []
            return {"parameter": key}
        if values.dtype.kind in "iub" or position in STATIC_FLOATS.get(node.op, ()):
            return {"static": values.tolist(), "dtype": str(values.dtype)}
        return self._float(tensor, values)

    def _float(self, tensor: gs.Constant, values: Array) -> dict[str, Any]:
        name = tensor.name
        if name.endswith(".T") and values.ndim == 2 and _KEY.fullmatch(name):
            self._loose(name[:-2], np.ascontiguousarray(values.T))
            return {"parameter": name[:-2], "transposed": True}
        if _KEY.fullmatch(name):
            self._loose(name, values)
            return {"parameter": name}
        key = self.owner.setdefault(id(tensor), str(len(self.constants)))
        self.constants[key] = values
        return {"constant": key}

    def _loose(self, key: str, values: Array) -> None:
        if key not in self.weights:
            self.weights[key] = values
            self.loose.append(key)


def describe(model: Model) -> tuple[Description, dict[str, Array]]:
    """A model's graph as plain data (JSON would do), and its weights by the names used there."""
    graph = model.graph
    writer = _Writer(graph)
    nodes = [writer.node(node) for node in graph.nodes]
    description: Description = {
        "inputs": [{"name": t.name, "shape": list(writer.shapes.get(id(t)) or ())} for t in graph.inputs],
        "outputs": [tensor.name for tensor in graph.outputs],
        "nodes": nodes,
        "loose": writer.loose,
        "fixed": writer.fixed,
        "constants": sorted(writer.constants, key=int),
        "metadata": dict(model.metadata),
    }
    return description, {**writer.weights, **writer.constants}


def is_expectation(weight: Array) -> bool:
    """Whether a convolution computes the expectation over bins (DFL): one row 0, 1, 2, …; it is not to be trained."""
    row = weight.reshape(-1)
    return weight.shape[0] == 1 and len(row) > 2 and bool((row == np.arange(len(row))).all())


def _former(node: Node, first: int) -> list[dict[str, Any] | None]:
    """What older operators say in attributes, as the inputs from `first` on that say it now."""
    found = former_inputs(node)
    places = range(first, max(found, default=first - 1) + 1)
    return [{"static": found[k].tolist(), "dtype": str(found[k].dtype)} if k in found else None for k in places]


def _single(values: Array) -> Array:
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(v) for v in value]
    return value


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (gs.Constant, gs.Graph))
