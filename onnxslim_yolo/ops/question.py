"""Questions about a node that its operator answers: each is asked by name, and put beside the table of its kind.

    is_batch_norm(node)        instead of        node is not None and node.op == "BatchNormalization"

Which operators answer it stands in one place, and the type checker knows both the question and what follows from it.
"""

from __future__ import annotations

from typing import Protocol, TypeGuard

from onnxslim_yolo.ir.graph import Node


class Question(Protocol):
    """Whether there is a node, and it is of certain operators."""

    def __call__(self, node: Node | None, /) -> TypeGuard[Node]:
        """Whether it is."""


def one_of(*operators: str) -> Question:
    """The question whether a node is of one of these operators."""
    them = frozenset(operators)

    def asked(node: Node | None, /) -> TypeGuard[Node]:
        return node is not None and node.op in them

    return asked
