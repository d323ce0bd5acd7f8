"""Checkpoints written byte by byte: pickle opcodes, and the two kinds of file that torch.save has written around them.

A `Writer` gets the path to write and the path of a sentinel: whatever runs code makes that file appear. `Cases` are
name → (writer, words the refusal must have).
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

Writer = Callable[[Path, Path], None]
Cases = dict[str, tuple[Writer, str]]

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
PROTO2, STOP = b"\x80\x02", b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return PROTO2 + name(module, attribute) + b"(" + b"".join(arguments) + b"tR" + STOP


def storage(key: str = "0", count: bytes = b"K\x04", kind: str = "FloatStorage") -> bytes:
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + count + b"tQ"


def tensor(source: bytes, offset: bytes = b"K\0", size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85") -> bytes:
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + source + offset + size + stride + b"\x89}tR"


def state_dict(value: bytes) -> bytes:
    """{'w': value}, so that the tensor is asked for."""
    return PROTO2 + b"}" + text("w") + value + b"s" + STOP


def module(state: bytes, cls: bytes = name("torch.nn.modules.container", "Sequential")) -> bytes:
    """An instance whose __dict__ is given as the pickled items of a dict."""
    return cls + b")\x81}(" + state + b"ub"


def zipped(path: Path, data: bytes, members: dict[str, bytes] | None = None, **options) -> None:
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", data)
        for key, value in (members if members is not None else {"archive/data/0": bytes(16)}).items():
            archive.writestr(key, value)


def legacy(path: Path, data: bytes, keys=(), tail: bytes = b"") -> None:
    head = [pickle.dumps(part, 2) for part in (MAGIC, 1001, SYSTEM)]
    path.write_bytes(b"".join([*head, data, pickle.dumps(list(keys), 2), tail]))


def raw(data: bytes) -> Writer:
    return lambda path, _: zipped(path, data)
