"""Lists of tensors that an exporter wrote, and that `canonicalise` takes apart again: which are of that kind.

SplitToSequence and SequenceConstruct make a list; SequenceAt at a constant place and ConcatFromSequence read it. A list
that anything else reads or makes, or that an output returns, cannot be compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import onnx


@cache
def makes_lists(op: str) -> bool:
    """Whether an operator reads or makes lists of tensors, or tensors that may be missing."""
    if not onnx.defs.has(op):
        return False
    schema = onnx.defs.get_schema(op)
    ends = (*schema.inputs, *schema.outputs)
    return any(all(kind.startswith(("seq(", "optional(")) for kind in end.types) for end in ends)


_READERS = {"SplitToSequence": ("SequenceAt",), "SequenceConstruct": ("SequenceAt", "ConcatFromSequence")}
"""What makes a list that can be taken apart, and by whom it may be read."""


def unresolved(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes with lists that cannot be taken apart, in the graph's order."""
    nodes = [node for node in graph.node if makes_lists(node.op_type) and node.domain in ("", "ai.onnx")]
    if not nodes:
        return
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    makers = {name: node.op_type for node in nodes for name in node.output if node.op_type in _READERS}
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    returned = {value.name for value in graph.output}
    for node in nodes:
        if node.op_type in _READERS:
            read = all(op in _READERS[node.op_type] for name in node.output for op in readers.get(name, ()))
            fine = read and not returned & set(node.output)
        else:
            made = makers.get(node.input[0]) if node.input else None
            fine = made is not None and node.op_type in _READERS[made]
        places = node.input[1:] if node.op_type in ("SplitToSequence", "SequenceAt") else ()
        if not fine or any(name and name not in constants for name in places):
            yield node
