"""Writes checkpoints that attack, or are broken, one way each. `CASES` is name → (writer, words the refusal must have).

A writer gets the path to write and the path of a sentinel: whatever runs code makes that file appear.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
PROTO2, STOP = b"\x80\x02", b"."


class Call:
    """Pickles as a call of anything importable."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


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


def raw(data: bytes) -> Callable[[Path, Path], None]:
    return lambda path, _: zipped(path, data)


def reduced(make: Callable[[str], object], protocol: int = 2, write=zipped) -> Callable[[Path, Path], None]:
    return lambda path, sentinel: write(path, pickle.dumps({"model": make(str(sentinel))}, protocol))


def member(archive_name: str, mode: int = 0) -> Callable[[Path, Path], None]:
    def write(path: Path, _: Path) -> None:
        zipped(path, pickle.dumps({"model": 1}, 2))
        info = zipfile.ZipInfo(archive_name)
        info.external_attr = mode << 16
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(info, b"/etc/passwd")

    return write


def patched(old: bytes, new: bytes, data: bytes = b"") -> Callable[[Path, Path], None]:
    def write(path: Path, _: Path) -> None:
        zipped(path, data or state_dict(tensor(storage())))
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))

    return write


def cut(size: int, write=zipped) -> Callable[[Path, Path], None]:
    def shorten(path: Path, _: Path) -> None:
        write(path, state_dict(tensor(storage())))
        path.write_bytes(path.read_bytes()[:size])

    return shorten


def content(data: bytes) -> Callable[[Path, Path], None]:
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
    zipped(path, pickle.dumps({}, 2))
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    entry = bytearray(data[start:])
    length = struct.unpack_from("<H", entry, 28)[0]
    struct.pack_into("<II", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    extra = struct.pack("<HHQQ", 1, 16, 1 << 60, 1 << 60)
    struct.pack_into("<H", entry, 30, len(extra))
    entry[46 + length : 46 + length] = extra
    end = entry.rindex(b"PK\x05\x06")
    struct.pack_into("<I", entry, end + 12, end)
    path.write_bytes(data[:start] + bytes(entry))


def zip64_offset(path: Path, _: Path) -> None:
    """The directory says that the pickle begins at byte 2⁶³, where no file can be read."""
    zipped(path, pickle.dumps({}, 2))
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    entry = bytearray(data[start:])
    length = struct.unpack_from("<H", entry, 28)[0]
    struct.pack_into("<I", entry, 42, 0xFFFFFFFF)
    extra = struct.pack("<HHQ", 1, 8, 1 << 63)
    struct.pack_into("<H", entry, 30, len(extra))
    entry[46 + length : 46 + length] = extra
    end = entry.rindex(b"PK\x05\x06")
    struct.pack_into("<I", entry, end + 12, end)
    path.write_bytes(data[:start] + bytes(entry))


def compressed(path: Path, _: Path) -> None:
    zipped(path, state_dict(tensor(storage())), {"archive/data/0": bytes(1 << 20)}, compression=zipfile.ZIP_DEFLATED)


def _doubling(step: bytes, count: int = 39) -> bytes:
    """Memo entry 0 is doubled `count` times: a list of two of the previous list, and so on."""
    return b"]q\x00" + b"".join(b"0" + step.replace(b"@", bytes([n])) + bytes([ord("q"), n + 1]) for n in range(count))


SHARED_LISTS = _doubling(b"](h@h@e")
SHARED_TUPLES = _doubling(b"h@h@\x86")


def in_model(items: bytes, cls: bytes = name("models.common", "Concat")) -> bytes:
    """A checkpoint whose model is one layer with these attributes."""
    empty = b"".join(text(key) + b"}" for key in ("_parameters", "_buffers", "_modules"))
    return PROTO2 + b"}" + text("model") + module(empty + items, cls) + b"s" + STOP


def nested_modules(depth: int, *, twice: bool = False) -> bytes:
    """Sequentials inside Sequentials; with `twice` each holds the one below under two names."""
    body = module(text("_modules") + b"}") + b"r" + struct.pack("<I", 0) + b"0"
    for level in range(1, depth):
        child = b"j" + struct.pack("<I", level - 1)
        both = text("0") + child + b"s" + (text("1") + child + b"s" if twice else b"")
        body += module(text("_modules") + b"}" + both) + b"r" + struct.pack("<I", level) + b"0"
    return PROTO2 + body + b"}" + text("model") + b"j" + struct.pack("<I", depth - 1) + b"s" + STOP


SELF = (
    name("torch.nn.modules.container", "Sequential")
    + b")\x81q\x00}"
    + text("_modules")
    + b"}"
    + text("0")
    + b"h\x00ssb"
)
SELF_CONTAINED = PROTO2 + b"}" + text("model") + SELF + b"s" + STOP

_CODE = "__import__('pathlib').Path({!r}).touch()"

CALLS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "os.system": (reduced(lambda s: Call(os.system, f"touch {s}")), r"'posix\.system'|'nt\.system'"),
    "os.system, protocol 4": (reduced(lambda s: Call(os.system, f"touch {s}"), 4), r"'posix\.system'|'nt\.system'"),
    "os.system, protocol 5": (reduced(lambda s: Call(os.system, f"touch {s}"), 5), r"'posix\.system'|'nt\.system'"),
    "os.system, legacy file": (
        reduced(lambda s: Call(os.system, f"touch {s}"), write=legacy),
        r"'posix\.system'|'nt\.system'",
    ),
    "os.system, named as such": (
        lambda path, s: zipped(path, call("os", "system", text(f"touch {s}"))),
        r"'os\.system'",
    ),
    "eval": (reduced(lambda s: Call(eval, _CODE.format(s))), r"'builtins\.eval'"),
    "eval of Python 2": (
        lambda path, s: zipped(path, call("__builtin__", "eval", text(_CODE.format(str(s))))),
        r"'builtins\.eval'",
    ),
    "exec": (reduced(lambda s: Call(exec, _CODE.format(s)), 5), r"'builtins\.exec'"),
    "open for writing": (reduced(lambda s: Call(open, s, "w")), r"'_?io\.open'"),
    "Path.touch": (raw(call("pathlib", "Path.touch", text("x"))), r"'pathlib\.Path\.touch'"),
    "getattr": (raw(call("builtins", "getattr", text("a"), text("b"))), r"'builtins\.getattr'"),
    "getattr of a module": (raw(call("builtins", "getattr", name("os", "path"), text("x"))), r"'os\.path'"),
    "call of what getattr gives": (
        raw(PROTO2 + name("builtins", "getattr") + b"(" + name("evil", "X") + text("touch") + b"tR)R" + STOP),
        r"'evil\.X\.touch'",
    ),
    "import": (raw(call("importlib", "import_module", text("evil"))), r"'importlib\.import_module'"),
    "subprocess": (raw(call("subprocess", "Popen", text("touch x"))), r"'subprocess\.Popen'"),
    "partial": (raw(call("functools", "partial", text("x"))), r"'functools\.partial'"),
    "pickle in a pickle": (raw(call("pickle", "loads", b"C\x01.")), r"'pickle\.loads'"),
    "torch.load": (raw(call("torch", "load", text("x"))), r"'torch\.load'"),
    "_load_from_bytes": (raw(call("torch.storage", "_load_from_bytes", b"C\x01.")), r"_load_from_bytes'"),
    "torch.jit": (raw(call("torch.jit._script", "unwrap_script", text("x"))), r"'torch\.jit\._script"),
    "numpy.load": (raw(call("numpy", "load", text("x"))), r"'numpy\.load'"),
    "runstring": (raw(call("numpy.testing._private.utils", "runstring", text("x"), b"}")), "runstring'"),
    "user's function": (raw(call("evil", "touch")), r"'evil\.touch'"),
    "user's class": (raw(call("models.common", "Conv", b"K\x01")), r"'models\.common\.Conv'"),
    "call hidden in a tensor subclass": (
        raw(
            PROTO2
            + name("torch._tensor", "_rebuild_from_type_v2")
            + b"("
            + name("evil", "touch")
            + name("torch", "Tensor")
            + b")NtR"
            + STOP
        ),
        "_rebuild_from_type_v2",
    ),
    "result of a call is called": (raw(PROTO2 + name("torch", "Size") + b")R)R" + STOP), "'tuple'"),
    "reconstructor": (
        raw(call("copy_reg", "_reconstructor", name("evil", "X"), name("__builtin__", "object"), b"N")),
        r"'copyreg\._reconstructor'",
    ),
    "opcode OBJ": (raw(PROTO2 + b"(" + name("evil", "X") + b"o" + STOP), "opcode 0x6f"),
    "opcode INST": (raw(PROTO2 + b"(ievil\nX\n" + STOP), "opcode 0x69"),
    "opcode EXT1": (raw(PROTO2 + b"\x82\x01" + STOP), "opcode 0x82"),
    "instance of a builtin": (raw(PROTO2 + name("builtins", "str") + b")\x81" + STOP), r"'builtins\.str'"),
}
"""Pickles that ask for code."""

STATE: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "BUILD on a function": (
        raw(PROTO2 + name("torch._utils", "_rebuild_tensor_v2") + b"N}" + text("__defaults__") + b"Ns\x86b" + STOP),
        "state of a Global",
    ),
    "BUILD on a class": (
        raw(PROTO2 + name("models.common", "Conv") + b"}" + text("__call__") + b"Nsb" + STOP),
        "state of a Global",
    ),
    "BUILD on a list": (raw(PROTO2 + b"]}b" + STOP), "state of a list"),
    "append to a tuple": (raw(PROTO2 + b")Na" + STOP), "appends to a tuple"),
    "entries of a name": (raw(PROTO2 + name("evil", "X") + b"NNs" + STOP), "entries in a Global"),
    "a list as a key": (raw(PROTO2 + b"}]Ns" + STOP), "list as a key"),
    "a giant integer as a key": (raw(PROTO2 + b"}\x8a\x10" + b"\x7f" * 16 + b"Ns" + STOP), "beyond 64 bits"),
    "nested tuples as a key": (raw(PROTO2 + SHARED_TUPLES + b"0}h\x27Ns" + STOP), "tuple as a key"),
    "strange persistent id": (raw(PROTO2 + text("storage") + b"Q" + STOP), "persistent id"),
    "persistent module": (
        raw(PROTO2 + b"(" + text("module") + name("evil", "X") + text("evil.py") + text("1/0") + b"tQ" + STOP),
        "persistent id",
    ),
    "a name with a line break": (raw(b"\x80\x04" + text("os\n") + text("system") + b"\x93" + STOP), "no name"),
    "a name that is a number": (raw(b"\x80\x04K\x01K\x02\x93" + STOP), "no name"),
}
"""Pickles that bend objects."""

BOMBS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "memo index": (raw(PROTO2 + b"Nr\xff\xff\xff\xff0j\xfe\xff\xff\xff" + STOP), "has not stored"),
    "declared bytearray": (raw(b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + STOP), "truncated"),
    "declared text": (raw(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + STOP), "truncated"),
    "shared list in an attribute": (raw(in_model(text("d") + SHARED_LISTS)), "too large|too deeply"),
    "shared modules": (raw(nested_modules(40, twice=True)), "exhaust memory"),
    "deep modules": (raw(nested_modules(3000)), "more than 64 deep"),
    "module in itself": (raw(SELF_CONTAINED), "contains itself"),
    "copies of a list": (
        raw(
            PROTO2
            + b"]("
            + b"K\x01" * 100_000
            + b"eq\x00"
            + (name("__builtin__", "list") + b"h\x00\x85R") * 2000
            + STOP
        ),
        "over and over",
    ),
    "copies of a text": (
        raw(PROTO2 + text("x" * 100_000) + b"q\x00" + (name("_codecs", "encode") + b"h\x00\x85R") * 2000 + STOP),
        "over and over",
    ),
    "a list of lists": (raw(PROTO2 + b"]" * 1_600_000 + STOP), "instructions"),
    "storage of 100 GB": (
        raw(state_dict(tensor(storage(count=b"\x8a\x06" + (25 << 30).to_bytes(6, "little"))))),
        "takes? 107374182400|claims|100000",
    ),
    "tensor of 100 GB by stride 0": (
        raw(
            state_dict(
                tensor(storage(), size=b"\x8a\x06" + (25 << 30).to_bytes(6, "little") + b"\x85", stride=b"K\0\x85")
            )
        ),
        "storage of 4",
    ),
    "two storages in turn, a thousand times": (
        lambda path, _: zipped(
            path,
            PROTO2
            + b"}("
            + b"".join(text(str(n)) + tensor(storage(str(n % 2), b"J\x00\x00\x04\x00")) for n in range(1000))
            + b"u"
            + STOP,
            {"archive/data/0": bytes(1 << 20), "archive/data/1": bytes(1 << 20)},
        ),
        "far more memory",
    ),
    "one long text ten thousand times": (
        raw(in_model(text("d") + b"](" + text("x" * 1_000_000) + b"q\x63" + b"h\x63" * 9000 + b"e")),
        "too large",
    ),
    "the same storage a million times": (
        lambda path, _: zipped(
            path,
            PROTO2
            + b"}("
            + b"".join(
                text(str(n)) + tensor(storage(count=b"J\x00\x00\x04\x00"), size=b"J\x00\x00\x04\x00\x85")
                for n in range(200)
            )
            + b"u"
            + STOP,
            {"archive/data/0": bytes(4 << 18)},
        ),
        "far more memory",
    ),
}
"""Small files that ask for much."""

BROKEN: dict[str, tuple[Callable[[Path, Path], None], str]] = {
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


def chain(*layers) -> Callable[[Path, Path], None]:
    """A checkpoint of these modules one after the other, as a trainer pickles them."""

    def write(path: Path, _: Path) -> None:
        import torch

        torch.save({"model": torch.nn.Sequential(*(layer() for layer in layers))}, path)

    return write


def leaf(kind: str, *arguments, **attributes) -> Callable[[], object]:
    """A `torch.nn` module whose attributes are then what no constructor would allow."""

    def make() -> object:
        import torch

        module = getattr(torch.nn, kind)(*arguments)
        vars(module).update(attributes)
        return module

    return make


def layer_from(source: int) -> Callable[[Path, Path], None]:
    """A container whose only layer takes its input from layer `source`."""
    empty = b"".join(text(key) + b"}" for key in ("_parameters", "_buffers"))
    plain = b"J" + struct.pack("<i", source)
    inner = module(empty + text("_modules") + b"}" + text("f") + plain, name("torch.nn.modules.linear", "Identity"))
    sequence = module(empty + text("_modules") + b"}" + text("0") + inner + b"s")
    outer = module(
        empty + text("_modules") + b"}" + text("model") + sequence + b"s", name("models.yolo", "DetectionModel")
    )
    return raw(PROTO2 + b"}" + text("model") + outer + b"s" + STOP)


def disguised(path: Path, sentinel: Path) -> None:
    """Looks like this package's own saved module, and calls something."""
    data = {"format": "onnxslim-yolo/module", "x": Call(os.system, f"touch {sentinel}")}
    zipped(path, pickle.dumps(data, 2))


def saved_module(**changes) -> Callable[[Path, Path], None]:
    """This package's own format, with nonsense in it."""

    def write(path: Path, _: Path) -> None:
        import torch

        graph = {"nodes": [], "loose": [], "constants": [], "fixed": [], "metadata": {}}
        graph |= {"inputs": [{"name": "x", "shape": [1, 3, 64, 64]}], "outputs": ["x"], **changes.pop("graph", {})}
        data = {"format": "onnxslim-yolo/module", "version": 1, "graph": json.dumps(graph)}
        torch.save({**data, "state_dict": {}, "constants": {}, **changes}, path)

    return write


RUN: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "images of terabytes": (chain(*[leaf("Upsample", None, 16.0)] * 6), "more memory"),
    "padding of terabytes": (chain(*[leaf("ZeroPad2d", 1000)] * 20), "more memory"),
    "a transposed convolution of terabytes": (
        chain(leaf("ConvTranspose2d", 3, 3, 1, stride=(60000, 60000))),
        "more memory",
    ),
    "a shuffle of terabytes": (chain(leaf("AdaptiveAvgPool2d", 1000), leaf("Upsample", None, 16.0)), "more memory"),
    "layers that do not fit": (chain(leaf("Conv2d", 4, 4, 1)), "does not run"),
    "a layer of the future": (layer_from(50), "does not run"),
    "no groups": (chain(leaf("GroupNorm", 2, 4, num_groups=0)), "cannot be rebuilt"),
    "no groups in a convolution": (chain(leaf("Conv2d", 4, 4, 1, groups=0)), "cannot be rebuilt|does not run"),
    "stride 0": (chain(leaf("Conv2d", 3, 4, 1, stride=(0, 0))), "does not run"),
    "infinite groups": (chain(leaf("GroupNorm", 2, 4, num_groups=float("inf"))), "too large"),
    "a disguised call": (disguised, "posix.system|os.system|nt.system"),
    "a saved module of terabytes": (
        saved_module(graph={"inputs": [{"name": "x", "shape": [1, 3, 1 << 20, 1 << 20]}]}),
        "expected \\(b, c, h, w\\)",
    ),
    "a saved module of nothing": (saved_module(graph={"inputs": []}), "damaged|no image|expected"),
    "a saved module without its weights": (saved_module(state_dict=None), "damaged"),
    "a saved module whose weights are text": (saved_module(state_dict={"a": "b"}), "damaged"),
}
"""Files that are read, and would do harm or fail when the network in them runs."""

EDGES: dict[str, tuple[Callable[[Path, Path], None], str]] = {
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

CASES = {
    f"{group}: {key}": value
    for group, cases in (
        *(("calls", CALLS), ("state", STATE), ("bombs", BOMBS), ("broken", BROKEN)),
        *(("run", RUN), ("edges", EDGES)),
    )
    for key, value in cases.items()
}
