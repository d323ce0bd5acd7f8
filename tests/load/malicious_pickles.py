"""Pickles that attack: they ask for code, bend objects, or ask for much memory or time."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable

from checkpoint_bytes import (
    PROTO2,
    STOP,
    Cases,
    Writer,
    call,
    legacy,
    module,
    name,
    raw,
    state_dict,
    storage,
    tensor,
    text,
    zipped,
)


class Call:
    """Pickles as a call of anything importable."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def reduced(make: Callable[[str], object], protocol: int = 2, write=zipped) -> Writer:
    return lambda path, sentinel: write(path, pickle.dumps({"model": make(str(sentinel))}, protocol))


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

CALLS: Cases = {
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

STATE: Cases = {
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

BOMBS: Cases = {
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
