"""Archives that attack or are damaged, tensors that reach beyond their storage, and files of another kind."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

from checkpoint_bytes import PROTO2, STOP, Cases, Writer, legacy, raw, state_dict, storage, tensor, text, zipped


def member(archive_name: str, mode: int = 0) -> Writer:
    def write(path: Path, _: Path) -> None:
        zipped(path, pickle.dumps({"model": 1}, 2))
        info = zipfile.ZipInfo(archive_name)
        info.external_attr = mode << 16
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(info, b"/etc/passwd")

    return write


def patched(old: bytes, new: bytes, data: bytes = b"") -> Writer:
    def write(path: Path, _: Path) -> None:
        zipped(path, data or state_dict(tensor(storage())))
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))

    return write


def cut(size: int, write=zipped) -> Writer:
    def shorten(path: Path, _: Path) -> None:
        write(path, state_dict(tensor(storage())))
        path.write_bytes(path.read_bytes()[:size])

    return shorten


def content(data: bytes) -> Writer:
    return lambda path, _: path.write_bytes(data)


def overlapping(path: Path, _: Path) -> None:
    """Fifield's bomb: a hundred directory entries that all point at the same megabyte."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", bytes(1 << 20))
        first = archive.infolist()[-1]
        for index in range(1, 100):
            twin = zipfile.ZipInfo(f"archive/data/{index}")
            twin.file_size = twin.compress_size = first.file_size
            twin.header_offset, twin.CRC = first.header_offset, first.CRC
            archive.filelist.append(twin)
        archive._didModify = True
    path.write_bytes(buffer.getvalue())


def zip64_lie(path: Path, _: Path) -> None:
    """The directory says that the pickle has 2⁶⁰ bytes, in a zip64 extra field."""
    _zip64(path, (20, 24), 1 << 60)


def zip64_offset(path: Path, _: Path) -> None:
    """The directory says that the pickle begins at byte 2⁶³, where no file can be read."""
    _zip64(path, (42,), 1 << 63)


def _zip64(path: Path, fields: Sequence[int], value: int) -> None:
    """A pickle whose directory entry has this value in these 32-bit fields, by a zip64 extra field."""
    zipped(path, pickle.dumps({}, 2))
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    entry = bytearray(data[start:])
    length = struct.unpack_from("<H", entry, 28)[0]
    for field in fields:
        struct.pack_into("<I", entry, field, 0xFFFFFFFF)
    extra = struct.pack(f"<HH{len(fields)}Q", 1, 8 * len(fields), *[value] * len(fields))
    struct.pack_into("<H", entry, 30, len(extra))
    entry[46 + length : 46 + length] = extra
    end = entry.rindex(b"PK\x05\x06")
    struct.pack_into("<I", entry, end + 12, end)
    path.write_bytes(data[:start] + bytes(entry))


def compressed(path: Path, _: Path) -> None:
    zipped(path, state_dict(tensor(storage())), {"archive/data/0": bytes(1 << 20)}, compression=zipfile.ZIP_DEFLATED)


BROKEN: Cases = {
    "offset beyond the storage": (raw(state_dict(tensor(storage(), offset=b"K\x01"))), "storage of 4"),
    "stride beyond the storage": (raw(state_dict(tensor(storage(), stride=b"K\x02\x85"))), "storage of 4"),
    "size beyond the storage": (raw(state_dict(tensor(storage(), size=b"K\x05\x85"))), "storage of 4"),
    "negative offset": (raw(state_dict(tensor(storage(), offset=b"J\xff\xff\xff\xff"))), "arguments"),
    "negative size": (raw(state_dict(tensor(storage(), size=b"J\xff\xff\xff\xff\x85"))), "arguments"),
    "size without stride": (raw(state_dict(tensor(storage(), stride=b")"))), "arguments"),
    "size is a text": (raw(state_dict(tensor(storage(), size=text("4")))), "arguments"),
    "storage is missing": (raw(state_dict(tensor(storage("7")))), "is missing"),
    "storage outside its folder": (raw(state_dict(tensor(storage("../data.pkl")))), "is missing"),
    "storage of another size": (raw(state_dict(tensor(storage(count=b"K\x05")))), "has 16 bytes|claims"),
    "storage of a strange type": (raw(state_dict(tensor(storage(kind="QInt8Storage")))), "QInt8Storage"),
    "no storage": (raw(state_dict(tensor(b"N"))), "arguments"),
    "compressed": (compressed, "compressed"),
    "overlapping members": (overlapping, "overlap"),
    "absolute member": (member("/archive/data/0"), "outside its own folder"),
    "parent member": (member("archive/../../x"), "outside its own folder"),
    "drive member": (member("C:/x"), "outside its own folder"),
    "symbolic link": (member("archive/data/1", 0o120777), "symbolic link"),
    "member twice": (member("archive/data/0"), "two members"),
    "two pickles": (member("other/data.pkl"), "found 2"),
    "encrypted": (patched(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"), "encrypted"),
    "wrong checksum": (patched(bytes(16), b"\x01" * 16), "damaged"),
    "wrong pickle checksum": (patched(text("w"), text("v")), "damaged"),
    "big-endian": (
        lambda path, _: zipped(path, pickle.dumps({}, 2), {"archive/byteorder": b"big"}),
        "big-endian",
    ),
    "no pickle": (
        lambda path, _: zipfile.ZipFile(path, "w").writestr("x/y", b"z"),
        "damaged or truncated|no checkpoint",
    ),
    "truncated zip": (cut(200), "damaged or truncated"),
    "zip of four bytes": (cut(4), "damaged or truncated"),
    "empty": (content(b""), "empty"),
    "random": (content(bytes(range(7, 200))), "unknown format"),
    "Git LFS pointer": (content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
    "web page": (content(b"<!DOCTYPE html><html>"), "download failed"),
    "gzip": (content(b"\x1f\x8b\x08\x00"), "unpack"),
    "plain pickle": (content(pickle.dumps({"model": 1}, 4)), "not written by torch.save"),
    "plain pickle, protocol 2": (content(pickle.dumps({"model": 1}, 2)), "not written by torch.save"),
    "protocol 1": (raw(b"\x80\x01N."), "protocol 1 is not supported"),
    "protocol 0": (raw(pickle.dumps({"model": 1}, 0)), "opcode"),
    "pickle without its end": (raw(PROTO2 + b"}"), "truncated"),
    "empty stack": (raw(PROTO2 + STOP), "damaged"),
    "mark without a start": (raw(PROTO2 + b"t" + STOP), "damaged"),
    "nothing in it": (raw(pickle.dumps({"epoch": 3}, 2)), "neither a model nor a state_dict"),
    "a number": (raw(pickle.dumps(3, 2)), "neither a model nor a state_dict"),
    "legacy without storages": (
        lambda path, _: legacy(path, state_dict(tensor(storage()[:-2] + b"NtQ")), ["0"]),
        "truncated",
    ),
    "legacy with other keys": (
        lambda path, _: legacy(path, state_dict(tensor(storage()[:-2] + b"NtQ")), ["1"]),
        "list of storages",
    ),
    "legacy with another count": (
        lambda path, _: legacy(
            path, state_dict(tensor(storage()[:-2] + b"NtQ")), ["0"], struct.pack("<q", 9) + bytes(16)
        ),
        "has 9 elements",
    ),
    "legacy view beyond its storage": (
        lambda path, _: legacy(
            path,
            state_dict(tensor(storage()[:-2] + b"(" + text("v") + b"K\x02K\x04ttQ")),
            ["0"],
            struct.pack("<q", 4) + bytes(16),
        ),
        "two ways",
    ),
}
"""Files that are damaged, or of another kind."""


EDGES: Cases = {
    "empty tensor of endless length": (
        raw(
            state_dict(
                tensor(
                    storage(),
                    size=b"(K\0"
                    + b"\x8a\x08"
                    + (1 << 61).to_bytes(8, "little") * 1
                    + b"\x8a\x08"
                    + (1 << 61).to_bytes(8, "little")
                    + b"t",
                    stride=b"K\x01K\x01K\x01\x87",
                )
            )
        ),
        "cannot be made|state_dict|arguments",
    ),
    "zip made for a later version": (
        patched(b"PK\x01\x02\x14\x03\x14\x00", b"PK\x01\x02\x14\x03\xff\x00"),
        "damaged",
    ),
    "zip64 sizes that lie": (zip64_lie, "damaged|claims|overlap|compressed"),
    "zip64 offset beyond every file": (zip64_offset, "damaged"),
}
"""What readers of zip archives and tensors trip over."""
