"""Statistics of columns: windows thinned and laid out by hand, when windows are laid out, and what they may take."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnxslim_yolo.analysis.contraction import Contraction, contractions
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning import calibration
from onnxslim_yolo.pruning.calibration import Statistics, collect, picks_of, thinned
from onnxslim_yolo.pruning.plan import open_plan
from tests.numeric import build, run_onnx
from tests.passes.cutting import onnx_text


def network(layer: str, weight: str, side: int = 8, outputs: str = "float[i,j,k,l] y") -> Model:
    """A layer that reads `h`, four channels of an image."""
    weights = f"float[4,3,1,1] a.weight, {weight}, int64[2] flat = {{1, -1}}"
    text = onnx_text(f"float[1,3,{side},{side}] x", outputs, weights, f"h = Conv(x, a.weight) {layer}", 17)
    return build(text)


def place_of(model: Model) -> Contraction:
    return next(p for p in contractions(open_plan(model).channels) if p.node.inputs[1].name == "w")


def seen(model: Model, count: int = 2) -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(model.graph.inputs[0].shape).astype(np.float32) for _ in range(count)]


def maps(model: Model, images: list[Array]) -> list[Array]:
    tapped = model.copy()
    tapped.graph.outputs = [tensor for node in tapped.graph.nodes for tensor in node.outputs if tensor.name == "h"]
    return [run_onnx(tapped, {"x": image})["h"].astype(np.float64) for image in images]


def agree(found: Statistics, rows: Array) -> None:
    assert found.count == len(rows)
    assert found.mean == pytest.approx(rows.mean(axis=0), abs=1e-5)
    assert found.covariance == pytest.approx(np.cov(rows.T, bias=True), abs=1e-4)


@pytest.mark.parametrize("count", [15, 16, 17, 40])
def test_small_maps_of_many_images_are_summed_together(count: int) -> None:
    model = network("y = Conv(h, w)", "float[5,4,1,1] w")
    images = seen(model, count)
    rows = np.concatenate([np.moveaxis(h, 1, -1).reshape(-1, 4) for h in maps(model, images)])
    agree(collect(model, [place_of(model)], images)[0], rows)


@pytest.mark.parametrize(
    "attributes, pad, stride, dilation, side, steps",
    [
        ("pads=[1,1,1,1]", 1, 1, 1, 8, (1, 1)),
        ("strides=[2,2], pads=[1,1,1,1]", 1, 2, 1, 8, (1, 1)),
        ("dilations=[2,2]", 0, 1, 2, 8, (1, 1)),
        ("pads=[1,1,1,1]", 1, 1, 1, 48, (3, 1)),
        ('strides=[2,2], auto_pad="VALID"', 0, 2, 1, 8, (1, 1)),
    ],
)
def test_columns_are_the_windows_that_a_convolution_reads(
    attributes: str, pad: int, stride: int, dilation: int, side: int, steps: tuple[int, int]
) -> None:
    model = network(f"y = Conv<{attributes}>(h, w)", "float[5,4,3,3] w", side)
    images = seen(model, 2 if side > 8 else 16)
    (found,) = collect(model, [place_of(model)], images)
    rows = []
    for h in maps(model, images):
        wide = np.pad(h[0], ((0, 0), (pad, pad), (pad, pad)))
        reach = 2 * dilation + 1
        for r in range(0, wide.shape[1] - reach + 1, stride * steps[0]):
            for c in range(0, wide.shape[2] - reach + 1, stride * steps[1]):
                rows.append(wide[:, r : r + reach : dilation, c : c + reach : dilation].reshape(-1))
    assert found.taps == 9
    agree(found, np.array(rows))


@pytest.mark.parametrize(
    "layer, weight, outputs",
    [
        ("y = Conv(h, w)", "float[5,4,1,1] w", "float[i,j,k,l] y"),
        ("y = ConvTranspose(h, w)", "float[4,5,2,2] w", "float[i,j,k,l] y"),
        ("t = Transpose<perm=[0,2,3,1]>(h) y = MatMul(t, w)", "float[4,5] w", "float[i,j,k,l] y"),
    ],
)
def test_other_columns_are_channels(layer: str, weight: str, outputs: str) -> None:
    model = network(layer, weight, outputs=outputs)
    images = seen(model)
    (found,) = collect(model, [place_of(model)], images)
    assert found.taps == 1
    agree(found, np.concatenate([h[0].reshape(4, -1).T for h in maps(model, images)]))
    assert found.by_channel() is found


WINDOW = ("y = Conv<pads=[1,1,1,1]>(h, w)", "float[5,4,3,3] w")


def test_windows_are_laid_out_where_that_is_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    """36 columns; 64 positions an image, of which four a column are asked for."""
    model = network(*WINDOW)
    place = place_of(model)

    def taps(count: int, **options: bool) -> int:
        return collect(model, [place], seen(model, count), **options)[0].taps

    assert (taps(2), taps(3), taps(3, window=False)) == (1, 9, 1)

    def stream() -> Iterator[Array]:
        yield from seen(model, 1)

    assert collect(model, [place], stream())[0].taps == 9, "nobody knows how many there are"
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "POSITIONS", 48)
        assert (taps(2), taps(3)) == (1, 9)
        patch.setattr(calibration, "POSITIONS", 47)
        assert taps(3) == 1
    for most, found in ((36, 9), (35, 1)):
        monkeypatch.setattr(calibration, "MAX_COLUMNS", most)
        assert taps(3) == found


def test_what_takes_too_much_is_by_channels_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Gram of doubles is 8·36² bytes with windows, 8·4² without."""
    model = network(*WINDOW)
    place, images = place_of(model), seen(model, 3)
    for most, taps in ((8 * 36**2, 9), (8 * 36**2 - 1, 1), (8 * 4**2, 1)):
        monkeypatch.setattr(calibration, "GRAM_BYTES", most)
        assert [one.taps for one in collect(model, [place, place], images)] == [taps, taps]
    monkeypatch.setattr(calibration, "GRAM_BYTES", 8 * 4**2 - 1)
    with pytest.raises(InputError, match=r"needs 0\.0 GB") as refused:
        collect(model, [place], images)
    assert refused.value.hint == "use --compensate constant"


def test_what_a_padded_convolution_reads_is_tapped_whole() -> None:
    """onnxruntime 1.32 refuses a tensor that a Pad and an Identity read, once it has taken out both (exit 3)."""
    model = network(
        "s = Sigmoid(h) p = Pad(s, around) c = Conv(p, w) y = Conv(c, w2) z = Conv(s, w2)",
        "float[4,4,3,3] w, float[2,4,1,1] w2, int64[8] around = {0,0,1,1,0,0,1,1}",
        outputs="float[i,j,k,l] y, float[i,j,k,l] z",
    )
    images = seen(model)
    places = [p for p in contractions(open_plan(model).channels) if p.node.inputs[1].name == "w2"]
    rows = np.concatenate([np.moveaxis(1 / (1 + np.exp(-h)), 1, -1).reshape(-1, 4) for h in maps(model, images)])
    for order in (places, places[::-1]):
        agree(collect(model, order, images)[[p.node.inputs[0].name for p in order].index("s")], rows)


def test_nothing_asked_and_nothing_shown() -> None:
    model = network(*WINDOW)
    assert collect(model, [], iter(())) == []
    with pytest.raises(InputError, match="no calibration image"):
        collect(model, [place_of(model)], [])


def test_a_column_that_is_constant_covaries_with_nothing() -> None:
    model = network("y = Conv(h, w)", "float[5,4,1,1] w")
    node = next(node for node in model.graph.nodes if node.inputs[1].name == "a.weight")
    node.inputs[1].values = np.where(np.arange(4).reshape(4, 1, 1, 1) == 2, 0, node.inputs[1].values).astype(np.float32)
    (found,) = collect(model, [place_of(model)], [image + 100 for image in seen(model)])
    assert not found.covariance[2].any() and not found.covariance[:, 2].any()
    assert np.diagonal(found.covariance)[[0, 1, 3]].min() > 0.01
    (moved,) = collect(model, [place_of(model)], seen(model))
    assert moved.covariance == pytest.approx(found.covariance, abs=1e-3), "far from nothing, and as exact"


def test_of_windows_the_average_position_speaks_for_a_channel() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, 6))
    one = Statistics(rows.mean(axis=0), np.cov(rows.T, bias=True), 50, 3).by_channel()
    blocks = [[np.cov(rows.T, bias=True)[3 * i : 3 * i + 3, 3 * j : 3 * j + 3] for j in (0, 1)] for i in (0, 1)]
    assert one.covariance == pytest.approx(np.array([[np.trace(b) / 3 for b in row] for row in blocks]))
    assert one.mean == pytest.approx(rows.mean(axis=0).reshape(2, 3).mean(axis=1)) and one.taps == 1


def test_thinned_are_the_middle_ones_of_every_step() -> None:
    """As a session thins: whole along channels and batch, of nothing where a shape is not known."""
    assert picks_of(None, 4, 1) == [1, 1, 1, 1]
    assert picks_of((9, 64, 32, 32), 4, 1) == [1, 1, 1, 1]
    assert picks_of((9, 64, 64, 64), 4, 1) == [1, 1, 3, 3]
    assert picks_of((1, 64, 64, 8), 4, 3) == [1, 3, 3, 1]
    assert picks_of((1, 1100, 8), 3, 2) == [1, 3, 1]
    value = np.arange(2 * 1100 * 3).reshape(2, 1100, 3)
    assert np.array_equal(thinned(value, 2), value[:, 1::3].reshape(-1, 3))
    value = np.arange(4 * 8 * 8).reshape(1, 4, 8, 8)
    assert np.array_equal(thinned(value, 1), value[0].reshape(4, -1).T)
