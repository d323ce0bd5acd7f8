"""An int8 network as the float one that its whole numbers stand for; what its codes reach is kept as a hint.

    QuantizeLinear(x) → DequantizeLinear, of one step and zero point      x, and the range of its codes; what ends at
                                                                          zero, and x does not, is clipped there
    DequantizeLinear(weight), QuantizeLinear(weight) → DequantizeLinear   the constant (w − z)·s, exactly
    DynamicQuantizeLinear(x) → ConvInteger | MatMulInteger → Cast
        → Mul by the product of both steps                                Conv | MatMul with (w − z)·s

Codes that begin or end at zero are an activation: quantisers leave a Relu or Relu6 out in front of them, for they cut
what it would. Other ends lie where calibration saw no more, and the float network has none there.

The last has no ranges to keep: they are taken anew of every input. What is left over is no such pattern (codes that
something else reads, steps that differ, operators on codes alone), and is refused by its name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxslim_yolo.analysis.sign import is_nonnegative
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model

RANGES_KEY = "onnxslim-yolo.ranges"
"""Where a proto's metadata hold the ranges, as JSON {tensor: [low, high]}, until a Model has them."""

Codes = tuple[Array, Array]
"""Step and zero point, as arrays."""


def dequantised(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in floats, as far as the patterns above go; the proto itself where it has none of their operators."""
    if not any(node.op_type in ("DequantizeLinear", "DynamicQuantizeLinear") for node in proto.graph.node):
        return proto
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    work = _Work(found.graph, next(o.version for o in found.opset_import if o.domain in ("", "ai.onnx")))
    work.integer_products()
    work.constants()
    work.pairs()
    work.sweep()
    work.drop_clips(_idle(found, work.clips))
    found.metadata_props.add(key=RANGES_KEY, value=json.dumps(work.ranges))
    return found


def _idle(proto: onnx.ModelProto, clips: Mapping[str, bool]) -> set[str]:
    """The Clips at zero that nothing negative reaches."""
    nodes = Model.from_onnx(proto).graph.nodes if clips else []
    return {node.name for node in nodes if clips.get(node.name) and is_nonnegative(node.inputs[0])}


def ranges_from(text: str) -> dict[str, tuple[float, float]]:
    """What `RANGES_KEY` holds; nothing of what is no such text, for anybody can write metadata."""
    try:
        return {str(name): (float(low), float(high)) for name, (low, high) in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


class _Work:
    """A graph being rewritten: who computes and who reads which value."""

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self.graph = graph
        self.values = {t.name: t for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.output and node.attribute and node.attribute[0].name == "value":
                self.values.setdefault(node.output[0], node.attribute[0].t)
        self.outputs = {value.name for value in graph.output}
        self.inputs = {value.name for value in graph.input}
        self.opset = opset
        self.ranges: dict[str, tuple[float, float]] = {}
        self.clips: dict[str, bool] = {}
        """Clips that stand for activations, by name: whether what they cut is negative."""
        self.index()

    def index(self) -> None:
        """Who makes and who reads what, anew. Nodes are held, for they are told apart by identity."""
        self.nodes, self.gone = list(self.graph.node), set[int]()
        self.makers = {name: node for node in self.nodes for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            self._reads(node)

    def _reads(self, node: onnx.NodeProto) -> None:
        for name in dict.fromkeys(node.input):
            self._readers.setdefault(name, []).append(node)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        once = {id(node): node for node in self._readers.get(name, ()) if name in node.input}
        return [node for key, node in once.items() if key not in self.gone]

    def array(self, name: str) -> Array | None:
        """A constant's values."""
        return numpy_helper.to_array(self.values[name]) if name in self.values else None

    def constants(self) -> None:
        """Weights whose codes are in the file, or would be made of what is."""
        for node in self.nodes:
            if node.op_type != "DequantizeLinear" or id(node) in self.gone:
                continue
            maker = self.makers.get(node.input[0])
            codes = self.array(node.input[0])
            if codes is None and maker is not None and maker.op_type == "QuantizeLinear":
                codes = self._codes_of(maker)
            steps = self._parameters(node)
            if codes is None or steps is None:
                continue
            step, zero = (_along(each, codes.ndim, _axis(node)) for each in steps)
            floats = ((codes.astype(np.int64) - zero.astype(np.int64)) * step.astype(np.float64)).astype(np.float32)
            self._give(node, floats)

    def _codes_of(self, node: onnx.NodeProto) -> Array | None:
        floats, steps = self.array(node.input[0]), self._parameters(node)
        if floats is None or steps is None:
            return None
        step, zero = (_along(each, floats.ndim, _axis(node)) for each in steps)
        kind = np.iinfo(steps[1].dtype)
        codes = np.rint(floats.astype(np.float32) / step) + zero.astype(np.int64)
        return np.asarray(np.clip(codes, kind.min, kind.max).astype(steps[1].dtype))

    def pairs(self) -> None:
        """Codes that are made of a tensor and read as floats again, nothing in between."""
        for node in self.nodes:
            made = node.output[0] if node.op_type == "QuantizeLinear" and id(node) not in self.gone else ""
            readers = self.readers(made) if made else []
            own = self._parameters(node) if readers and made not in self.outputs else None
            if own is None or own[0].size != 1 or any(not self._undoes(each, own) for each in readers):
                continue
            kind, step, zero = np.iinfo(own[1].dtype), float(own[0].item()), int(own[1].item())
            ends = ((kind.min - zero) * step, (kind.max - zero) * step)
            tensor = node.input[0]
            if 0 in ends and tensor not in self.inputs:
                tensor = self._clip(node, *ends)
            else:
                self.gone.add(id(node))
            for each in readers:
                self.gone.add(id(each))
                tensor = self._replace(each.output[0], tensor)
            self.ranges[tensor] = ends

    def _clip(self, node: onnx.NodeProto, low: float, high: float) -> str:
        """A Clip in the place of what makes codes; returns what it yields."""
        name, given = f"{node.output[0]}_clipped", [node.input[0]]
        bounds: dict[str, Any] = {"min": low, "max": high}
        if self.opset >= 11:  # before that bounds are attributes
            for key, value in bounds.items():
                self.graph.initializer.append(numpy_helper.from_array(np.float32(value), f"{name}_{key}"))
                given.append(f"{name}_{key}")
            bounds = {}
        made = onnx.helper.make_node("Clip", given, [name], name=name, **bounds)
        self.clips[name] = low == 0
        self._swap(node, made)
        return name

    def drop_clips(self, names: Collection[str]) -> None:
        """Let these Clips' readers read what they read."""
        self.index()
        for node in [each for each in self.nodes if each.name in names]:
            self.gone.add(id(node))
            made = node.output[0]
            left = self._replace(made, node.input[0])
            if made in self.ranges:
                self.ranges[left] = self.ranges.pop(made)
        self.sweep()

    def _undoes(self, node: onnx.NodeProto, own: Codes) -> bool:
        """Whether a node reads codes as what they were made of; with one step once per channel, say."""
        its = self._parameters(node) if node.op_type == "DequantizeLinear" else None
        return its is not None and all((a == b.item()).all() for a, b in zip(its, own, strict=True))

    def _parameters(self, node: onnx.NodeProto) -> Codes | None:
        step = self.array(node.input[1])
        named = len(node.input) > 2 and node.input[2]
        zero = self.array(node.input[2]) if named else np.zeros((), np.uint8)
        blocked = any(a.name == "block_size" and a.i for a in node.attribute)
        if step is None or zero is None or zero.dtype.kind not in "iu" or blocked:
            return None
        return step, zero

    def integer_products(self) -> None:
        """Products of codes whose ranges are taken of every input anew."""
        for node in self.nodes:
            if node.op_type in ("ConvInteger", "MatMulInteger"):
                self._integer_product(node)

    def _integer_product(self, node: onnx.NodeProto) -> None:
        codes = self.makers.get(node.input[0])
        weight = self.array(node.input[1])
        if codes is None or codes.op_type != "DynamicQuantizeLinear" or weight is None or len(node.input) < 3:
            return
        zero = self.array(node.input[3]) if len(node.input) > 3 and node.input[3] else np.zeros((), weight.dtype)
        cast = self._only(node.output[0], "Cast")
        last = None if cast is None else self._only(cast.output[0], "Mul")
        if zero is None or last is None or cast is None or node.input[2] != codes.output[2]:
            return
        other = next(name for name in last.input if name != cast.output[0])
        product = self.makers.get(other)
        if product is None or product.op_type != "Mul" or codes.output[1] not in product.input:
            return
        step = self.array(next(name for name in product.input if name != codes.output[1]))
        axis = 0 if node.op_type == "ConvInteger" else weight.ndim - 1
        if step is None or step.size not in (1, weight.shape[axis]):
            return
        shape = [-1 if k == axis and step.size > 1 else 1 for k in range(weight.ndim)]
        zeros = zero.reshape([-1 if k == axis and zero.size > 1 else 1 for k in range(weight.ndim)])
        floats = (weight.astype(np.int64) - zeros.astype(np.int64)) * step.reshape(shape).astype(np.float64)
        named = f"{node.output[0]}_floats"  # the same weight may be read twice
        self.graph.initializer.append(numpy_helper.from_array(floats.astype(np.float32), named))
        kind = "Conv" if node.op_type == "ConvInteger" else "MatMul"
        made = onnx.helper.make_node(kind, [codes.input[0], named], [last.output[0]], name=node.name or last.output[0])
        made.attribute.extend(node.attribute)
        self._swap(last, made)
        self.gone |= {id(node), id(cast)}

    def _only(self, name: str, op: str) -> onnx.NodeProto | None:
        readers = self.readers(name)
        return readers[0] if len(readers) == 1 and readers[0].op_type == op and name not in self.outputs else None

    def _give(self, node: onnx.NodeProto, values: Array) -> None:
        """A constant for a node's output."""
        name = node.output[0]
        self.values[name] = numpy_helper.from_array(values, name)
        self.gone.add(id(node))
        if name in self.outputs:  # an output has to be computed
            self.values[name].name = f"{name}_values"
            self._append(onnx.helper.make_node("Identity", [f"{name}_values"], [name]))
        self.graph.initializer.append(self.values[name])

    def _replace(self, old: str, new: str) -> str:
        """Let everything that reads one value read another; returns the name that this has now."""
        maker = self.makers.get(new)
        if old in self.outputs and maker is not None and new not in self.outputs:  # outputs keep their names
            maker.output[:] = [old if name == new else name for name in maker.output]
            self.makers[old] = maker
            old, new = new, old
        for node in self.readers(old):
            node.input[:] = [new if name == old else name for name in node.input]
            self._readers.setdefault(new, []).append(node)
        if old in self.outputs:
            self._append(onnx.helper.make_node("Identity", [new], [old], name=f"{old}_again"))
        return new

    def _append(self, node: onnx.NodeProto) -> None:
        self.graph.node.append(node)
        self.nodes.append(self.graph.node[-1])
        self._reads(self.nodes[-1])

    def _swap(self, old: onnx.NodeProto, new: onnx.NodeProto) -> None:
        """Another node in the place of one."""
        old.CopyFrom(new)
        self._reads(old)
        self.makers.update(dict.fromkeys(old.output, old))

    def sweep(self) -> None:
        """Take out what nothing reads any more of what quantising had added, and types of values that are gone."""
        loose = ("QuantizeLinear", "DynamicQuantizeLinear", "Mul", "Constant")
        left = [node for node in self.nodes if id(node) not in self.gone]
        while True:
            read = {name for node in left for name in node.input} | self.outputs
            used = [n for n in left if n.op_type not in loose or read & set(n.output)]
            if len(used) == len(left):
                break
            left = used
        _refill(self.graph.node, left)
        kept = [t for t in self.graph.initializer if t.name in read]
        names = {name for node in self.graph.node for name in node.output}
        typed = [value for value in self.graph.value_info if value.name in names]
        _refill(self.graph.initializer, kept)
        _refill(self.graph.value_info, typed)


def _refill(field: object, kept: Iterable[object]) -> None:
    copies = list(kept)
    del field[:]  # type: ignore[attr-defined]
    field.extend(copies)  # type: ignore[attr-defined]


def _axis(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 1)


def _along(values: Array, rank: int, axis: int) -> Array:
    """A step per slice of an axis, as it broadcasts; of one alone itself."""
    if values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if k == axis % rank else 1 for k in range(rank)])
