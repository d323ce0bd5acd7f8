"""Malformed `.param` and `.bin` files: a message with the line, never a crash, never much memory."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.runtime.ncnn_reader import parse_param, read_ncnn
from tests.emit.ncnn_cases import BINARY, CONV, LINEAR, POOL
from tests.emit.ncnn_cases_shape import MOVEMENT
from tests.numeric import build

GOOD = """7767517
3 3
Input in 0 1 a 0=4 1=4 2=3
ReLU r 1 1 a b 0=1.0e-01
Convolution c 1 1 b y 0=2 1=1 6=6 -23310=2,1.0,-2
"""


def test_reads_layers_parameters_and_ports() -> None:
    net = parse_param(GOOD.encode())
    assert (net.inputs, net.outputs, net.blob_count) == (("a",), ("y",), 3)
    assert net.layers[1].params == {0: 0.1} and net.layers[2].params[10] == (1.0, -2) and net.layers[2].line == 5


def test_newer_spellings() -> None:
    net = parse_param(b'7767517\n2 2\nInput in 0 1 a\nReshape r 1 1 a y 3=2.0,3 6="0w,0h" 9=ab\n')
    assert net.layers[1].params == {3: (2.0, 3), 6: '"0w,0h"', 9: "ab"}


BAD = {
    "empty": ("", "line 0|line 1"),
    "magic": (GOOD.replace("7767517", "7767518"), "line 1.*7767517"),
    "counts missing": ("7767517\n", "numbers of layers"),
    "counts not numbers": (GOOD.replace("3 3", "x 3"), "line 2"),
    "negative count": (GOOD.replace("3 3", "-1 3"), "line 2"),
    "huge counts": (GOOD.replace("3 3", "999999999 3"), "line 2"),
    "too few layers": (GOOD.replace("3 3", "4 3"), "3 layers found, 4 announced"),
    "too many layers": (GOOD.replace("3 3", "2 3"), "3 layers found, 2 announced"),
    "blob count": (GOOD.replace("3 3", "3 4"), "line 2: 3 blobs found, 4 announced"),
    "truncated line": (GOOD.replace("ReLU r 1 1 a b 0=1.0e-01", "ReLU r 1 1 a"), "line 4"),
    "unknown type": (GOOD.replace("ReLU", "ReLV"), "line 4: unknown layer type 'ReLV'"),
    "huge port count": (GOOD.replace("ReLU r 1 1", "ReLU r 1 99999999"), "line 4"),
    "unicode digit": (GOOD.replace("ReLU r 1 1", "ReLU r ² 1"), "line 4"),
    "no output": (GOOD.replace("ReLU r 1 1 a b", "ReLU r 1 0 a"), "without outputs"),
    "wrong arity": (GOOD.replace("ReLU r 1 1 a b", "ReLU r 0 1 b"), "a ReLU with 0 inputs"),
    "unproduced": (GOOD.replace("1 1 a b", "1 1 q b"), "'q' is read before"),
    "two readers": (GOOD.replace("1 1 b y", "1 1 a y"), "second reader.*Split"),
    "two producers": (GOOD.replace("1 1 b y", "1 1 b b"), "second producer"),
    "reads itself": (GOOD.replace("1 1 a b", "1 1 b b"), "read before"),
    "same layer name": (GOOD.replace("ReLU r", "ReLU in"), "two layers"),
    "id": (GOOD.replace("6=6", "32=6"), "line 5: parameter id 32"),
    "negative id": (GOOD.replace("6=6", "-1=6"), "parameter id -1"),
    "no value": (GOOD.replace("6=6", "6="), "line 5"),
    "no key": (GOOD.replace("6=6", "=6"), "line 5"),
    "not a number": (GOOD.replace("6=6", "6=-inf"), "no number"),
    "overflow": (GOOD.replace("6=6", "6=1e39"), "single precision"),
    "long integer": (GOOD.replace("6=6", "6=4294967296"), "32-bit"),
    "array length": (GOOD.replace("=2,1.0,-2", "=3,1.0,-2"), "array of 3 with 2"),
    "huge array": (GOOD.replace("=2,1.0,-2", "=999999999,1.0"), "line 5"),
    "twice": (GOOD.replace("6=6", "6=6 6=7"), "given twice"),
    "long name": (GOOD.replace("ReLU r", "ReLU " + "r" * 300), "255 bytes"),
    "zero byte": (GOOD.replace("ReLU r", "ReLU r\x00"), "zero byte"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed(name: str) -> None:
    text, reason = BAD[name]
    with pytest.raises(InputError, match=reason):
        parse_param(text.encode(), "file.param")


def test_binary_param() -> None:
    with pytest.raises(InputError, match=r"not text.*\n.*param.bin"):
        parse_param(b"\x1d\x85\x76\x00\xff\xfe")


@pytest.mark.parametrize(
    "name", ["conv", "conv-depthwise", "deconv", "bn", "instance-norm", "group-norm", "layer-norm"]
)
@pytest.mark.parametrize("weights", ["fp16", "fp32"])
def test_bin_length(name: str, weights: str, tmp_path: Path) -> None:
    converted = emit_ncnn(build(CONV[name]), weights="fp16" if weights == "fp16" else "fp32")
    param, bin_file = write_pair(converted, tmp_path)
    read_ncnn(param, bin_file)
    bin_file.write_bytes(converted.bin[:-4])
    with pytest.raises(InputError, match="truncated"):
        read_ncnn(param, bin_file)
    bin_file.write_bytes(converted.bin + b"\0\0\0\0")
    with pytest.raises(InputError, match=f"{len(converted.bin) + 4} bytes, the layers need {len(converted.bin)}"):
        read_ncnn(param, bin_file)


def test_bin_of_huge_weights_is_refused_without_reading(tmp_path: Path) -> None:
    param, bin_file = tmp_path / "m.param", tmp_path / "m.bin"
    param.write_text(GOOD.replace("6=6", "6=2147483647"))
    bin_file.write_bytes(b"\0" * 64)
    with pytest.raises(InputError, match="needs at least"):
        read_ncnn(param, bin_file)
    param.write_text(GOOD.replace("6=6", "6=-5"))
    with pytest.raises(InputError, match="negative size"):
        read_ncnn(param, bin_file)


def test_missing_and_oversized_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_ncnn(tmp_path / "none.param")
    big = tmp_path / "big.param"
    with big.open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(InputError, match="more than"):
        read_ncnn(big)


SEEDS = [
    emit_ncnn(build(text)).param
    for text in (
        CONV["conv-leaky"],
        BINARY["gate-channel"],
        POOL["se-block"],
        LINEAR["attention"],
        MOVEMENT["shuffle-split"],
    )
]
TOKENS = st.sampled_from(
    [
        "0=1",
        "-23300=2,1,2",
        "-23309=1",
        "=",
        "1e400",
        "nan",
        "-233",
        "99999999999999999999",
        "Split",
        "\x00",
        "é",
        "\r",
        "\n",
        "",
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 30), TOKENS | st.text(max_size=8)), max_size=5),
)
def test_fuzz(seed: str, edits: list[tuple[int, int, str]]) -> None:
    text = seed
    for place, length, piece in edits:
        at = place % (len(text) + 1)
        text = text[:at] + piece + text[at + length :]
    try:
        net = parse_param(text.encode("utf-8", "surrogatepass"))
    except InputError as error:
        assert "line" in error.message or "byte" in error.message
        return
    assert len(net.layers) == int(text.split()[1])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_fuzz_bytes(data: bytes) -> None:
    with pytest.raises(InputError):
        parse_param(data)


def test_memory_stays_small() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = "ReLU r 1 1 a b " + "-23300=100000," + "1," * 5_000_000
    with pytest.raises(InputError):
        parse_param(f"7767517\n100000 100000\n{line}".encode())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
