"""Blocks that a model's own code can do without: whole modules in whose place one can stand that gives what it takes.

1. Of a module that returns x + f(x) nothing is left but x once the branch f is gone. A graph shows whose sum it is by
   the scope that its node was traced in: the branch is all of that module where no other layer of the model lies within
   the same scope. An attention's sum lies in the module that holds another branch as well, so it is none of these.
2. A chain is bridged by its beginning. It is a module where the innermost scope of all its nodes holds no other node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.blocks import Block
from onnxslim_yolo.pruning.removed import module_of


def module_blocks(graph: gs.Graph, blocks: Iterable[Block]) -> list[Block]:
    """Those of the blocks without which a module of the source is the identity."""
    scopes = {node.name: module_of(node.name) for node in graph.nodes}
    linear = {node.name for node in graph.nodes if any(isinstance(t, gs.Constant) and t.shape for t in node.inputs[1:])}
    whole = {"branch": lambda block: _is_module(block, scopes, linear), "chain": lambda block: _is_row(block, scopes)}
    return [block for block in blocks if block.kind in whole and whole[block.kind](block)]


def _is_row(block: Block, scopes: dict[str, str]) -> bool:
    """Whether a chain's nodes are all that some module runs."""
    paths = [scopes[name].split(".") for name in block.nodes]
    shared = [parts[0] for parts in zip(*paths, strict=False) if len({*parts}) == 1]
    scope = ".".join(shared)
    return bool(scope) and {name for name, path in scopes.items() if _lies_in(path, scope)} == {*block.nodes}


def _is_module(block: Block, scopes: dict[str, str], layers: set[str]) -> bool:
    """Whether all layers within the sum's scope are the block's, and all of the block's lie within it."""
    scope = scopes.get(block.node, block.node)
    within = {name for name in layers if _lies_in(scopes[name], scope)}
    return scope != block.node and bool(within) and within == layers.intersection(block.nodes)


def _lies_in(path: str, scope: str) -> bool:
    return path == scope or path.startswith(f"{scope}.")


def gone_modules(
    gone: Iterable[str], left: Iterable[str], modules: Sequence[str], containers: frozenset[str]
) -> tuple[list[str], list[str]]:
    """The outermost modules of which every tensor went, and the tensors that went without a whole module.

    Args:
        gone, left: names of tensors, as a state_dict has them.
        modules: every module's path. containers: those that are lists of others only, and stay.
    """
    alive = {name[:k] for name in left for k, letter in enumerate(name) if letter == "."}
    whole = [path for path in modules if path and path not in alive and path not in containers]
    found: list[str] = []
    for path in sorted(whole, key=lambda path: (path.count("."), path)):
        if any(name.startswith(f"{path}.") for name in gone) and not any(path.startswith(f"{one}.") for one in found):
            found.append(path)
    return found, [name for name in gone if not any(name.startswith(f"{path}.") for path in found)]
