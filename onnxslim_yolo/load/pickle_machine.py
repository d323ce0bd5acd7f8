"""An interpreter for pickle protocols 2 to 5 that can build data and nothing else.

It is not `pickle.Unpickler` with some methods overridden: that one trusts declared sizes (a memo index of 2³⁰ makes it
allocate 16 GB), and applies a pickle's state to objects (`BUILD`). Here every opcode that is understood is a row of
`_OPCODES`; the opcodes of protocols 0 and 1, extension codes and out-of-band buffers are refused. Work and memory are
bounded by the length of the pickle and `_MAX_WORK`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.load import pickle_calls
from onnxslim_yolo.load.records import Record

_MAX_OPCODES = 1_500_000
_MAX_WORK = 16 << 20
_MAX_INTEGER_BYTES = 64

PersistentLoad: TypeAlias = Callable[[Any], Any]


class PickleMachine:
    """Runs one pickle in `data` from `position`.

    Args:
        data: bytes that contain the pickle.
        position: where it starts; after `run`, where it ended, and `names` has every class or function it mentions.
        persistent_load: turns a persistent id into an object.
    """

    def __init__(self, data: bytes | memoryview, position: int, persistent_load: PersistentLoad) -> None:
        self.data = memoryview(data)
        self.position = position
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.work = 0
        self.names: set[str] = set()

    def run(self) -> Any:
        """The object the pickle describes.

        Raises:
            InputError: truncated, damaged, too large, or asking for something that is not allowed.
        """
        try:
            for _ in range(_MAX_OPCODES):
                code = self.byte()
                if code == _STOP:
                    return self.stack.pop()
                step = _OPCODES.get(code)
                if step is None:
                    self.fail(f"opcode 0x{code:02x} at byte {self.position - 1} is not supported")
                step(self)
        except (IndexError, struct.error, UnicodeDecodeError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"the pickle is damaged at byte {self.position} ({type(error).__name__})") from error
        return self.fail(f"the pickle has more than {_MAX_OPCODES} instructions")

    def fail(self, message: str) -> NoReturn:
        """Stop with a message for the user."""
        raise InputError(message)

    def charge(self, amount: int) -> None:
        """Count copied elements."""
        self.work += amount
        if self.work > _MAX_WORK:
            self.fail("the pickle copies the same data over and over: it is built to exhaust memory")

    def read(self, count: int) -> memoryview:
        """The next bytes."""
        end = self.position + count
        if count < 0 or end > len(self.data):
            self.fail("the pickle is truncated")
        part = self.data[self.position : end]
        self.position = end
        return part

    def byte(self) -> int:
        """The next byte as a number."""
        return int(self.read(1)[0])

    def number(self, layout: str) -> Any:
        """The next bytes through `struct`."""
        return struct.unpack(layout, self.read(struct.calcsize(layout)))[0]

    def line(self) -> str:
        """Text up to the next line feed, at most 512 bytes."""
        window = bytes(self.data[self.position : self.position + 512])
        length = window.find(b"\n")
        if length < 0:
            self.fail("the pickle is truncated")
        self.position += length + 1
        return window[:length].decode("utf-8")

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        """Everything above the topmost mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self) -> None:
        """Start a new stretch of the stack."""
        self.marks.append(self.stack)
        self.stack = []


def _proto(m: PickleMachine) -> None:
    version = m.byte()
    if not 2 <= version <= 5:
        m.fail(f"pickle protocol {version} is not supported; protocols 2 to 5 are")


def _global(m: PickleMachine) -> None:
    module, name = m.line(), m.line()
    _mention(m, module, name)


def _stack_global(m: PickleMachine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    _mention(m, module, name)


def _mention(m: PickleMachine, module: object, name: object) -> None:
    found = pickle_calls.mention(module, name)
    m.names.add(found.name)
    m.push(found)


def _reduce(m: PickleMachine) -> None:
    arguments = m.stack.pop()
    m.stack[-1] = pickle_calls.call(m.stack[-1], arguments, m.charge)


def _newobj(m: PickleMachine) -> None:
    arguments = m.stack.pop()
    m.stack[-1] = pickle_calls.instance(m.stack[-1], arguments)


def _newobj_ex(m: PickleMachine) -> None:
    m.stack.pop()  # keyword arguments of a class that is not going to be called
    _newobj(m)


def _build(m: PickleMachine) -> None:
    state, target = m.stack.pop(), m.stack[-1]
    if isinstance(target, Record):
        target.state = state
    elif not isinstance(target, dict):  # an OrderedDict's attributes (`_metadata`) have no meaning here
        m.fail(f"the pickle sets the state of a {type(target).__name__}")


def _store(m: PickleMachine, target: Any, flat: list[Any]) -> None:
    entries = target.entries if isinstance(target, Record) else target
    if not isinstance(entries, dict) or len(flat) % 2:
        m.fail(f"the pickle stores entries in a {type(target).__name__}")
    for index in range(0, len(flat), 2):
        entries[pickle_calls.key(flat[index])] = flat[index + 1]


def _extend(m: PickleMachine, target: Any, values: list[Any]) -> None:
    items = target.items if isinstance(target, Record) else target
    if not isinstance(items, list):
        m.fail(f"the pickle appends to a {type(target).__name__}")
    items.extend(values)


def _setitem(m: PickleMachine) -> None:
    value, name = m.stack.pop(), m.stack.pop()
    _store(m, m.stack[-1], [name, value])


def _setitems(m: PickleMachine) -> None:
    flat = m.pop_mark()
    _store(m, m.stack[-1], flat)


def _append(m: PickleMachine) -> None:
    value = m.stack.pop()
    _extend(m, m.stack[-1], [value])


def _appends(m: PickleMachine) -> None:
    values = m.pop_mark()
    _extend(m, m.stack[-1], values)


def _additems(m: PickleMachine) -> None:
    values, target = m.pop_mark(), m.stack[-1]
    if not isinstance(target, set):
        m.fail(f"the pickle adds members to a {type(target).__name__}")
    target.update(map(pickle_calls.key, values))


def _dict(m: PickleMachine) -> None:
    flat = m.pop_mark()
    m.push({})
    _store(m, m.stack[-1], flat)


def _pop(m: PickleMachine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _tuple(size: int) -> Callable[[PickleMachine], None]:
    def step(m: PickleMachine) -> None:
        if len(m.stack) < size:
            raise IndexError(size)
        items = tuple(m.stack[-size:])
        del m.stack[-size:]
        m.push(items)

    return step


def _text(layout: str) -> Callable[[PickleMachine], None]:
    return lambda m: m.push(str(m.read(m.number(layout)), "utf-8", "surrogatepass"))


def _python2_text(layout: str) -> Callable[[PickleMachine], None]:
    return lambda m: m.push(str(m.read(m.number(layout)), "latin1"))


def _data(layout: str) -> Callable[[PickleMachine], None]:
    return lambda m: m.push(bytes(m.read(m.number(layout))))


def _long(layout: str) -> Callable[[PickleMachine], None]:
    def step(m: PickleMachine) -> None:
        size = m.number(layout)
        if size > _MAX_INTEGER_BYTES:
            m.fail(f"the pickle has an integer of {size} bytes")
        m.push(int.from_bytes(m.read(size), "little", signed=True))

    return step


def _numeral(layout: str) -> Callable[[PickleMachine], None]:
    return lambda m: m.push(m.number(layout))


def _put(layout: str) -> Callable[[PickleMachine], None]:
    return lambda m: m.memo.__setitem__(m.number(layout), m.stack[-1])


def _get(layout: str) -> Callable[[PickleMachine], None]:
    def step(m: PickleMachine) -> None:
        index = m.number(layout)
        if index not in m.memo:
            m.fail("the pickle is damaged: it refers to something that it has not stored")
        m.push(m.memo[index])

    return step


_STOP = ord(".")
_OPCODES: dict[int, Callable[[PickleMachine], None]] = {
    0x80: _proto,
    0x95: lambda m: m.read(8).release(),  # FRAME: only a hint for reading ahead
    ord("("): PickleMachine.mark,
    ord("0"): _pop,
    ord("1"): lambda m: m.pop_mark().clear(),
    ord("2"): lambda m: m.push(m.stack[-1]),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("K"): _numeral("<B"),
    ord("M"): _numeral("<H"),
    ord("J"): _numeral("<i"),
    ord("G"): _numeral(">d"),
    0x8A: _long("<B"),
    0x8B: _long("<i"),
    0x8C: _text("<B"),
    ord("X"): _text("<I"),
    0x8D: _text("<Q"),
    ord("U"): _python2_text("<B"),
    ord("T"): _python2_text("<i"),
    ord("C"): _data("<B"),
    ord("B"): _data("<I"),
    0x8E: _data("<Q"),
    0x96: _data("<Q"),
    ord(")"): lambda m: m.push(()),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("t"): lambda m: m.push(tuple(m.pop_mark())),
    ord("]"): lambda m: m.push([]),
    ord("l"): lambda m: m.push(m.pop_mark()),
    ord("}"): lambda m: m.push({}),
    ord("d"): _dict,
    0x8F: lambda m: m.push(set()),
    0x91: lambda m: m.push(frozenset(map(pickle_calls.key, m.pop_mark()))),
    ord("a"): _append,
    ord("e"): _appends,
    ord("s"): _setitem,
    ord("u"): _setitems,
    0x90: _additems,
    ord("q"): _put("<B"),
    ord("r"): _put("<I"),
    0x94: lambda m: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    ord("h"): _get("<B"),
    ord("j"): _get("<I"),
    ord("c"): _global,
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: _newobj,
    0x92: _newobj_ex,
    ord("b"): _build,
    ord("Q"): lambda m: m.push(m.persistent_load(m.stack.pop())),
}
"""The opcodes of protocols 2 to 5 (Python's `pickletools` describes them)."""
