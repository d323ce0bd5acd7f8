"""ncnn's format by hand: numbers, lists, names, tags and padding; and what half precision holds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxslim_yolo.emit.ncnn.format import (
    FLT_MAX,
    FP16_MAX,
    MAX_NAME,
    TAG_FP16,
    TAG_FP32,
    TAG_INT8,
    Layer,
    Names,
    Param,
    Weight,
    Weights,
    bin_bytes,
    fits_fp16,
    param_text,
    safe_name,
)
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import Array


def spelt(value: Param, key: int = 0) -> str:
    """A parameter as the text has it."""
    text = param_text([Layer("Kind", "name", ["a"], ["b", "c"], {key: value})])
    magic, counts, line, end = text.split("\n")
    assert magic == "7767517" and counts == "1 2" and not end
    head, _, param = line.rpartition(" ")
    assert head == f"{'Kind':<24} {'name':<24} 1 2 a b c"
    return param


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        (0, 3, "0=3"),
        (11, -1, "11=-1"),
        (2, 0.1, "2=1.00000000e-01"),
        (2, 1.0, "2=1.00000000e+00"),
        (0, math.inf, "0=3.40282347e+38"),
        (0, -math.inf, "0=-3.40282347e+38"),
        (0, FLT_MAX, "0=3.40282347e+38"),
        (0, -FLT_MAX, "0=-3.40282347e+38"),
        (0, [1, 2], "-23300=2,1,2"),
        (9, [0], "-23309=1,0"),
        (10, [0.5, -2.0], "-23310=2,5.00000000e-01,-2.00000000e+00"),
        (3, [], "-23303=0"),
    ],
)
def test_parameters(key: int, value: Param, text: str) -> None:
    assert spelt(value, key) == text and len(text.split("=")[1].split(",")[-1]) <= 15


def test_numpys_numbers_are_numbers() -> None:
    assert spelt(int(np.int64(7))) == spelt(np.int64(7)) == "0=7"  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, [0.0, math.nan]])
def test_no_parameter_is_nan(value: Param) -> None:
    with pytest.raises(UnsupportedError, match="a layer parameter is NaN") as caught:
        spelt(value)
    assert "broken constant" in (caught.value.hint or "")


def test_parameters_are_in_order_and_layers_are_counted() -> None:
    layers = [Layer("Input", "x", [], ["x"]), Layer("ReLU", "r", ["x"], ["y"], {1: 2, 0: 1})]
    text = param_text(layers).splitlines()
    assert text[1] == "2 2" and text[2].endswith(" 0 1 x") and text[3].endswith(" 1 1 x y 0=1 1=2")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("model.0/conv", "model.0/conv"),
        ("a b", "a_b"),
        ("tab\tnew\n", "tab_new_"),
        ("!~", "!~"),
        ("\x7f", "_"),
        ("ü", "_"),
        ("", "_"),
        ("n" * (MAX_NAME + 1), "n" * MAX_NAME),
        ("n" * MAX_NAME, "n" * MAX_NAME),
    ],
)
def test_names_that_the_scanner_reads(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_names_are_given_once() -> None:
    names = Names(["in0"])
    assert [names(each) for each in ("a", "a", "a", "a_1", "in0", "b")] == ["a", "a_1", "a_2", "a_1_1", "in0_1", "b"]
    assert [names("a b"), names("a_b")] == ["a_b", "a_b_1"]


def written(values: Array, weights: Weights = "fp16", *, tagged: bool = True) -> bytes:
    return bin_bytes([Layer("Convolution", "c", [], [], {0: 1}, [Weight(values, tagged=tagged)])], weights)


ONES = np.ones(3, np.float32)


def test_tags_and_padding() -> None:
    halves = written(ONES)
    assert halves[:4] == TAG_FP16.to_bytes(4, "little") == b"\x47\x6b\x30\x01"
    assert halves[4:10] == b"\0\x3c" * 3 and halves[10:] == b"\0\0"
    assert len(written(np.ones(4, np.float32))) == 4 + 8
    assert written(ONES, "fp32") == TAG_FP32.to_bytes(4, "little") + ONES.tobytes()
    assert written(ONES, tagged=False) == written(ONES, "fp32", tagged=False) == ONES.tobytes()
    assert written(ONES.astype(np.float64), tagged=False) == ONES.tobytes()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_codes_fill_up_to_four_bytes(size: int) -> None:
    codes = np.arange(1, size + 1, dtype=np.int8)
    data = written(codes, "fp32")
    assert data[:4] == TAG_INT8.to_bytes(4, "little") and data[4 : 4 + size] == codes.tobytes()
    assert len(data) == 4 + 4 * -(-size // 4) and not any(data[4 + size :])


def test_what_overflows_stays_fp32() -> None:
    assert written(ONES * 1e6) == written(ONES * 1e6, "fp32") and written(ONES * 1e6)[:4] == b"\0\0\0\0"


def test_weights_of_layers_in_their_order() -> None:
    layers = [
        Layer("A", "a", [], [], {}, [Weight(ONES), Weight(2 * ONES)]),
        Layer("B", "b", [], [], {}, [Weight(-ONES)]),
    ]
    assert bin_bytes(layers, "fp16") == ONES.tobytes() + (2 * ONES).tobytes() + (-ONES).tobytes()


@pytest.mark.parametrize(
    ("values", "outputs", "held"),
    [
        ([1.0, -1.0, 0.5, 0.25], 2, True),
        ([FP16_MAX, 1, 1, 1], 2, True),
        ([-FP16_MAX, 1, 1, 1], 2, True),
        ([65536.0, 1, 1, 1], 2, False),
        ([1, 1, 1, -65536.0], 2, False),
        ([2.0**-15, 0, 1, 1], 2, True),
        ([2.0**-16, 0, 1, 1], 2, False),
        ([2.0**-16, 1, 1, 1], 2, True),
        ([2.0**-16, 1, 1, 1], 4, False),
        ([0, 0, 1, 1], 2, True),
        ([0, 0, 0, 0], 2, True),
        ([2.0**-16, 0, 1, 1], 3, True),
        ([2.0**-16, 0, 1, 1], 0, True),
        ([2.0**-16, 0, 1, 1], None, True),
        ([2.0**-16, 0, 1, 1], [2], True),
        ([2.0**-16] * 4, None, False),
    ],
)
def test_what_half_precision_holds(values: list[float], outputs: Param | None, held: bool) -> None:
    """Per output, its largest weight: between 2⁻¹⁵ and 65504, or nothing at all. Without outputs there is one."""
    weight = Weight(np.asarray(values, np.float32), tagged=True)
    layer = Layer("Convolution", "c", [], [], {} if outputs is None else {0: outputs}, [weight])
    assert fits_fp16(layer, weight) == held


def test_an_empty_weight_is_held() -> None:
    empty = Weight(np.zeros(0, np.float32), tagged=True)
    assert fits_fp16(Layer("Convolution", "c", [], [], {0: 0}), empty)
