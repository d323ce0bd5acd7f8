"""How to part a network from post-processing that only one runtime knows: TensorRT's EfficientNMS_TRT, say.

Such a node cannot be run here, so nothing that is made of it could be compared; what stands in front of it can be
compiled, and the node be put behind the result again. That is said as a command, where nothing learned comes after it.
"""

from __future__ import annotations

import re
from pathlib import Path

import onnx

from onnxslim_yolo.ops.linear import LINEAR

_PLAIN = re.compile(r"[\w./:@+-]+")
"""Names that mean nothing to a shell, nor to Python between quotes."""


def way_to_cut_off(graph: onnx.GraphProto, first: onnx.NodeProto, path: Path | str | None) -> str | None:
    """A command that writes the network in front of a node, and of all that is computed from it; None where something
    learned comes after it, or nothing before it, or where a name is not fit to be printed in a command."""
    behind = set(first.output)
    tail = [first]
    for node in graph.node:
        if node is not first and behind.intersection(node.input):
            tail.append(node)
            behind |= set(node.output)
    given = [value.name for value in graph.input]
    weights = {tensor.name for tensor in graph.initializer}
    constants = {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    known = {*given, *weights, *constants, ""}
    returned = [value.name for value in graph.output if value.name not in behind]
    ends = list(dict.fromkeys([n for node in tail for n in node.input if n not in behind | known] + returned))
    fed = [name for name in given if name not in weights]
    if path is None or not ends or any(node.op_type in LINEAR for node in tail):
        return None
    file = Path(path)
    names = [file.name, *fed, *ends]
    if not all(_PLAIN.fullmatch(name) for name in names) or sum(map(len, names)) > 300:
        return None
    cut = file.with_name(f"{file.stem}-cut.onnx").name
    return (
        f'cut it off, and put it behind the result again: python -c "import onnx.utils; onnx.utils.extract_model('
        f"'{file.name}', '{cut}', {fed}, {ends}, check_model=False)\""
    )
