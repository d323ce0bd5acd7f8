"""A checkpoint's record tree → modules of our own.

First a survey, linear in the number of records, looks for cycles, for trees whose paths multiply without end (a module
shared by a module shared by …: 2³⁹ paths in a few hundred bytes), and for classes nobody knows. Then the modules are
made, each record once, from an allow-list of attributes; no constructor of ours and no `__setstate__` is called.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.load.record_checks import (
    check_block,
    check_container,
    check_leaf,
    children,
    is_block,
    is_module,
    is_plain,
    leaf_of,
    settle_root,
)
from onnxslim_yolo.load.records import Global, Record, TensorRecord, plain_number
from onnxslim_yolo.load.tensors import TensorReader
from onnxslim_yolo.load.torch_leaves import build_leaf, leaf_reads

if TYPE_CHECKING:
    from torch import Tensor, nn

_MAX_DEPTH = 64
_MAX_PATHS = 50_000
_MAX_ATTRIBUTE = 10_000
_MAX_NAMED = 40
_CONTAINERS = ("Sequential", "ModuleList")
_WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
_WRAPPERS |= {"AutoShape": "model", "autoShape": "model"}

EXPORT_CALL = (
    "torch.onnx.export(model.eval(), (torch.zeros(1, 3, 640, 640),), 'model.onnx', dynamo=False, opset_version=17, "
    "training=torch.onnx.TrainingMode.PRESERVE, keep_initializers_as_inputs=True)"
)
"""The call that exports a model with its BatchNorms and its tensors' names."""

EXPORT_LINES = (
    "    f = model.eval().forward; model.forward = lambda x: f(x)[0]   # boxes; without [0] if it returns these alone\n"
    f"    {EXPORT_CALL}\n"
    "    graph = onnx.load('model.onnx')\n"
    "    onnx.helper.set_model_props(graph, {'names': str(dict(enumerate(model.names))), 'task': 'detect', "
    "'stride': str(int(max(model.stride)))})\n"
    "    onnx.save(graph, 'model.onnx')"
)
"""The same without training outputs, with names, task and stride in the file's metadata."""


def unwrapped(record: Record) -> Record:
    """The module inside DataParallel and its like."""
    for _ in range(8):
        inner = record.attributes.get("_modules", {}).get(_WRAPPERS.get(record.short, ""))
        if not is_module(inner):
            return record
        record = inner
    raise InputError("a module is wrapped in DataParallel more than eight times")


def rebuild_module(record: Record, read: TensorReader) -> nn.Module:
    """The module a record tree describes, in eval mode, float32.

    Raises:
        InputError: unknown classes (all of them are named), a module that contains itself, tensors or attributes that
            do not fit.
    """
    record = settle_root(record)
    survey = _Survey()
    survey.visit(record, "", 0)
    if survey.unknown:
        raise InputError(_unknown_message(survey.unknown), hint=_UNKNOWN_HINT)
    module = _Builder(read).build(record, "")
    return module.eval().requires_grad_(True)


class _Survey:
    """Counts paths and collects unknown classes: name → where it was first seen."""

    def __init__(self) -> None:
        self.unknown: dict[str, str] = {}
        self._paths: dict[int, int] = {}
        self._open: set[int] = set()

    def visit(self, record: Record, path: str, depth: int) -> int:
        if id(record) in self._open:
            raise InputError(f"the module '{path}' ({record.name}) contains itself")
        if depth > _MAX_DEPTH:
            raise InputError(f"modules are nested more than {_MAX_DEPTH} deep")
        if id(record) in self._paths:
            return self._paths[id(record)]
        self._open.add(id(record))
        below = {name: child for name, child in children(record).items() if child is not None}
        paths = 1 + sum(self.visit(child, f"{path}.{name}".lstrip("."), depth + 1) for name, child in below.items())
        if paths > _MAX_PATHS:
            raise InputError(f"the model has more than {_MAX_PATHS} modules: it is built to exhaust memory")
        self._open.discard(id(record))
        self._paths[id(record)] = paths
        if not _is_known(record):
            self.unknown.setdefault(record.name, path)
        return paths


def _is_known(record: Record) -> bool:
    contained = record.name.startswith("torch.nn.") and record.short in _CONTAINERS
    return contained or is_block(record) or leaf_of(record) is not None


def _unknown_message(unknown: Mapping[str, str]) -> str:
    places = ", ".join(f"{name} (at '{path}')" for name, path in sorted(unknown.items())[:_MAX_NAMED])
    return f"the checkpoint uses {len(unknown)} module class(es) that are not known here: {places}"


_UNKNOWN_HINT = (
    "write the class anew and register it under its name:\n"
    "    from onnxslim_yolo.models import Block, register_block\n"
    "    @register_block('ItsName')\n"
    "    class ItsName(Block): ...   # sub-modules are MEMBERS, attributes that forward reads ATTRIBUTES\n"
    "  or export with the code the model was trained with, keeping BatchNorm, and compile the .onnx:\n"
    f"{EXPORT_LINES}"
)


class _Builder:
    """Makes each record's module once."""

    def __init__(self, read: TensorReader) -> None:
        self._read = read
        self._made: dict[int, nn.Module] = {}

    def build(self, record: Record, path: str) -> nn.Module:
        if id(record) not in self._made or is_plain(record):  # an activation shared by blocks: is each one's called?
            try:
                self._made[id(record)] = self._make(record, path)
            except (InputError, UnsupportedError) as error:
                raise type(error)(
                    error.message, file=error.file, node=error.node or path or record.name, hint=error.hint
                ) from error
        return self._made[id(record)]

    def _make(self, record: Record, path: str) -> nn.Module:
        from torch import nn

        parts = {
            name: None if child is None else self.build(child, f"{path}.{name}".lstrip("."))
            for name, child in children(record).items()
        }
        parameters, buffers = apply_masks(self._tensors(record, "_parameters"), self._tensors(record, "_buffers"))
        leaf = leaf_of(record)
        if record.name.startswith("torch.nn.") and record.short in _CONTAINERS:
            check_container(record)
            module = self._container(getattr(nn, record.short)(), parts)
        elif leaf is not None:
            check_leaf(record, leaf)
            module = build_leaf(leaf, self._attributes(record, None, leaf_reads(leaf)), {**parameters, **buffers})
        else:
            module = self._block(record, parts, parameters, buffers)
        if "f" in record.attributes:
            module.f = _layer_source(record.attributes["f"])  # type: ignore[assignment]
        return module

    def _container(self, module: nn.Module, parts: Mapping[str, nn.Module | None]) -> nn.Module:
        for name, part in parts.items():
            module.register_module(name, part)
        return module

    def _block(
        self,
        record: Record,
        parts: Mapping[str, nn.Module | None],
        parameters: Mapping[str, Tensor | None],
        buffers: Mapping[str, Tensor | None],
    ) -> nn.Module:
        from onnxslim_yolo.models import block_class, rebuild

        present = [name for each in (parts, parameters, buffers) for name, value in each.items() if value is not None]
        cls = block_class(record.short, present)
        check_block(record, cls)
        try:
            return rebuild(
                record.short,
                modules=parts,
                parameters=parameters,
                buffers=buffers,
                attributes=self._attributes(record, tuple(cls.ATTRIBUTES)),
            )
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError) as error:
            raise InputError(f"{record.name} cannot be rebuilt from its attributes ({error})") from error

    def _tensors(self, record: Record, key: str) -> dict[str, Tensor | None]:
        held = record.attributes.get(key, {})
        if not isinstance(held, dict):
            raise InputError(f"'{key}' of {record.name} is no dictionary")
        tensors: dict[str, Tensor | None] = {}
        for name, value in held.items():
            if not isinstance(name, str) or not name or "." in name or not isinstance(value, TensorRecord | None):
                raise InputError(f"'{key}' of {record.name} holds something that is no tensor: {str(name)[:40]!r}")
            tensors[name] = None if value is None else self._read(value)
        return tensors

    def _attributes(
        self, record: Record, allowed: tuple[str, ...] | None, needed: Collection[str] = ()
    ) -> dict[str, Any]:
        """The plain attributes; all that are simple values if `allowed` is None.

        Raises:
            InputError: one that is `needed` is nothing plain: left out, a default would take its place.
        """
        found: dict[str, Any] = {}
        for name, value in record.attributes.items():
            if not isinstance(name, str) or (name.startswith("_") if allowed is None else name not in allowed):
                continue
            if name in needed:
                found[name] = _named(name, value)
            elif isinstance(value, TensorRecord):
                found[name] = self._read(value)
            elif allowed is not None or isinstance(value, (int, float, str, bool, tuple, list, type(None))):
                found[name] = plain_value(value)
        return found


def apply_masks(
    parameters: dict[str, Tensor | None], buffers: dict[str, Tensor | None]
) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
    """Multiply `NAME_orig` by `NAME_mask`, as `torch.nn.utils.prune` does before every forward pass."""
    for key in [name for name in parameters if name.endswith("_orig")]:
        name = key.removesuffix("_orig")
        tensor, mask = parameters[key], buffers.get(f"{name}_mask")
        if tensor is None or mask is None or tensor.shape != mask.shape:
            raise InputError(f"'{key}' has no mask of its shape")
        parameters[name] = tensor * mask
        del parameters[key], buffers[f"{name}_mask"]
    return parameters, buffers


def plain_value(value: Any, depth: int = 0) -> Any:
    """An attribute as numbers, strings, and tuples, lists and dicts of such; bounded in depth and size.

    Raises:
        InputError: it is something else.
    """
    budget = [_MAX_ATTRIBUTE]

    def convert(part: Any, depth: int) -> Any:
        budget[0] -= 1
        if budget[0] < 0 or depth > 6:
            raise InputError("an attribute is nested too deeply or too large")
        part = plain_number(part)
        if isinstance(part, (list, tuple)):
            return type(part)(convert(each, depth + 1) for each in part)
        if isinstance(part, dict):
            return {convert(key, depth + 1): convert(each, depth + 1) for key, each in part.items()}
        if isinstance(part, str):
            budget[0] -= len(part) // 16
        if isinstance(part, (int, float)) and not isinstance(part, bool) and abs(part) > 1 << 32:
            shown = f"a number of {part.bit_length()} bits" if isinstance(part, int) else str(part)
            raise InputError(f"an attribute is {shown}, which is too large")
        if part is None or isinstance(part, (bool, int, float, str)):
            return part
        if isinstance(part, Global):
            return part.name
        raise InputError(f"an attribute is a {part.name if isinstance(part, Record) else type(part).__name__}")

    return convert(value, depth)


def _named(name: str, value: Any) -> Any:
    """As `plain_value`; the error says which attribute it is."""
    try:
        return plain_value(value)
    except InputError as error:
        raise InputError(f"'{name}': {error.message}", hint=error.hint) from error


def _layer_source(value: Any) -> int | list[int]:
    """A layer's `f`."""
    plain = plain_value(value)
    several = plain if isinstance(plain, (list, tuple)) else [plain]
    if not several or not all(type(index) is int and abs(index) < 10_000 for index in several):
        raise InputError(f"a layer takes its input from {str(plain)[:40]}; expected layer numbers")
    return list(several) if isinstance(plain, (list, tuple)) else several[0]
