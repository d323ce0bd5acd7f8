"""Architectures with dead blocks: a random third of the residual branches and parts of Concats that end in a
BatchNormalization, killed."""

from __future__ import annotations

import random

import onnx
import pytest

from onnxslim_yolo.ir.graph import Node, Tensor, producer
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load.trace import trace
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.pipeline import preparation
from tests.zoo import images, module

torch = pytest.importorskip("torch")

_ACTIVATIONS = ("Relu", "LeakyRelu", "Clip", "HardSwish", "Sigmoid", "Mul", "Softplus", "Tanh")


def _last_norm(tensor: Tensor, steps: int = 4) -> Node | None:
    """The BatchNormalization of which a tensor is an activation, or that it is."""
    node = producer(tensor)
    if node is None or node.op == "BatchNormalization" or not steps or node.op not in _ACTIVATIONS:
        return node if node is not None and node.op == "BatchNormalization" else None
    found = {id(norm): norm for norm in (_last_norm(t, steps - 1) for t in node.inputs) if norm is not None}
    return next(iter(found.values())) if len(found) == 1 else None


def removable(proto: onnx.ModelProto) -> list[str]:
    """The modules whose γ and β decide whether a residual branch, or a part of a Concat, contributes anything."""
    model = Model.from_onnx(proto)
    PassManager(preparation(CompileOptions())).run(model)
    found = set()
    for node in model.graph.nodes:
        if any(producer(tensor) is None for tensor in node.inputs):
            continue
        if node.op == "Add":
            # Of two branches that are summed, one stays: there is no detector without any.
            names = [_norm_behind(tensor) if len(tensor.outputs) == 1 else None for tensor in node.inputs]
            found |= set([name for name in names if name is not None][-1:])
        elif node.op == "Concat" and node.attrs["axis"] == 1:
            names = [_norm_behind(_enlarged(tensor)) if _alone(tensor) else None for tensor in node.inputs]
            found |= {name for name in names[None not in names :] if name is not None}
    return sorted(found)


def _norm_behind(tensor: Tensor) -> str | None:
    norm = _last_norm(tensor)
    name = "" if norm is None else norm.inputs[1].name
    return name.removesuffix(".weight") if name.endswith(".weight") else None


def _enlarged(tensor: Tensor) -> Tensor:
    """What is resized or pooled to a tensor."""
    node = producer(tensor)
    while node is not None and node.op in ("Resize", "MaxPool", "AveragePool"):
        tensor = node.inputs[0]
        node = producer(tensor)
    return tensor


def _alone(tensor: Tensor) -> bool:
    """Whether a part, and what it is enlarged from, is read nowhere else."""
    return len(tensor.outputs) == 1 and len(_enlarged(tensor).outputs) == 1


def with_dead_blocks(name: str, *, beta: bool, seed: int = 0) -> tuple[onnx.ModelProto, list[str]]:
    """An architecture with a third of its blocks killed, and the norms that were: γ = 0, and β = 0 or anything."""
    net = module(name)
    blocks = removable(trace(net, images()))
    killed = random.Random(seed).sample(blocks, -(-len(blocks) // 3))
    norms = dict(net.named_modules())
    with torch.no_grad():
        for block in killed:
            values = torch.rand(norms[block].weight.shape, generator=torch.Generator().manual_seed(seed))
            norms[block].weight.zero_()
            norms[block].bias.copy_(values * beta)
    return trace(net, images()), killed


def blocks_left(killed: list[str], removed: list[str]) -> list[str]:
    """The killed norms that no removed module holds."""
    return [name for name in killed if not any(name == module or name.startswith(f"{module}.") for module in removed)]
