"""The files `torch.save` writes, without torch's own reader: a zip archive since 1.6, before that a row of pickles.

A zip archive holds `NAME/data.pkl` and one stored (never compressed) member `NAME/data/KEY` a storage. A legacy file is
five pickles (magic number, protocol 1001, system information, the object, the storages' keys), then for each key an
int64 count and the numbers. Both are little-endian, or refused.

Everything declared is held against the file's size before memory is reserved, so a file cannot ask for more than a
small multiple of its own size.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import require_file
from onnxslim_yolo.load.foreign import foreign
from onnxslim_yolo.load.pickle_machine import PickleMachine
from onnxslim_yolo.load.records import Global, Storage

_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_PICKLE = 32 << 20
_MAX_MEMBERS = 100_000
_MAX_LEGACY = 8 << 30

ITEM_SIZES = {
    **dict.fromkeys(("bool", "uint8", "int8"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16"), 2),
    **dict.fromkeys(("float32", "int32"), 4),
    **dict.fromkeys(("float64", "int64"), 8),
}
"""Bytes an element takes, by torch dtype name."""

_STORAGES = {
    "Bool": "bool",
    "Byte": "uint8",
    "Char": "int8",
    "Short": "int16",
    "Int": "int32",
    "Long": "int64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Float": "float32",
    "Double": "float64",
}


@dataclass(frozen=True)
class Archive:
    """A file that was opened: its object tree, and where the numbers are.

    Attributes:
        path: the file.
        size: its bytes.
        root: what was saved, as plain containers and records.
        read_storage: the bytes of a storage.
        names: every class and function that its pickles mention.
    """

    path: Path
    size: int
    root: Any
    read_storage: Callable[[Storage], bytes]
    names: frozenset[str] = frozenset()


def open_archive(path: Path) -> Archive:
    """Read the object tree of a `.pt`, `.pth` or `.ckpt` file. Nothing in it is imported or run.

    Raises:
        InputError: unreadable, damaged, of another format, or asking for something that is not allowed.
    """
    require_file(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
        if start.startswith(b"PK"):
            return _open_zip(path, size)
        _refuse_other_formats(start, path)
        return _open_legacy(path, size)
    except InputError as error:
        raise InputError(error.message, file=path, node=error.node, hint=error.hint) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from error
    except (MemoryError, RecursionError) as error:
        raise InputError("is built to exhaust memory", file=path) from error


def zip_kind(path: Path) -> str:
    """What a zip archive is: "checkpoint", "torchscript", "export", or "other"."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {
                PurePosixPath(name).relative_to(PurePosixPath(name).parts[0]).as_posix() for name in archive.namelist()
            }
    except (zipfile.BadZipFile, OSError, IndexError, ValueError, NotImplementedError, EOFError, struct.error):
        return "other"
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return "torchscript"
    if any(name.endswith(("serialized_exported_program.json", "models/model.json")) for name in names):
        return "export"
    return "checkpoint" if "data.pkl" in names else "other"


def _refuse_other_formats(start: bytes, path: Path) -> None:
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return
    if not start:
        raise InputError("is empty", file=path)
    if start.startswith(b"\x08"):
        named = path.suffix.lower() == ".onnx"
        raise InputError(f"looks like ONNX: {'expected a checkpoint' if named else 'name it .onnx'}", file=path)
    raise InputError(foreign(start) or "is no checkpoint: unknown format", file=path)


def _open_zip(path: Path, size: int) -> Archive:
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked_members(archive, size)
            root = _root_folder(members)
            if members.get(f"{root}byteorder") and archive.read(f"{root}byteorder") != b"little":
                raise InputError("was written on a big-endian machine, which is not supported")
            pickle = members[f"{root}data.pkl"]
            if pickle.file_size > _MAX_PICKLE:
                raise InputError(f"its pickle has {pickle.file_size} bytes; at most {_MAX_PICKLE} are read")
            data = archive.read(pickle)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, struct.error, ValueError) as error:
        # ValueError: names that are no UTF-8, members beyond what a file can be long
        raise InputError(f"is a damaged or truncated zip archive ({error})") from error
    machine = PickleMachine(data, 0, lambda identifier: _storage(identifier))
    tree = machine.run()
    return Archive(path, size, tree, _ZipStorages(path, f"{root}data/", members), frozenset(machine.names))


def _checked_members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    total = 0
    if len(archive.infolist()) > _MAX_MEMBERS:
        raise InputError(f"the archive has more than {_MAX_MEMBERS} members")
    for info in archive.infolist():
        name = info.orig_filename
        parts = name.split("/")
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or ":" in parts[0]:
            raise InputError(f"the archive has a member '{name[:80]}' outside its own folder")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(f"the archive has a symbolic link '{name[:80]}'")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise InputError(
                f"the archive's member '{name[:80]}' is compressed, which torch.save never does",
                hint="if you packed it yourself, pack it again with 'zip -0'",
            )
        if info.flag_bits & 0x41:
            raise InputError(f"the archive's member '{name[:80]}' is encrypted")
        if name in members:
            raise InputError(f"the archive has two members '{name[:80]}'")
        members[name] = info
        total += info.file_size
    if total > size:
        raise InputError(f"the archive's members claim {total} bytes in a file of {size}: they overlap")
    return members


def _root_folder(members: dict[str, zipfile.ZipInfo]) -> str:
    pickles = [name for name in members if name.count("/") <= 1 and name.split("/")[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise InputError(
            "is a zip archive, but no checkpoint: expected one member NAME/data.pkl, "
            f"found {len(pickles)} among {len(members)}"
        )
    return pickles[0].removesuffix("data.pkl")


class _ZipStorages:
    """Reads storages from an archive's members."""

    def __init__(self, path: Path, folder: str, members: dict[str, zipfile.ZipInfo]) -> None:
        self._path, self._folder, self._members = path, folder, members
        self._archive: zipfile.ZipFile | None = (
            None  # opened once: reading its directory takes longer than the storages
        )

    def __call__(self, storage: Storage) -> bytes:
        name = f"{self._folder}{storage.key}"
        info = self._members.get(name)
        expected = storage.count * ITEM_SIZES[storage.dtype]
        if info is None or info.file_size != expected:
            found = "is missing" if info is None else f"has {info.file_size} bytes"
            raise InputError(
                f"the storage '{name[:80]}' {found}; {storage.count} {storage.dtype} take {expected}", file=self._path
            )
        try:
            if self._archive is None:
                self._archive = zipfile.ZipFile(self._path)
            return self._archive.read(info)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, zlib.error) as error:
            raise InputError(f"the storage '{name[:80]}' is damaged ({error})", file=self._path) from error


def _open_legacy(path: Path, size: int) -> Archive:
    if size > _MAX_LEGACY:
        raise InputError(f"has {size} bytes; legacy files are read up to {_MAX_LEGACY}")
    data = path.read_bytes()
    position = 0
    roots: dict[str, Storage] = {}
    names: set[str] = set()

    def persistent_load(identifier: Any) -> Any:
        if isinstance(identifier, tuple) and len(identifier) == 4 and identifier[0] == "module":
            return identifier[1]  # a class with its source code, which is of no interest
        storage = _storage(identifier)
        known = roots.setdefault(storage.key, Storage(storage.dtype, storage.key, _root_count(identifier)))
        if known.dtype != storage.dtype or storage.start + storage.count > known.count:
            raise InputError(f"the storage '{storage.key[:80]}' is described in two ways")
        return storage

    def load() -> Any:
        nonlocal position
        machine = PickleMachine(memoryview(data)[: position + _MAX_PICKLE], position, persistent_load)
        value = machine.run()
        position = machine.position
        names.update(machine.names)
        return value

    if load() != _MAGIC or load() != _LEGACY_PROTOCOL:
        raise InputError("is a pickle, but was not written by torch.save")
    system = load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError("was written on a big-endian machine, which is not supported")
    root, keys = load(), load()
    places = _legacy_places(data, position, keys, roots)
    return Archive(path, size, root, lambda storage: _legacy_bytes(data, places, storage), frozenset(names))


def _legacy_places(data: bytes, position: int, keys: Any, roots: dict[str, Storage]) -> dict[str, int]:
    """Where each storage's numbers start."""
    if not isinstance(keys, list) or set(map(str, keys)) != set(roots) or len(keys) != len(roots):
        raise InputError("the list of storages does not fit what the file uses")
    places: dict[str, int] = {}
    for key in keys:
        storage = roots[str(key)]
        width = storage.count * ITEM_SIZES[storage.dtype]
        if position + 8 + width > len(data):
            raise InputError("is truncated: storages are missing at its end")
        (count,) = struct.unpack_from("<q", data, position)
        if count != storage.count:
            raise InputError(f"the storage '{storage.key[:80]}' has {count} elements; expected {storage.count}")
        places[storage.key] = position + 8
        position += 8 + width
    return places


def _legacy_bytes(data: bytes, places: dict[str, int], storage: Storage) -> bytes:
    item = ITEM_SIZES[storage.dtype]
    start = places[storage.key] + storage.start * item
    return data[start : start + storage.count * item]


def _storage(identifier: Any) -> Storage:
    """A persistent id ('storage', type, key, location, count[, view]) as a storage."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise InputError("the pickle has a persistent id that torch.save does not write")
    kind, key, count = identifier[1], identifier[2], identifier[4]
    name = kind.name if isinstance(kind, Global) else ""
    dtype = _STORAGES.get(name.removeprefix("torch.").removesuffix("Storage"))
    if dtype is None or name.count(".") != 1:
        raise InputError(f"the pickle has a storage of type '{name[:80]}', which is not supported")
    view = identifier[5] if len(identifier) == 6 else None
    start = 0
    if view is not None:
        if not isinstance(view, tuple) or len(view) != 3:
            raise InputError("the pickle has a view of a storage that torch.save does not write")
        _, start, count = view
    if not isinstance(key, str) or not (type(count) is int and type(start) is int and count >= 0 and start >= 0):
        raise InputError("the pickle has a storage whose key or size makes no sense")
    return Storage(dtype, key, count, start)


def _root_count(identifier: tuple[Any, ...]) -> int:
    count = identifier[4]
    if type(count) is not int or count < 0:
        raise InputError("the pickle has a storage whose key or size makes no sense")
    return count
