"""Which feature maps of a pruned network are which channels of its source's.

A plan says which channels of every layer were kept, so that a map of the pruned network has to be its source's, without
those that went: no layer in between has to be learnt, as where a student was drawn by hand.

1. A convolution is found again by its weight's name, which state_dicts and files of ours keep, or else by its node's.
2. What is compared is its output, behind its BatchNorm where that has not been folded.
3. It has to be as wide as the plan says, and be read by the same kinds of operators: a convolution into which branches
   were merged gives the sum of them, and nothing in its source stands for that alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.graph import Node, Tensor, input_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import LinearLayer, is_conv
from onnxslim_yolo.ops.norms import is_batch_norm


@dataclass(frozen=True)
class MapPair:
    """Two tensors that have to be alike.

    Attributes:
        teacher, student: their names.
        kept: the teacher's channels that the student has; None for all of them.
    """

    teacher: str
    student: str
    kept: tuple[int, ...] | None


def map_pairs(teacher: Model, student: Model, plan: Mapping[str, Any]) -> list[MapPair]:
    """Every convolution's maps in both graphs, in the teacher's order.

    Args:
        teacher, student: in canonical form. plan: the content of NAME.plan.json.

    Raises:
        InputError: what the plan keeps are no indices of the teacher's channels.
    """
    by_weight, by_node = _layers(student)
    found = []
    for node in _convolutions(teacher):
        name = str(node.inputs[1].name)
        other = by_weight.get(name) or by_node.get(str(node.name))
        kept = _kept(plan, name, _width(node))
        if other is None or _width(other) != (_width(node) if kept is None else len(kept)):
            continue
        mine, theirs = _given(node), _given(other)
        if _readers(mine) == _readers(theirs):
            found.append(MapPair(mine.name, theirs.name, kept))
    return found


def _convolutions(model: Model) -> list[Node]:
    return [node for node in model.graph.nodes if is_conv(node) and input_constant(node, 1) is not None]


def _width(node: Node) -> int:
    layer = LinearLayer.of(node)
    return 0 if layer is None else layer.outputs


def _layers(model: Model) -> tuple[dict[str, Node], dict[str, Node]]:
    nodes = _convolutions(model)
    return {str(node.inputs[1].name): node for node in nodes}, {str(node.name): node for node in nodes}


def _kept(plan: Mapping[str, Any], name: str, width: int) -> tuple[int, ...] | None:
    try:
        indices = plan["keep"].get(name, {}).get("0")
    except (KeyError, AttributeError) as error:
        raise InputError("the plan's 'keep' is damaged", hint="compile again") from error
    if indices is None:
        return None
    if not isinstance(indices, list) or not all(type(i) is int and 0 <= i < width for i in indices):
        raise InputError(
            f"the plan's indices for '{name}' are none of its {width} channels",
            hint="give the plan of the pruned network, and as --teacher what it was made from",
        )
    return tuple(indices)


def _given(node: Node) -> Tensor:
    """What a convolution gives, its BatchNorm included."""
    output = node.outputs[0]
    readers = output.outputs
    norm = len(readers) == 1 and is_batch_norm(readers[0])
    return readers[0].outputs[0] if norm else output


def _readers(tensor: Tensor) -> list[str]:
    return sorted({node.op for node in tensor.outputs})
