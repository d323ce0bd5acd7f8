"""Read and validate an ncnn `.param` and `.bin` before ncnn's loader sees them, which crashes on malformed files.

Everything is bounded: the text's size, counts, names, arrays; of the `.bin` only the type tags are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.runtime.ncnn_layers import LAYERS, WeightSpec

MAGIC = "7767517"
MAX_PARAM_BYTES = 16 << 20
MAX_LAYERS = 100_000
MAX_PORTS = 10_000
MAX_NAME = 255
MAX_ARRAY = 100_000
MAX_ID = 31
ARRAY_ID = -23300
INT_LIMIT = 1 << 31
FLT_MAX = 3.4028235e38

ParamValue: TypeAlias = "int | float | str | tuple[int | float, ...]"

_INTEGER = re.compile(r"[+-]?\d{1,10}\Z")
_FLOAT = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d{1,3})?\Z")
_STRING = re.compile(r"[A-Za-z\"]")


@dataclass(frozen=True)
class NcnnLayer:
    """One line of the `.param` file. `line` is its number, from 1."""

    type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: dict[int, ParamValue]
    line: int

    def integer(self, key: int, default: int = 0) -> int:
        """An integer parameter."""
        value = self.params.get(key, default)
        return int(value) if isinstance(value, (int, float)) else default


@dataclass(frozen=True)
class NcnnNet:
    """A validated network: `inputs` are the Input layers' blobs, `outputs` the blobs that no layer reads."""

    layers: tuple[NcnnLayer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    blob_count: int


def read_ncnn(param: Path, weights: Path | None = None) -> NcnnNet:
    """Read and validate a pair, or the `.param` alone.

    Raises:
        InputError: a file is missing or malformed; names the line and the reason.
    """
    try:
        size = param.stat().st_size
        if size > MAX_PARAM_BYTES:
            raise InputError(f"{size} bytes, more than the {MAX_PARAM_BYTES} a .param may have", file=param)
        data = param.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=param) from error
    net = parse_param(data, param)
    if weights is not None:
        check_bin(net, weights)
    return net


def parse_param(data: bytes, file: Path | str = "<memory>") -> NcnnNet:
    """Parse and validate the text of a `.param` file. Raises as `read_ncnn`."""
    if len(data) > MAX_PARAM_BYTES:
        raise InputError(f"{len(data)} bytes, more than the {MAX_PARAM_BYTES} a .param may have", file=file)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"not text at byte {error.start}", file=file, hint="expected a .param, not a .param.bin or .bin"
        ) from error
    if "\x00" in text:
        raise InputError("has a zero byte, it is no text", file=file)
    return _Parser(text, file).parse()


class _Parser:
    def __init__(self, text: str, file: Path | str) -> None:
        self.lines = text.split("\n")
        self.file = file
        self.line = 0

    def fail(self, reason: str) -> NoReturn:
        raise InputError(f"line {self.line}: {reason}", file=self.file)

    def parse(self) -> NcnnNet:
        rows = self.rows()
        magic = next(rows, [])
        if magic != [MAGIC]:
            self.fail(f"the first line must be {MAGIC}")
        counts = next(rows, [])
        if len(counts) != 2:
            self.fail("expected the numbers of layers and blobs")
        layer_count, blob_count = (self.count(text, 2 * MAX_LAYERS) for text in counts)
        if not 0 < layer_count <= MAX_LAYERS:
            self.fail(f"{layer_count} layers, expected 1 to {MAX_LAYERS}")
        layers = tuple(self.layer(row) for row in rows)
        if len(layers) != layer_count:
            self.fail(f"{len(layers)} layers found, {layer_count} announced")
        return self.connected(layers, blob_count)

    def rows(self) -> Iterator[list[str]]:
        for number, text in enumerate(self.lines, start=1):
            self.line = number
            row = text.split()
            if row:
                yield row

    def count(self, text: str, limit: int) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) > limit:
            self.fail(f"'{text[:20]}' is no number from 0 to {limit}")
        return int(text)

    def layer(self, row: list[str]) -> NcnnLayer:
        if len(row) < 4:
            self.fail("expected a layer: type, name, number of inputs, number of outputs, blobs, parameters")
        kind, name = row[0], row[1]
        if kind not in LAYERS:
            self.fail(f"unknown layer type '{kind[:40]}'")
        inputs, outputs = self.count(row[2], MAX_PORTS), self.count(row[3], MAX_PORTS)
        if len(row) < 4 + inputs + outputs:
            self.fail(f"{inputs} inputs and {outputs} outputs announced, {len(row) - 4} names found")
        names = row[4 : 4 + inputs + outputs]
        for each in (name, *names):
            if len(each.encode()) > MAX_NAME:
                self.fail(f"the name '{each[:40]}…' has more than {MAX_NAME} bytes")
        params: dict[int, ParamValue] = {}
        for text in row[4 + inputs + outputs :]:
            key, value = self.param(text)
            if key in params:
                self.fail(f"parameter {key} is given twice")
            params[key] = value
        layer = NcnnLayer(kind, name, tuple(names[:inputs]), tuple(names[inputs:]), params, self.line)
        self.ports(layer)
        return layer

    def ports(self, layer: NcnnLayer) -> None:
        low, high = LAYERS[layer.type].inputs
        if not low <= len(layer.inputs) <= high:
            self.fail(f"a {layer.type} with {len(layer.inputs)} inputs")
        if not layer.outputs:
            self.fail(f"a {layer.type} without outputs")

    def param(self, text: str) -> tuple[int, ParamValue]:
        key_text, sign, value = text.partition("=")
        if not sign or not _INTEGER.match(key_text):
            self.fail(f"'{text[:40]}' is no parameter of the form id=value")
        key = int(key_text)
        if key <= ARRAY_ID:
            key = ARRAY_ID - key
            return self.identity(key), self.array(value, announced=True)
        if "," in value and not _STRING.match(value):
            return self.identity(key), self.array(value, announced=False)
        return self.identity(key), self.scalar(value, strings=True)

    def identity(self, key: int) -> int:
        if not 0 <= key <= MAX_ID:
            self.fail(f"parameter id {key}, expected 0 to {MAX_ID}")
        return key

    def array(self, text: str, *, announced: bool) -> tuple[int | float, ...]:
        parts = text.split(",")
        if announced:
            length = self.count(parts[0], MAX_ARRAY)
            parts = parts[1:]
            if len(parts) != length:
                self.fail(f"an array of {length} with {len(parts)} elements")
        if len(parts) > MAX_ARRAY:
            self.fail(f"an array of {len(parts)} elements")
        return tuple(self.number(part) for part in parts)

    def scalar(self, text: str, *, strings: bool) -> int | float | str:
        if strings and _STRING.match(text):
            if len(text) > MAX_NAME:
                self.fail("a string of more than 255 characters")
            return text
        return self.number(text)

    def number(self, text: str) -> int | float:
        if _INTEGER.match(text) and "." not in text:
            if not -INT_LIMIT <= int(text) < INT_LIMIT:
                self.fail(f"{text[:20]} is no 32-bit integer")
            return int(text)
        if len(text) > 64 or not _FLOAT.match(text):
            self.fail(f"'{text[:40]}' is no number")
        value = float(text)
        if not math.isfinite(value) or abs(value) > FLT_MAX * 1.000001:
            self.fail(f"{text[:40]} is beyond single precision")
        return value

    def connected(self, layers: tuple[NcnnLayer, ...], blob_count: int) -> NcnnNet:
        """Every blob has one producer, at most one reader, and is produced before it is read."""
        producers: dict[str, str] = {}
        readers: dict[str, str] = {}
        names: set[str] = set()
        for layer in layers:
            self.line = layer.line
            if layer.name in names:
                self.fail(f"two layers are named '{layer.name}'")
            names.add(layer.name)
            for blob in layer.inputs:
                if blob not in producers:
                    self.fail(f"blob '{blob}' is read before any layer has produced it")
                if blob in readers:
                    self.fail(f"blob '{blob}' has a second reader (after '{readers[blob]}'): a Split is missing")
                readers[blob] = layer.name
            for blob in layer.outputs:
                if blob in producers:
                    self.fail(f"blob '{blob}' has a second producer (after '{producers[blob]}')")
                producers[blob] = layer.name
        if len(producers) != blob_count:
            self.line = 2
            self.fail(f"{len(producers)} blobs found, {blob_count} announced")
        inputs = tuple(blob for layer in layers if layer.type == "Input" for blob in layer.outputs)
        return NcnnNet(layers, inputs, tuple(blob for blob in producers if blob not in readers), blob_count)


HALF = 0x01306B47
"""The type tag of fp16."""

TAG_BYTES = {0: 4, HALF: 2, 0x000D4B38: 1, 0x0002C056: 4}
"""Bytes an element by type tag: fp32, fp16, int8, raw fp32."""

TABLE_BYTES = 1024
"""The quantisation table in front of data with any other tag."""


def check_bin(net: NcnnNet, weights: Path) -> None:
    """Check that the `.bin` has exactly the bytes that the layers load.

    Raises:
        InputError: it is missing, too short, or too long.
    """
    try:
        size = weights.stat().st_size
        with weights.open("rb") as stream:
            position = 0
            for layer in net.layers:
                for spec in _specs(layer, weights):
                    stream.seek(position)
                    position += _bytes_of(spec, stream.read(4) if spec.tagged else b"")
                    if position > size:
                        raise InputError(
                            f"{size} bytes, but layer '{layer.name}' ({layer.type}) needs at least {position}",
                            file=weights,
                            hint="the file is truncated, or belongs to another .param",
                        )
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=weights) from error
    if position != size:
        raise InputError(f"{size} bytes, the layers need {position}", file=weights, hint="it belongs to another .param")


def weight_spans(net: NcnnNet, weights: Path) -> list[tuple[str, int, int]]:
    """Name, first byte and end of each layer's weights in a `.bin` that `check_bin` lets pass."""
    data, position, found = weights.read_bytes(), 0, []
    for layer in net.layers:
        start = position
        for spec in _specs(layer, weights):
            position += _bytes_of(spec, data[position : position + 4] if spec.tagged else b"")
        found.append((layer.name, start, position))
    return found


def stores_half(param: Path, weights: Path) -> bool:
    """Whether any weights of a pair are stored as fp16."""
    net, data, position = read_ncnn(param, weights), weights.read_bytes(), 0
    for layer in net.layers:
        for spec in _specs(layer, weights):
            tag = data[position : position + 4] if spec.tagged else b""
            if int.from_bytes(tag, "little") == HALF:
                return True
            position += _bytes_of(spec, tag)
    return False


def _specs(layer: NcnnLayer, weights: Path) -> list[WeightSpec]:
    rule = LAYERS[layer.type].weights
    if rule is None:
        return []
    specs = rule(layer.integer)
    if any(spec.count < 0 for spec in specs):
        raise InputError(f"layer '{layer.name}' ({layer.type}) has weights of a negative size", file=weights)
    return specs


def _bytes_of(spec: WeightSpec, tag: bytes) -> int:
    if not spec.tagged:
        return 4 * spec.count
    code = int.from_bytes(tag, "little")
    if code in TAG_BYTES:
        return 4 + -(-TAG_BYTES[code] * spec.count // 4) * 4
    return 4 + TABLE_BYTES + -(-spec.count // 4) * 4
