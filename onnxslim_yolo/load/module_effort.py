"""What running a module takes, counted while it runs on shapes alone (`dry_run`), before torch computes anything.

A checkpoint of some kilobytes can ask for a pooling window of 1999², as an ONNX file can. It is held to the same limits
here, in the same units (`analysis.effort`); its graph is judged again, and more finely, once it is traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from onnxslim_yolo.analysis.effort import ELEMENT, POOL_TAP, QUICK_ELEMENT, Effort
from onnxslim_yolo.analysis.limits import Asked, limits_of
from onnxslim_yolo.load.trace_check import flatten_outputs

if TYPE_CHECKING:
    from torch import Tensor, nn


class Ledger:
    """Adds up what the parts of a module take.

    Args:
        module: the whole, for its weights decide what it may take where the user sets no limit.
        asked: the user's limits.
    """

    def __init__(self, module: nn.Module, asked: Asked) -> None:
        held = [*module.parameters(), *module.buffers()]
        count, size = sum(t.numel() for t in held), sum(t.numel() * max(4, t.element_size()) for t in held)
        self._limits = limits_of(count, size, asked.memory, asked.work)
        self._weights = size
        self._memory, self._memory_node = 0, ""
        self._work, self._most, self._work_node = 0, -1, ""

    def add_call(self, place: str, function: str, inputs: Any, output: Any) -> None:
        """Count a function that a module's code calls by itself, as attention multiplies. Raises InputError as `add`.

        Nothing but products of two maps is work: of the rest, the parts between are most.
        """
        read, made = flatten_outputs(inputs), flatten_outputs(output)
        memory, work = sum(map(_held, (*read, *made))), product_of(function, inputs, read, made)
        self._count(f"{place} ({function.strip('_')})", memory, work)

    def add(self, name: str, part: nn.Module, inputs: Any, output: Any) -> None:
        """Count one call. Raises InputError, with the part that takes most, once it is more than is allowed."""
        read, made = flatten_outputs(inputs), flatten_outputs(output)
        memory = sum(t.numel() * max(4, t.element_size()) for t in (*read, *made))
        leaf = next(part.children(), None) is None
        self._count(f"{name} ({type(part).__name__})", memory, work_of(part, read, made) if leaf else None)

    def _count(self, label: str, memory: int, work: int | None) -> None:
        """Bytes of maps beside the weights, and multiply-adds; None: they are its parts'."""
        if self._weights + memory > self._memory:
            self._memory, self._memory_node = self._weights + memory, label
        if work is not None:
            self._work += work
            if work > self._most:
                self._most, self._work_node = work, label
        self._limits.hold(Effort(self._memory, self._memory_node, self._work, self._work_node))


_PRODUCTS = frozenset(["matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm"])


def _held(tensor: Tensor) -> int:
    """Bytes that a tensor takes, four a number at least: of a view that repeats its numbers, those that there are."""
    size = tensor.element_size()
    return min(tensor.numel(), tensor.untyped_storage().nbytes() // size) * max(4, size)


def product_of(function: str, inputs: Any, read: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    """Multiply-adds of a product of two maps; 0 of any other function."""
    if function in _PRODUCTS and len(read) > 1:
        return sum(int(t.numel()) for t in made) * int(read[-1].shape[-2] if read[-1].dim() > 1 else read[-1].shape[-1])
    if function == "einsum":
        text = next((each for each in inputs[0] if isinstance(each, str)), "")
        sizes = {
            letter: int(side)
            for letters, t in zip(text.partition("->")[0].replace(" ", "").split(","), read, strict=False)
            for letter, side in zip(letters, t.shape, strict=False)
        }
        return prod(sizes.values())
    return 0


def work_of(part: nn.Module, read: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    """Multiply-adds of one call of a module without parts, or what takes as long."""
    from torch import nn

    weight = getattr(part, "weight", None)
    shape = tuple(int(side) for side in weight.shape) if weight is not None and hasattr(weight, "shape") else ()
    size = sum(int(t.numel()) for t in made)
    if isinstance(part, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return sum(int(t.numel()) for t in read[:1]) * prod(shape[1:])
    if len(shape) >= 2:  # Conv, Linear, and whatever multiplies by a matrix
        return size * prod(shape[1:])
    kernel = getattr(part, "kernel_size", None)
    if kernel is not None and read and read[0].dim() > 2:
        sides = [int(side) for side in read[0].shape[2:]]
        window = kernel if isinstance(kernel, (tuple, list)) else (kernel,) * len(sides)
        return POOL_TAP * size * prod(max(1, min(int(k), side)) for k, side in zip(window, sides, strict=False))
    return (QUICK_ELEMENT if isinstance(part, (nn.ReLU, nn.SiLU, nn.BatchNorm2d, nn.Identity)) else ELEMENT) * size
