# The part of onnx-graphsurgeon that this project uses. The one place where `Any` is let in.
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx

class Tensor:
    name: str
    inputs: list[Node]
    outputs: list[Node]
    dtype: Any
    shape: Any

class Variable(Tensor):
    type: str
    def __init__(
        self,
        name: str,
        dtype: Any = None,
        shape: Sequence[int | str] | None = None,
        type: str = "tensor_type",
    ) -> None: ...
    @staticmethod
    def empty() -> Variable: ...

class LazyValues:
    tensor: onnx.TensorProto
    shape: Any
    dtype: Any
    nbytes: int
    def load(self) -> np.ndarray[Any, Any]: ...

class Constant(Tensor):
    values: np.ndarray[Any, Any]
    _values: Any
    def __init__(self, name: str, values: np.ndarray[Any, Any] | LazyValues) -> None: ...

class Node:
    op: str
    name: str
    attrs: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    domain: str | None
    def __init__(
        self,
        op: str,
        name: str | None = None,
        attrs: dict[str, Any] | None = None,
        inputs: Iterable[Tensor] | None = None,
        outputs: Iterable[Tensor] | None = None,
        domain: str | None = None,
    ) -> None: ...

class Graph:
    nodes: list[Node]
    inputs: list[Tensor]
    outputs: list[Tensor]
    name: str
    doc_string: str
    opset: int
    import_domains: Any
    producer_name: str | None
    producer_version: str | None
    ir_version: int | None
    functions: list[Any]
    def __init__(
        self,
        nodes: Sequence[Node] | None = None,
        inputs: Sequence[Tensor] | None = None,
        outputs: Sequence[Tensor] | None = None,
        name: str | None = None,
        doc_string: str | None = None,
        opset: int | None = None,
        import_domains: Any = None,
        producer_name: str | None = None,
        producer_version: str | None = None,
        functions: Sequence[Any] | None = None,
        ir_version: int | None = None,
    ) -> None: ...
    def tensors(self, check_duplicates: bool = False) -> dict[str, Tensor]: ...

def import_onnx(onnx_model: onnx.ModelProto) -> Graph: ...
def export_onnx(graph: Graph, do_type_check: bool = True, **kwargs: Any) -> onnx.ModelProto: ...
