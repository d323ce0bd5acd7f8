"""Where a traced node comes from: the path of its module, and the names of what exporters rename."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxslim_yolo.ir.graph import TRANSPOSED

if TYPE_CHECKING:
    from torch import nn


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of a graph and of the graphs in their attributes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)


def module_path(node: onnx.NodeProto, paths: set[str]) -> str:
    """The path of the module a node was traced in, "" if unknown.

    Dynamo lists it in the node's metadata. TorchScript puts scopes into the node's name: `/model.2/m/m.0/cv1/Conv`,
    where a component is relative to the module that holds the containers it passed through.
    """
    for prop in node.metadata_props:
        if prop.key == "pkg.torch.onnx.name_scopes":
            scopes = [scope.strip(" '\"[]") for scope in prop.value.split(",")]
            return next((scope for scope in reversed(scopes) if scope and scope in paths), "")
    path = ""
    for component in node.name.split("/")[1:-1]:
        below = _extend(path, component, paths)
        if below is None:
            break
        path = below
    return path


def _extend(path: str, component: str, paths: set[str]) -> str | None:
    """The module below `path` that a scope's component names: relative to `path` or to one of its ancestors."""
    base = path
    while True:
        candidate = f"{base}.{component}" if base else component
        if candidate in paths and candidate.startswith(f"{path}." if path else ""):
            return candidate
        if not base:
            return None
        base = base.rpartition(".")[0]


def name_transposed(graph: onnx.GraphProto, module: nn.Module) -> None:
    """Rename what the exporter made of a Linear applied to 3-D input: `onnx::MatMul_12` → `fc.weight.T`.

    The exporter folds the weight's transpose and drops its name. Found by comparing values, so nothing is guessed.
    """
    import torch

    paths = {name for name, _ in module.named_modules()}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in all_nodes(graph):
        if node.op_type != "MatMul" or node.input[1] not in tensors:
            continue
        owner = module.get_submodule(module_path(node, paths))
        tensor, name = tensors[node.input[1]], f"{module_path(node, paths)}.weight{TRANSPOSED}"
        if not isinstance(owner, torch.nn.Linear) or name in tensors:
            continue
        if np.array_equal(onnx.numpy_helper.to_array(tensor), owner.weight.detach().cpu().numpy().T):
            tensor.name = name
            node.input[1] = name
