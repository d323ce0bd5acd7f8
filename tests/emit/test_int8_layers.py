"""Layers in int8, by hand: which, with what numbers, who hands on codes, and why others stay float."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.format import TAG_INT8, Layer, Param, Weight, bin_bytes
from onnxslim_yolo.emit.ncnn.int8 import Int8Layer, away_from_zero, hand_on_codes, quantise_layers
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.quantisation.plan import Quantisation, QuantisedLayer, Range
from tests.numeric import build

WEIGHT = np.asarray([[1.0, -2.0], [0.0, 0.0], [0.5, 0.25]], np.float32)
"""Three outputs of two inputs; the second computes nothing."""
BIAS = np.asarray([1.0, 2.0, 3.0], np.float32)
NAMES = {"x": "onnx_x", "y": "onnx_y", "z": "onnx_z", "v": "onnx_v"}


def layer(
    kind: str = "Convolution",
    name: str = "a",
    reads: str = "x",
    writes: str = "y",
    more: dict[int, Param] | None = None,
) -> Layer:
    """A 1×1 convolution of `WEIGHT`; `more` are further parameters."""
    params: dict[int, Param] = {0: 3, 1: 1, 5: 1, 6: 6, **(more or {})}
    return Layer(kind, name, [reads], [writes], params, [Weight(WEIGHT, tagged=True), Weight(BIAS)])


def source(blob: str = "x", kind: str = "Input") -> Layer:
    return Layer(kind, blob, [], [blob])


def plan(*names: str, **ranges: Range) -> Quantisation:
    """Of layers so named; ranges by blob, `x` being 2.54 at most unless told otherwise."""
    unused = np.zeros(0, np.int8)
    layers = {name: QuantisedLayer(name, "", "", unused, unused, unused) for name in names}
    given = {NAMES[blob]: each for blob, each in {"x": Range(-1.0, 2.54), **ranges}.items()}
    return Quantisation(layers, given)


def values(made: Layer) -> list[Array]:
    return [weight.values for weight in made.weights]


def test_numbers_by_hand() -> None:
    done, (made,), left = quantise_layers([source(), layer()], NAMES, plan("a"), dot_products=False)
    assert (made.name, made.reads, made.writes, made.output_scale) == ("a", "onnx_x", "onnx_y", None) and not left
    assert made.codes.tolist() == [[64, -127], [0, 0], [127, 64]], "63.5 is rounded away from 0"
    assert made.scale.tolist() == [63.5, 127.0, 254.0] and made.input_scale == np.float32(1 / np.float32(0.02))
    assert made.codes.dtype == np.int8 and {made.scale.dtype, made.input_scale.dtype} == {np.dtype(np.float32)}
    before, after = layer(), done[1]
    assert after.params == {**before.params, 8: 1} and (after.inputs, after.outputs) == (["x"], ["y"])
    assert [each.tolist() for each in values(after)] == [
        made.codes.tolist(), BIAS.tolist(), made.scale.tolist(), [float(made.input_scale)]
    ]  # fmt: skip
    assert [weight.tagged for weight in after.weights] == [True, False, False, False]
    assert done[0].type == "Input" and 8 not in done[0].params


def test_the_codes_have_their_tag_and_are_filled_up_to_four_bytes() -> None:
    done, _, _ = quantise_layers([source(), layer()], NAMES, plan("a"), dot_products=False)
    data = bin_bytes(done, "fp16")
    assert data[:4] == TAG_INT8.to_bytes(4, "little") == b"\x38\x4b\x0d\x00"
    assert np.frombuffer(data[4:10], np.int8).tolist() == [64, -127, 0, 0, 127, 64] and data[10:12] == b"\0\0"
    assert np.frombuffer(data[12:24], "<f4").tolist() == BIAS.tolist() and len(data) == 12 + 12 + 12 + 4


@pytest.mark.parametrize(
    ("value", "rounded"), [(0.5, 1), (-0.5, -1), (1.5, 2), (2.5, 3), (-2.5, -3), (0.49, 0), (0, 0)]
)
def test_halves_are_rounded_away_from_zero(value: float, rounded: float) -> None:
    assert away_from_zero(np.asarray([value], np.float32)).tolist() == [rounded]


def declined(given: Layer, given_plan: Quantisation, *, before: Layer | None = None, dot_products: bool = False) -> str:
    """Why the layer `a` stays float, and as it is; "" where it does not."""
    layers = [before or source(), given]
    done, made, left = quantise_layers(layers, NAMES, given_plan, dot_products=dot_products)
    assert bool(made) == (not left) and (not left or done == layers)
    return left.get("a", "")


@pytest.mark.parametrize("kind", ["Convolution", "ConvolutionDepthWise", "InnerProduct"])
def test_kinds_with_a_kernel(kind: str) -> None:
    assert not declined(layer(kind, more={7: 3}), plan("a"))


@pytest.mark.parametrize("kind", ["Deconvolution", "Gemm"])
def test_other_kinds_stay_float(kind: str) -> None:
    assert declined(layer(kind), plan("a")) == "it is another layer in ncnn"


def test_what_the_plan_does_not_name_is_left_alone_and_not_spoken_of() -> None:
    layers = [source(), layer(), layer(name="b", reads="y", writes="z")]
    done, made, left = quantise_layers(layers, NAMES, plan("b", y=Range(-1, 1)), dot_products=False)
    assert [each.name for each in made] == ["b"] and not left and done[:2] == layers[:2] and done[2].params[8] == 1


def test_a_name_is_spelt_as_ncnn_may() -> None:
    given = [source(), layer(name="a_b")]
    _, (made,), left = quantise_layers(given, NAMES, plan("a b"), dot_products=False)
    assert made.name == "a_b" and not left
    _, none, left = quantise_layers([source(), layer("Deconvolution", "a_b")], NAMES, plan("a b"), dot_products=False)
    assert not none and list(left) == ["a b"]


def test_an_input_without_a_range_stays_float() -> None:
    assert declined(layer(reads="v"), plan("a"), before=source("v")) == "ncnn: what it reads is another tensor there"


def test_a_view_has_the_range_of_what_it_shows() -> None:
    view, other = Layer("Reshape", "r", ["x"], ["r"]), Layer("Permute", "r", ["x"], ["r"])
    given = layer(reads="r")
    _, (made,), _ = quantise_layers([source(), view, given], NAMES, plan("a"), dot_products=False)
    assert made.reads == "onnx_x"
    _, none, left = quantise_layers([source(), other, given], NAMES, plan("a"), dot_products=False)
    assert not none and left == {"a": "ncnn: what it reads is another tensor there"}


def test_a_view_with_a_range_of_its_own_is_read_itself() -> None:
    view = Layer("Reshape", "v", ["x"], ["v"])
    given = plan("a", v=Range(-1.27, 1))
    _, (made,), _ = quantise_layers([source(), view, layer(reads="v")], NAMES, given, dot_products=False)
    assert made.reads == "onnx_v" and made.input_scale == np.float32(1 / np.float32(0.01))


def test_what_it_writes_must_be_a_tensor() -> None:
    assert declined(layer(writes="inner"), plan("a")) == "it is another layer in ncnn"


@pytest.mark.parametrize(("groups", "why"), [(3, ""), (2, "ncnn: its groups are no depthwise convolution")])
def test_groups(groups: int, why: str) -> None:
    assert declined(layer("ConvolutionDepthWise", more={7: groups}), plan("a")) == why


@pytest.mark.parametrize(
    ("keys", "slower"),
    [
        ({1: 3, 11: 3}, True),
        ({1: 3, 11: 3, 3: 1, 13: 1}, True),
        ({1: 1, 11: 3}, False),
        ({1: 3, 11: 1}, False),
        ({1: 3}, False),
        ({1: 3, 11: 3, 3: 2}, False),
        ({1: 3, 11: 3, 13: 2}, False),
        ({1: 5, 11: 5}, False),
    ],
)
def test_3x3_is_faster_in_float_where_there_are_dot_products(keys: dict[int, Param], slower: bool) -> None:
    why = "ncnn: a 3x3 convolution is faster in fp16 there" if slower else ""
    assert declined(layer(more=keys), plan("a"), dot_products=True) == why
    assert not declined(layer(more=keys), plan("a"), dot_products=False)
    assert not declined(layer("ConvolutionDepthWise", more={7: 3, **keys}), plan("a"), dot_products=True)


def known(name: str, scale: float = 2.0) -> Int8Layer:
    return Int8Layer(name, "", "", WEIGHT.astype(np.int8), BIAS, np.float32(scale))


def handed(
    *readers: Layer, first: Layer | None = None, outputs: tuple[str, ...] = (), size: int = 1024, scale: float = 2.0
) -> np.float32 | None:
    """k of the codes that the layer `a` in front of these hands on; what it says of it agrees with what is written."""
    first = first or layer()
    layers = [source(), first, *readers]
    found = [known("a", 5.0), known("b"), known("c", scale)]
    made, told = hand_on_codes(layers, found, outputs, {"x": (9,), "y": (4, 16, size // 64), "z": (2048,)})
    written, said = made[1], told[0].output_scale
    assert [each.name for each in told] == ["a", "b", "c"] and made[2:] == list(readers) and made[0] is layers[0]
    assert told[1:] == found[1:] and told[0] == replace(found[0], output_scale=said)
    if said is None:
        assert written is first
        return None
    assert said.dtype == np.float32 and values(written)[-1].tolist() == [float(said)]
    assert values(written)[:-1] == values(first) and written.params == {**first.params, 8: 101}
    assert (written.type, written.name, written.inputs, written.outputs) == (first.type, "a", ["x"], ["y"])
    return said


def reader(name: str = "b", kind: str = "Convolution", reads: str = "y") -> Layer:
    return layer(kind, name, reads, f"of_{name}")


def test_codes_are_handed_on_with_the_readers_scale() -> None:
    assert handed(reader()) == 2.0 and handed(reader("b", "ConvolutionDepthWise")) == 2.0
    assert handed(reader(), first=layer("ConvolutionDepthWise")) == 2.0


def test_all_readers_have_one_scale() -> None:
    assert handed(reader("b"), reader("c")) == 2.0 and handed(reader("b"), reader("c"), scale=3.0) is None


@pytest.mark.parametrize(
    "others",
    [
        [reader("b", "InnerProduct")],
        [reader("d")],
        [reader("b"), reader("d")],
        [reader("b"), Layer("Pooling", "p", ["y"], ["p"])],
        [],
    ],
    ids=["no kernel for codes", "a float layer", "a float layer too", "a pool too", "nobody"],
)
def test_floats_where_someone_wants_them(others: list[Layer]) -> None:
    assert handed(*others) is None


def test_the_networks_outputs_are_floats() -> None:
    assert handed(reader(), outputs=("y",)) is None and handed(reader(), outputs=("of_b",)) == 2.0


def test_small_maps_are_floats() -> None:
    assert handed(reader(), size=1024) == 2.0 and handed(reader(), size=960) is None


def test_a_map_of_unknown_size_is_floats() -> None:
    layers = [source(), layer(), reader()]
    made, _ = hand_on_codes(layers, [known("a"), known("b")], (), {})
    assert made == layers


def test_no_layer_of_another_kind_writes_codes() -> None:
    assert handed(reader(), first=layer("InnerProduct")) is None


def test_the_notes_of_a_pair() -> None:
    """From a graph on: two convolutions, the first of which hands on codes, and what stays float."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,4,16,16] x) => (float[1,4,16,16] y)
    <float[4,4,1,1] w, float[4,4,1,1] v, float[4,4,1,1] u> { a = Conv(x, w) b = Conv(a, v) y = ConvTranspose(b, u) }"""
    model = build(text)
    nodes = [node.name for node in model.graph.nodes]
    unused = np.zeros(0, np.int8)
    model.quantised = Quantisation(
        {name: QuantisedLayer(name, "", "", unused, unused, unused) for name in nodes},
        {"x": Range(-1, 1), "a": Range(-2, 2), "b": Range(-1, 1)},
    )
    pair = emit_ncnn(model)
    assert [note for note in pair.notes if "int8" in note] == [
        "int8: 2 of 3 layers in the NCNN pair",
        "int8: 1 of them hand on codes in the NCNN pair",
        "int8: 1 stay float: it is another layer in ncnn",
    ]
    assert [each.output_scale for each in pair.int8] == [np.float32(1 / np.float32(2 / 127)), None]
    plain = emit_ncnn(model, codes=False)
    assert [each.output_scale for each in plain.int8] == [None, None] and "8=101" not in plain.param
    assert not any("hand on" in note for note in plain.notes)
