"""Which names a pickle may mention, and which it may call.

* The standard library: only `_STANDARD`; any other name of it (`os.system`, `builtins.eval`, …) is refused on sight.
* Other packages: a name may be mentioned and instantiated, which gives an inert record, but not called.
* `CALLS` are the only calls. Each is a function of this file that builds plain data; nothing is imported.

A call costs what it copies, so that one shared list cannot be copied a million times.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.load.records import Global, Record, Storage, TensorRecord

Charge: TypeAlias = Callable[[int], None]
"""Counts work and raises when there is too much of it."""

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}
_TYPES = (
    "set",
    "frozenset",
    "list",
    "tuple",
    "dict",
    "int",
    "float",
    "bool",
    "str",
    "bytes",
    "bytearray",
    "complex",
    "slice",
    "object",
)
_DATES = ("datetime", "date", "time", "timedelta", "timezone")
_STANDARD = frozenset(
    {"collections.OrderedDict", "collections.defaultdict", "collections.Counter", "collections.deque"}
    | {"_codecs.encode", "builtins.getattr", "argparse.Namespace", "types.SimpleNamespace"}
    | {f"builtins.{name}" for name in _TYPES}
    | {f"datetime.{name}" for name in _DATES}
    | {
        f"{module}.{kind}Path"
        for module in ("pathlib", "pathlib._local")
        for kind in ("Posix", "Windows", "PurePosix", "PureWindows", "")
    }
)
_SCALARS = (str, bytes, int, float, bool, type(None))


def mention(module: object, name: object) -> Global:
    """A name that stands in a pickle.

    Raises:
        InputError: it is no name, or belongs to a part of the standard library that no checkpoint needs.
    """
    if not isinstance(module, str) or not isinstance(name, str) or not 0 < len(module) + len(name) < 512:
        raise InputError("the pickle names a class by something that is no name")
    dotted = f"{_RENAMED.get(module, module)}.{name}"
    if not dotted.isprintable():
        raise InputError("the pickle names a class by something that is no name")
    if dotted.partition(".")[0] in sys.stdlib_module_names and dotted not in _STANDARD:
        raise InputError(
            f"the pickle asks for '{dotted}', which no checkpoint needs; nothing was run",
            hint="the file may be malicious: find out where it comes from",
        )
    return Global(dotted)


def call(function: object, arguments: object, charge: Charge) -> Any:
    """What a pickle's call gives.

    Raises:
        InputError: the callable is not on the list, or its arguments are not what it takes.
    """
    name = function.name if isinstance(function, Global) else type(function).__name__
    known = CALLS.get(name) if isinstance(function, Global) else None
    if known is None:
        raise InputError(
            f"the pickle wants to call '{name}', which is not on the list of allowed calls; nothing was run",
            hint="if you trust the file, load it with its own code, save model.state_dict(), and give that file "
            "together with a model yaml",
        )
    if not isinstance(arguments, tuple):
        raise InputError(f"the arguments of '{name}' are no tuple: the pickle is damaged")
    charge(1 + sum(len(a) for a in arguments if isinstance(a, (list, tuple, dict, set, str, bytes, bytearray))))
    try:
        return known(name, *arguments)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise InputError(f"the arguments of '{name}' are not what it takes: the pickle is damaged") from error


def instance(cls: object, arguments: object) -> Any:
    """An instance of a class: a container, or a record.

    Raises:
        InputError: this is no class.
    """
    if not isinstance(cls, Global) or not isinstance(arguments, tuple):
        raise InputError(f"the pickle makes an instance of a {type(cls).__name__}")
    if cls.name in ("collections.OrderedDict", "collections.defaultdict", "collections.Counter"):
        return {}
    if cls.name.partition(".")[0] == "builtins":
        raise InputError(f"the pickle makes an instance of '{cls.name}' in a way that pickle never writes")
    return Record(cls.name, arguments)


def key(value: Any) -> Any:
    """A value that may be hashed: nested tuples or giant integers could take for ever.

    Raises:
        InputError: it may not.
    """
    parts = value if isinstance(value, tuple) and len(value) <= 16 else (value,)
    for part in parts:
        if isinstance(part, int) and not -(1 << 63) <= part < 1 << 64:
            raise InputError("the pickle uses an integer beyond 64 bits as a key")
        if not isinstance(part, (*_SCALARS, Global, Record, TensorRecord)):
            raise InputError(f"the pickle uses a {type(part).__name__} as a key")
    return value


def _sequence(value: Iterable[Any] = ()) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(value)
    return value


def _mapping(_: str, pairs: Any = ()) -> dict[Any, Any]:
    if isinstance(pairs, dict):
        return dict(pairs)
    return {key(k): v for k, v in map(_sequence, _sequence(pairs))}


def _encode(_: str, text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii") or not isinstance(text, str):
        raise ValueError(encoding)
    return text.encode(encoding)


def _bytes(_: str, value: bytes | str = b"", encoding: str = "latin1") -> bytes:
    return _encode(_, value, encoding) if isinstance(value, str) else bytes(memoryview(value))


def _record(name: str, *arguments: Any) -> Record:
    return Record(name, arguments)


def _numbers(values: Any) -> tuple[int, ...]:
    numbers = _sequence(values)
    if len(numbers) > 64 or not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise ValueError("no shape")
    return tuple(numbers)


def _tensor(_: str, storage: Any, offset: Any, size: Any, stride: Any, *_unused: Any) -> TensorRecord:
    if not isinstance(storage, Storage) or len(_numbers(size)) != len(_numbers(stride)):
        raise TypeError(storage)
    return TensorRecord(storage, _numbers((offset,))[0], _numbers(size), _numbers(stride))


def _parameter(_: str, data: Any, *_unused: Any) -> TensorRecord:
    if not isinstance(data, TensorRecord):
        raise TypeError(data)
    return TensorRecord(data.storage, data.offset, data.size, data.stride, is_parameter=True)


def _typed(_: str, function: Any, kind: Any, arguments: Any, _state: Any = None) -> TensorRecord:
    """A tensor subclass or one with attributes: the plain tensor that it is made from."""
    if not isinstance(function, Global) or not function.name.startswith("torch._utils._rebuild_"):
        raise TypeError(function)
    result = CALLS[function.name](function.name, *_sequence(arguments))
    if not isinstance(result, TensorRecord):
        raise TypeError(kind)
    return result


def _member(_: str, owner: Any, attribute: Any) -> Global:
    """A method stored as an attribute (YOLOv5's Segment keeps `Detect.forward`): one more name, never looked up."""
    if not isinstance(owner, Global):
        raise TypeError(owner)
    return mention(owner.name, attribute)


def _first(_: str, value: Any = (), *_unused: Any) -> Any:
    return tuple(_sequence(value))


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": lambda name, _factory=None, pairs=(): _mapping(name, pairs),
    "collections.deque": lambda _, values=(), _length=None: list(_sequence(values)),
    "builtins.getattr": _member,
    "builtins.list": lambda _, values=(): list(_sequence(values)),
    "builtins.tuple": _first,
    "builtins.dict": _mapping,
    "builtins.set": lambda _, values=(): {key(v) for v in _sequence(values)},
    "builtins.frozenset": lambda _, values=(): frozenset(key(v) for v in _sequence(values)),
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.complex": _record,
    "builtins.slice": _record,
    "_codecs.encode": _encode,
    "numpy.dtype": _record,
    "numpy.core.multiarray._reconstruct": _record,
    "numpy._core.multiarray._reconstruct": _record,
    "numpy.core.multiarray.scalar": _record,
    "numpy._core.multiarray.scalar": _record,
    "numpy.core.numeric._frombuffer": _record,
    "numpy._core.numeric._frombuffer": _record,
    "torch.Size": _first,
    "torch.device": _record,
    "torch.serialization._get_layout": _record,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _typed,
    "torchvision.transforms.functional.InterpolationMode": _record,  # in the transforms that a classifier keeps
    "types.SimpleNamespace": _record,
    "ultralytics.utils.IterableSimpleNamespace": _record,
    "ultralytics.yolo.utils.IterableSimpleNamespace": _record,
    **{name: _record for name in _STANDARD if name.startswith(("datetime.", "pathlib."))},
}
"""Dotted name to what stands for it here. Every function takes the name and the pickle's arguments."""
