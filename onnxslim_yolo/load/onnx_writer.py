"""Writes an ONNX graph node by node, under the path of the layer being written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxslim_yolo.ir.graph import MODULE_KEY, Array


class Writer:
    """Collects nodes and initializers; `scope` is the module path that names and marks what is written next."""

    def __init__(self) -> None:
        self.scope = ""
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._names: set[str] = set()

    def node(self, op: str, inputs: Sequence[str], **attributes: object) -> str:
        """Append a node with one output. Returns that output's name."""
        return self._append(op, inputs, [self._unique(op)], attributes)[0]

    def split(self, source: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Append a Split into parts of these sizes. Returns their names."""
        outputs = [self._unique("Split") for _ in sizes]
        return self._append("Split", [source, self.ints("sizes", sizes)], outputs, {"axis": axis})

    def weight(self, name: str, values: Array) -> str:
        """Store an initializer under exactly `scope.name`. Returns that name."""
        full = f"{self.scope}.{name}" if self.scope else name
        self._names.add(full)
        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), full))
        return full

    def floats(self, name: str, values: Array | Sequence[float]) -> str:
        """Store a float32 constant of the computation. Returns its name."""
        return self._constant(name, np.asarray(values, dtype=np.float32))

    def ints(self, name: str, values: Sequence[int]) -> str:
        """Store an int64 constant of the computation. Returns its name."""
        return self._constant(name, np.asarray(values, dtype=np.int64))

    def rename(self, old: str, new: str) -> str:
        """Give a tensor another name wherever it is written or read. Returns the new name."""
        for node in self._nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = new
        return new

    def build(
        self,
        *,
        inputs: Iterable[tuple[str, Sequence[int]]],
        outputs: Iterable[tuple[str, Sequence[int]]],
        metadata: dict[str, str],
        opset: int = 17,
    ) -> onnx.ModelProto:
        """The collected graph as a checked float32 model. Inputs and outputs are names with shapes."""
        graph = helper.make_graph(
            self._nodes,
            "model",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
            self._initializers,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="onnxslim-yolo", ir_version=8
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    def _append(self, op: str, inputs: Sequence[str], outputs: list[str], attributes: dict[str, object]) -> list[str]:
        node = helper.make_node(op, inputs, outputs, name=outputs[0], **attributes)  # type: ignore[arg-type]
        node.metadata_props.add(key=MODULE_KEY, value=self.scope)
        self._nodes.append(node)
        return outputs

    def _constant(self, name: str, values: Array) -> str:
        full = self._unique(name)
        self._initializers.append(numpy_helper.from_array(values, full))
        return full

    def _unique(self, stem: str) -> str:
        base = f"/{self.scope.replace('.', '/')}/{stem}"
        name, count = base, 0
        while name in self._names:
            count += 1
            name = f"{base}_{count}"
        self._names.add(name)
        return name
