"""Is an instance in a checkpoint what our class of its name is? Asked of its attributes, before it is rebuilt.

Sub-modules and tensors are accounted for once the model has run (`load.account`). Attributes leave no trace there: a
fork's `Bottleneck` with `alpha = 0.2` has the same sub-modules as anybody's. So every number, flag and text that an
instance holds is read by our class, or is one of those that say what the tensors' shapes and the container say as well,
or describes a size found in its sub-modules, or the checkpoint is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeGuard

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.load.records import Global, Record, TensorRecord, plain_number
from onnxslim_yolo.load.torch_leaves import known_leaf, leaf_arguments

_TRAINING_PARTS = frozenset(
    {"criterion", "loss", "loss_fn", "loss_func", "compute_loss", "teacher", "ema", "ema_model"}
)
"""Sub-modules of a whole model that only a trainer uses."""

_BESIDE = frozenset(
    [
        # the container's and the trainer's
        *("training", "i", "f", "type", "np", "name", "inplace", "export", "format", "dynamic", "onnx_dynamic"),
        *("deploy", "use_se", "is_first", "with_cp", "drop", "dropout", "e", "expansion", "ratio", "reduction"),
        *("mlp_ratio", "attn_ratio"),
    ]
)
"""Attributes of any block that say how it was built or is exported."""

_OF_HEADS = frozenset(["grid", "anchor_grid", "strides", "shape", "legacy", "detect", "prior_prob"])
"""Caches that a head fills when it runs, and how it was built or initialised."""

_OF_ROOTS = frozenset(
    [
        *("names", "nc", "ch", "stride", "save", "gr", "class_weights", "traced", "is_fused", "end2end", "kpt_shape"),
        *("depth_multiple", "width_multiple", "epoch", "best_fitness", "anchors", "imgsz", "img_size", "num_classes"),
    ]
)
"""What a whole model says of its layers and its training."""

_WIDTHS = frozenset(
    [
        *("c", "c_", "c1", "c2", "c3", "c4", "ch", "dim", "g", "groups", "channel"),
        *("in_channels", "out_channels", "inp", "oup", "hidden_dim", "hidden_channels", "mid_channels"),
    ]
)
"""Widths that a constructor was given: the tensors have them, or, in a pruned checkpoint, others."""

_KERNELS = frozenset(["k", "ks", "kernel_size", "s", "p", "pad", "padding"])
"""What else it was given: the leaves have the same numbers, or the block does something of its own with them."""

_LEAST_WIDTH = 8
"""A smaller number may count or order something; under another name than those above it is no width."""

_DEEPEST = 6
"""How far down sizes are looked for: a block of blocks, each a list of sequences of convolutions with their norms."""

_INTERNAL = frozenset(
    [
        *("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_is_full_backward_hook", "_backend"),
        *("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs", "_version"),
        *("_ddp_params_and_buffers_to_ignore", "_compiled_call_impl", "_is_hf_initialized"),
    ]
)
"""`nn.Module`'s own; so is what ends in `_hooks`."""

_HINT = (
    "write the class as its own code has it and register it, which puts it before ours:\n"
    "    from onnxslim_yolo.models import Block, register_block\n"
    "    @register_block('ItsName')\n"
    "    class ItsName(Block): ...   # attributes that forward reads are ATTRIBUTES\n"
    "  or export the model with its own code and compile that file"
)


def is_module(value: Any) -> bool:
    """Whether a record stands for an `nn.Module`."""
    return isinstance(value, Record) and isinstance(value.attributes.get("_modules"), dict)


def children(record: Record) -> dict[str, Record | None]:
    """Its sub-modules by name."""
    found: dict[str, Record | None] = {}
    for name, child in record.attributes["_modules"].items():
        if not isinstance(name, str) or not name or "." in name or not (child is None or is_module(child)):
            raise InputError(f"a sub-module of {record.name} is no module: {str(name)[:40]!r}")
        found[name] = child
    return found


def is_block(record: Record) -> bool:
    """Whether a class of `models` stands for the record's."""
    from onnxslim_yolo.models import BLOCKS

    return not record.name.startswith("torch.nn.") and record.short in BLOCKS


def leaf_of(record: Record) -> str | None:
    """The `torch.nn` class that stands for the record's, or None."""
    return None if is_block(record) else known_leaf(record.name)


def is_plain(record: Record) -> bool:
    """Whether it is a leaf without tensors. Such a one costs nothing, so each of its places gets its own."""
    held = [*_dict(record, "_parameters").values(), *_dict(record, "_buffers").values()]
    return leaf_of(record) is not None and all(value is None for value in held)


def training_parts(record: Record) -> list[str]:
    """The names of a whole model's sub-modules that only its trainer uses."""
    return [name for name in record.attributes["_modules"] if name in _TRAINING_PARTS]


def settle_root(record: Record) -> Record:
    """A whole model without what only its trainer uses, under a name that is known if it is built as one that is.

    Forks rename the root (`ModelPruned`), and it is told by its structure: a Sequential `model` whose layers say where
    their input comes from (`f`), and nothing beside it; or YOLOv6's `backbone`, `neck`, `detect`.
    """
    parts = {name: child for name, child in record.attributes["_modules"].items() if name not in _TRAINING_PARTS}
    layered = list(parts) == ["model"] and _has_layers(parts["model"])
    known = is_block(record) or leaf_of(record) is not None or record.name.startswith("torch.nn.")
    renamed = not known and (layered or set(parts) == {"backbone", "neck", "detect"})
    name = f"{record.name.rpartition('.')[0]}.Model" if renamed else record.name
    if name == record.name and len(parts) == len(record.attributes["_modules"]):
        return record
    return Record(name, record.arguments, {**record.attributes, "_modules": parts})


def _has_layers(record: Any) -> bool:
    below = _dict(record, "_modules").values() if is_module(record) and record.name.startswith("torch.nn.") else ()
    return bool(below) and all(isinstance(each, Record) and "f" in each.attributes for each in below)


def check_container(record: Record) -> None:
    """Refuses a Sequential with somebody's function at what goes in or comes out; a ModuleList is never called.

    Raises:
        InputError: as said.
    """
    if record.short == "Sequential":
        _refuse_unread(record, _hooks(record))


def _hooks(record: Record) -> dict[str, Any]:
    return {key: "a function" for key in ("_forward_hooks", "_forward_pre_hooks") if _is_hooked(record, key)}


def check_leaf(record: Record, leaf: str) -> None:
    """Refuses a leaf that holds what its class in `torch.nn` does not.

    Raises:
        InputError: it has sub-modules, or, being a repository's own class, attributes that are not read.
    """
    if below := [name for name, child in children(record).items() if child is not None]:
        raise InputError(f"{record.name} holds sub-modules that a {leaf} does not have: {', '.join(below)}", hint=_HINT)
    unread = _unread(record, leaf_arguments(leaf))
    if record.name.startswith("torch.nn."):  # torch's own forward reads what is its own
        unread = {name: value for name, value in unread.items() if _is_internal(name)}
    _refuse_unread(record, unread)


def check_block(record: Record, cls: type) -> None:
    """Refuses an instance with attributes that our class does not read, and that may change what it computes.

    Raises:
        InputError: as said; all of them are named.
    """
    from onnxslim_yolo.models.container import LayeredModel
    from onnxslim_yolo.models.heads import Head
    from onnxslim_yolo.models.registry import is_ours
    from onnxslim_yolo.models.yolov6 import YOLOv6

    if not is_ours(cls):
        return
    if issubclass(cls, (LayeredModel, YOLOv6)):  # texts and dictionaries: what it was made from and trained with
        unread = _unread(record, cls.ATTRIBUTES, _BESIDE | _OF_ROOTS)
        _refuse_unread(record, {name: value for name, value in unread.items() if _is_numeric(value)})
        return
    said: tuple[str, ...] = cls.SAYS  # type: ignore[attr-defined]
    if said and not any(name in record.attributes or name in record.attributes["_modules"] for name in said):
        raise InputError(
            f"{record.name} holds no activation, and does not say that it has none ({', '.join(said)}): what its code "
            "calls nobody sees",
            hint=_HINT,
        )
    beside = _BESIDE.union(cls.DESCRIBING, _OF_HEADS if issubclass(cls, Head) else ())  # type: ignore[attr-defined]
    _refuse_unread(record, _unread(record, cls.ATTRIBUTES, beside))  # type: ignore[attr-defined]


def _refuse_unread(record: Record, unread: Mapping[str, Any]) -> None:
    if unread:
        shown = ", ".join(f"{name} = {str(value)[:30]}" for name, value in sorted(unread.items())[:8])
        raise InputError(
            f"{record.name} is not the class of that name known here: it has attributes which that one does not "
            f"read, and which may change what it computes: {shown}",
            hint=_HINT,
        )


def _unread(record: Record, read: Collection[str], beside: Collection[str] = _BESIDE) -> dict[str, Any]:
    """Attributes that are not read, and that say something which neither their name nor the sizes explain."""
    held = {
        name: plain_number(value)
        for name, value in record.attributes.items()
        if isinstance(name, str) and name not in read and name not in beside and not _is_internal(name)
    }
    numbers = {name: value for name, value in held.items() if _says_something(value)}
    numbers |= _hooks(record)
    if not numbers:
        return {}
    sizes, halves = set(_sizes(record, _DEEPEST)), set(_halves(record))
    return {name: value for name, value in numbers.items() if not _describes(name, value, sizes, halves)}


def _is_internal(name: str) -> bool:
    return name in _INTERNAL or (name.startswith("_") and name.endswith("_hooks"))


def _is_hooked(record: Record, key: str) -> bool:
    """Whether somebody's function changes what goes in or comes out; `torch.nn.utils.prune` is read as masks."""
    hooks = record.attributes.get(key)
    held = [*hooks.values()] if isinstance(hooks, dict) else [*hooks.entries.values()] if _is_dict(hooks) else []
    return any(not (isinstance(each, Record) and each.name.startswith("torch.nn.utils.prune.")) for each in held)


def _is_dict(value: Any) -> TypeGuard[Record]:
    return isinstance(value, Record) and bool(value.entries)


def _says_something(value: Any) -> bool:
    """Numbers, flags, texts, tensors, functions, objects; not what is empty, nor a type of numbers."""
    if isinstance(value, dict):
        return any(_says_something(each) for each in list(value.values())[:1000])
    if isinstance(value, (list, tuple, set)):
        return any(_says_something(each) for each in list(value)[:1000])
    if isinstance(value, Global):
        return value.name not in _TYPES
    return value is not None and not (isinstance(value, Record) and value.name in _EMPTY_OBJECTS)


def _is_numeric(value: Any) -> bool:
    """Numbers, flags, tensors and lists of such, and functions."""
    if isinstance(value, (list, tuple)):
        return any(_is_numeric(each) for each in value[:1000])
    return isinstance(value, (bool, int, float, TensorRecord)) or value == "a function"


_TYPES = frozenset(f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "int64", "uint8"))
_EMPTY_OBJECTS = frozenset(("torch.device", "torch.Size"))


def _describes(name: str, value: Any, sizes: set[int], halves: set[int]) -> bool:
    """Whether it is a size, or a list of sizes, that the sub-modules have as well.

    Under any name numbers that can only be widths are taken for such; small ones under the usual names only: a 3 may be
    a kernel, and may be how often something is done. Widths under their usual names may be stale, or say how wide the
    parts are that a layer's output is split into, where an identity, which has no width, is all that takes one.
    """
    several = value if isinstance(value, (list, tuple)) else (value,)
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in several):
        return False
    if name in _WIDTHS:
        known = sizes | halves
        return bool(sizes) and all(each in known or each >= _LEAST_WIDTH for each in several)
    return all(each in sizes and (name in _KERNELS or each >= _LEAST_WIDTH) for each in several)


def _halves(record: Record) -> Iterator[int]:
    """Half of what each layer directly below gives, where an identity stands in a list beside it.

    A block's layer may be a convolution with its norm.
    """
    below = [child for child in _dict(record, "_modules").values() if isinstance(child, Record)]
    lists = [child for child in below if child.short in ("Sequential", "ModuleList")]
    held = [each for one in lists for each in _dict(one, "_modules").values()]
    if not any(isinstance(each, Record) and leaf_of(each) == "Identity" for each in held):
        return
    for child in below:
        inner = _dict(child, "_modules").get("conv", child)
        weight = _dict(inner, "_parameters").get("weight") if isinstance(inner, Record) else None
        if isinstance(weight, TensorRecord) and len(weight.size) > 1 and weight.size[0] % 2 == 0:
            yield weight.size[0] // 2


def _sizes(record: Record, depth: int) -> Iterator[int]:
    """Widths, kernel sizes and strides of the leaves below."""
    for child in _dict(record, "_modules").values() if depth else ():
        if isinstance(child, Record):
            yield from _sizes(child, depth - 1)
    for tensor in (*_dict(record, "_parameters").values(), *_dict(record, "_buffers").values()):
        yield from tensor.size if isinstance(tensor, TensorRecord) else ()
    for key in ("kernel_size", "stride", "padding", "groups", "in_channels") if leaf_of(record) else ():
        value = record.attributes.get(key)
        yield from (each for each in (value if isinstance(value, tuple) else (value,)) if type(each) is int)


def _dict(record: Record, key: str) -> dict[Any, Any]:
    held = record.attributes.get(key)
    return held if isinstance(held, dict) else {}
