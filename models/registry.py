"""The block registry: which of our classes stands for a checkpoint's class name, and how one is rebuilt.

A checkpoint's pickle names classes and holds their instance dictionaries. `block_class` picks our class for such a
name (one name can mean two things: `RepConv` is YOLOv7's or Ultralytics'), and `rebuild` makes an instance from
sub-modules, tensors and plain attributes, without ever calling a constructor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

import torch
from torch import nn

from onnxslim_yolo.errors import InputError

Unary: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""A sub-module seen as a function; which class it is does not matter to `forward`."""


class _Required:
    """Marks an attribute that has no default: a checkpoint without it cannot be rebuilt."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required()


def allow(**defaults: Any) -> Mapping[str, Any]:
    """The attributes a block takes from a checkpoint, with their defaults (`REQUIRED`: none)."""
    return MappingProxyType(defaults)


class Block(nn.Module):
    """A module that can be rebuilt from what a checkpoint holds.

    Class attributes:
        ATTRIBUTES: the plain attributes `forward` reads, with their default, or `REQUIRED`.
        MEMBERS: sub-modules (or tensors) that must be present, `a|b` meaning one of both; they also tell classes of
            one name apart.
        OPTIONAL: sub-modules, parameters and buffers that may be absent; they are then None.
        IDLE: patterns of sub-modules, parameters and buffers that only training uses. Whatever else a checkpoint's
            instance holds has to be reached when the model runs, or the checkpoint is refused.
        SAYS: members and attributes of which every instance has at least one, be it None: without any, its code calls
            what nobody sees.
        DESCRIBING: attributes that only say how an instance was initialised; any other that is not read is refused.
    """

    ATTRIBUTES: ClassVar[Mapping[str, Any]] = allow()
    MEMBERS: ClassVar[tuple[str, ...]] = ()
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    IDLE: ClassVar[tuple[str, ...]] = ()
    SAYS: ClassVar[tuple[str, ...]] = ()
    DESCRIBING: ClassVar[tuple[str, ...]] = ()

    def idle(self) -> tuple[str, ...]:
        """Patterns of members that need not run: `IDLE`, and what this instance replaces by something else."""
        return self.IDLE

    def assumed(self) -> str:
        """The activations that this instance applies without the checkpoint holding them, as text; "" if none."""
        return ""

    def settle(self) -> None:
        """Turn attributes into what `forward` needs: tensors of strides or anchors into Python numbers.

        Called after rebuilding and before tracing. Calling it twice changes nothing.
        """


BlockType = TypeVar("BlockType", bound=type[Block])

BLOCKS: Final[dict[str, type[Block]]] = {}
"""The class that usually stands for a checkpoint's class name. Prefer `block_class`, which knows all of them."""

_VARIANTS: Final[dict[str, list[type[Block]]]] = {}


def register_block(*names: str) -> Callable[[BlockType], BlockType]:
    """Register a class under its own name and under `names`, the checkpoint's other names for it.

    With names, only these are registered. The first class of a name is the one in `BLOCKS`. A class from outside
    this package, a user's, goes before all that are there.
    """

    def register(cls: BlockType) -> BlockType:
        for name in names or (cls.__name__,):
            variants = _VARIANTS.setdefault(name, [])
            variants.insert(len(variants) if is_ours(cls) else 0, cls)
            BLOCKS[name] = variants[0]
        return cls

    return register


def is_ours(cls: type) -> bool:
    """Whether a class is one of this package's."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def block_class(name: str, members: Collection[str]) -> type[Block]:
    """Our class for a checkpoint's class name.

    Args:
        name: the class name without its module, `Conv`.
        members: names of the sub-modules, parameters and buffers that the instance has.

    Raises:
        InputError: the name is unknown, or no class of that name has these sub-modules.
    """
    variants = _VARIANTS.get(name)
    if variants is None:
        raise InputError(
            f"the checkpoint uses a block named '{name}', which is not among the {len(BLOCKS)} known ones",
            hint="export the model to ONNX with its own code and compile that file",
        )
    for cls in variants:
        if all(any(name in members for name in member.split("|")) for member in cls.MEMBERS):
            return cls
    wanted = " or ".join("(" + ", ".join(cls.MEMBERS) + ")" for cls in variants)
    raise InputError(
        f"a block named '{name}' should have the sub-modules {wanted}, found ({', '.join(sorted(members))})",
        hint="export the model to ONNX with its own code and compile that file",
    )


def rebuild(
    name: str,
    *,
    modules: Mapping[str, nn.Module | None],
    parameters: Mapping[str, torch.Tensor | None],
    buffers: Mapping[str, torch.Tensor | None],
    attributes: Mapping[str, Any],
) -> Block:
    """Make a block from a checkpoint's parts. Attributes that the class does not allow are ignored.

    Raises:
        InputError: the class is unknown, a required sub-module or attribute is missing.
    """
    present = [key for part in (modules, parameters, buffers) for key, value in part.items() if value is not None]
    cls = block_class(name, present)
    block = cls.__new__(cls)
    nn.Module.__init__(block)
    for key, module in modules.items():
        block.register_module(key, module)
    for key, tensor in parameters.items():
        as_parameter = None if tensor is None else nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
        block.register_parameter(key, as_parameter)
    for key, tensor in buffers.items():
        block.register_buffer(key, tensor)
    for key in cls.OPTIONAL:
        if not any(key in part for part in (modules, parameters, buffers)):
            block.register_module(key, None)
    for key, default in cls.ATTRIBUTES.items():
        if key in modules or key in parameters or key in buffers:
            continue
        value = attributes.get(key, default)
        if value is REQUIRED:
            raise InputError(f"a block named '{name}' lacks the attribute '{key}'")
        setattr(block, key, value)
    block.settle()
    return block
