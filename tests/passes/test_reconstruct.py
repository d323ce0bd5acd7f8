"""reconstruct: exact where removed channels are linear in kept ones, and moments come back; with controls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxslim_yolo.analysis.blocks import find_blocks
from onnxslim_yolo.analysis.contraction import contractions
from onnxslim_yolo.errors import InputError, UnsupportedError, UsageError
from onnxslim_yolo.ir.graph import Array, Namer, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import AbsorbConstants, DropBlocks, Reconstruct, SliceChannels
from onnxslim_yolo.passes.reconstruct import apply_correction, cut_places, reconstruct
from onnxslim_yolo.pruning.calibration import Statistics, collect
from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.pruning.fold_removed import fold
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.pruning.match import Correction, _correction, matchable, output_moments
from onnxslim_yolo.pruning.plan import open_plan
from tests.numeric import build, differences, random_feeds, run_onnx
from tests.passes.cutting import onnx_text, remove, run

SIDE = 16


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calib")
    rng = np.random.default_rng(0)
    for index in range(6):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def redundant(reader: str) -> dict[str, Array]:
    """A first layer of 8 filters, of which the last three are sums of the first five, plus a constant.

    A transposed convolution's outputs receive different taps each, and no bias can make up for a constant: none there.
    """
    rng = np.random.default_rng(3)
    first, mix = rng.standard_normal((5, 3)), rng.standard_normal((3, 5))
    weight = np.concatenate([first, mix @ first])
    bias = weight @ rng.standard_normal(3) if reader == "transposed" else rng.standard_normal(8)
    return {"a.weight": weight, "a.bias": bias}


NORM_OF_THREE = "float[3] w.gamma, float[3] w.beta, float[3] w.mean, float[3] w.var"
READERS = {
    "conv": ("float[4,8,1,1] w, float[4] v", "y = Conv(h, w, v)", "float[a,b,c,d] y"),
    "conv-no-bias": ("float[4,8,1,1] w", "y = Conv(h, w)", "float[a,b,c,d] y"),
    "window": ("float[4,8,3,3] w, float[4] v", "y = Conv<pads=[1,1,1,1], strides=[2,2]>(h, w, v)", "float[a,b,c,d] y"),
    "transposed": (
        "float[8,4,2,2] w, float[4] v",
        "y = ConvTranspose<strides=[2,2]>(h, w, v)",
        "float[a,b,c,d] y",
    ),
    "norm-behind": (
        "float[4,8,3,3] w, float[4] m.gamma, float[4] m.beta, float[4] m.mean, float[4] m.var",
        "c = Conv(h, w) y = BatchNormalization(c, m.gamma, m.beta, m.mean, m.var)",
        "float[a,b,c,d] y",
    ),
    "concat": ("float[4,16,1,1] w", "c = Concat<axis=1>(h, h) y = Conv(c, w)", "float[a,b,c,d] y"),
    "gemm": (
        "float[8,4] w, float[4] v",
        "m = GlobalAveragePool(h) f = Flatten(m) y = Gemm<alpha=0.5, beta=2.0>(f, w, v)",
        "float[a,b] y",
    ),
    "tokens": (
        "int64[3] flat = {1, 8, 256}, float[8,4] w",
        "f = Reshape(h, flat) t = Transpose<perm=[0,2,1]>(f) y = MatMul(t, w)",
        "float[a,b,c] y",
    ),
}


def linear_model(reader: str) -> Model:
    weights, body, outputs = READERS[reader]
    text = onnx_text(
        f"float[1,3,{SIDE},{SIDE}] x",
        outputs,
        f"float[8,3,1,1] a.weight, float[8] a.bias, {weights}",
        f"h = Conv(x, a.weight, a.bias) {body}",
    )
    return build(text, values=redundant(reader))


def feeds(folder: Path, model: Model) -> list[dict[str, Array]]:
    return [{"x": image} for image in CalibrationImages(folder, model)]


@pytest.mark.parametrize("match", [False, True])
@pytest.mark.parametrize("reader", READERS)
def test_linearly_dependent_channels_fold_exactly(reader: str, match: bool, images: Path) -> None:
    source = linear_model(reader)
    remove(source, "h", [5, 6, 7])
    expected = [run_onnx(source, feed) for feed in feeds(images, source)]

    def worst(*steps: object) -> float:
        after = run(source, *steps, SliceChannels())  # type: ignore[arg-type]
        got = [run_onnx(after, feed) for feed in feeds(images, source)]
        return max(max(differences(a, b).values()) for a, b in zip(expected, got, strict=True))

    assert worst(Reconstruct(images, ridge=1e-9, match=match)) < 2e-3
    # Controls: without it, and with means alone, the outputs are plainly others.
    assert worst() > 0.1
    if reader != "gemm":  # the mean of an image is nearly constant
        assert worst(AbsorbConstants()) > 0.1


STACK = (
    "float[8,3,3,3] a.weight, float[8] a.gamma, float[8] a.beta, float[8] a.mean, float[8] a.var, "
    "float[8,8,3,3] b.weight, float[8] b.bias, float[8,1,3,3] d.weight, float[4,8,1,1] w, float[4] v"
)
STACK_BODY = """
    a0 = Conv<pads=[1,1,1,1]>(x, a.weight)  a1 = BatchNormalization(a0, a.gamma, a.beta, a.mean, a.var)
    a2 = Sigmoid(a1)  h = Mul(a1, a2)
    b0 = Conv<pads=[1,1,1,1]>(h, b.weight, b.bias)  b1 = Relu(b0)
    d0 = Conv<group=8, pads=[1,1,1,1]>(b1, d.weight)  g = Add(d0, h)
    y = Conv(g, w, v)
"""


def stack() -> Model:
    return build(onnx_text(f"float[1,3,{SIDE},{SIDE}] x", "float[a,b,c,d] y", STACK, STACK_BODY), seed=2)


def test_matching_restores_means_and_variances(images: Path) -> None:
    source = stack()
    inputs = CalibrationImages(images, source)
    wanted = output_moments(source, matchable(source), inputs)
    remove(source, "h", [1, 4, 6])

    def worst(match: bool) -> float:
        after = run(source, Reconstruct(images, match=match, views=1))
        assert after.plan is not None
        found = output_moments(masked(after, after.plan), matchable(after), inputs)
        return max(
            float(np.abs(np.sqrt(found[name][1] / wanted[name][1]) - 1).max())
            for name in wanted
            if (wanted[name][1] > 0).all()
        )

    assert worst(match=True) < 1e-3
    assert worst(match=False) > 0.05


def test_biases_made_on_the_way_are_cut_as_well(images: Path) -> None:
    source = build(
        onnx_text(
            f"float[1,3,{SIDE},{SIDE}] x",
            "float[a,b,c,d] y",
            "float[8,3,1,1] a.weight, float[8,8,1,1] b.weight, float[4,8,1,1] w",
            "a0 = Conv(x, a.weight) h = Relu(a0) b0 = Conv(h, b.weight) g = Relu(b0) y = Conv(g, w)",
        )
    )
    remove(source, "h", [1, 2])
    remove(source, "g", [0, 5])
    after = run(source, Reconstruct(images), SliceChannels())
    biases = [node.inputs[2].shape for node in after.graph.nodes if node.op == "Conv" and len(node.inputs) > 2]
    assert (6,) in [tuple(shape) for shape in biases]
    assert run_onnx(after, feeds(images, source)[0])["y"].shape == (1, 4, SIDE, SIDE)


def test_a_second_run_edits_nothing(images: Path) -> None:
    source = linear_model("conv")
    remove(source, "h", [5])
    step = Reconstruct(images)
    after = source.copy()
    assert step.run(after) > 0
    assert step.run(after) == 0


def test_statistics_are_those_of_the_columns(images: Path) -> None:
    source = linear_model("window")
    inputs = CalibrationImages(images, source)
    place = next(p for p in contractions(open_plan(source).channels) if p.node.inputs[1].name == "w")
    (found,) = collect(source, [place], inputs)
    assert found.taps == 9
    values = []
    for image in inputs:
        h = (
            np.einsum("oi,bihw->bohw", *(source.graph.tensors()["a.weight"].values[:, :, 0, 0], image))
            + source.graph.tensors()["a.bias"].values[None, :, None, None]
        )
        wide = np.pad(h, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = [wide[0, :, r : r + 3, c : c + 3].reshape(-1) for r in range(0, SIDE, 2) for c in range(0, SIDE, 2)]
        values += windows
    np.testing.assert_allclose(found.mean, np.mean(values, axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.covariance, np.cov(np.array(values).T, bias=True), rtol=1e-3, atol=1e-4)
    alone = found.by_channel()
    assert alone.covariance.shape == (8, 8) and np.linalg.eigvalsh(alone.covariance).min() > -1e-6


def test_refusals(images: Path, tmp_path: Path) -> None:
    source = linear_model("conv")
    assert Reconstruct().run(source) == 0  # nothing is planned: no images are asked for
    remove(source, "h", [5])
    with pytest.raises(UsageError, match="needs calibration images"):
        Reconstruct().run(source)
    with pytest.raises(InputError):
        Reconstruct(tmp_path / "nothing").run(source)
    two = build("""<ir_version: 8, opset_import: ["": 17]> g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }""")
    with pytest.raises(UnsupportedError, match="one image of fixed size"):
        CalibrationImages(images, two)


def test_matching_leaves_what_never_varied() -> None:
    """A channel that varies by less than rounding of its neighbours is not blown up: the floor is a share of these."""
    wanted = (np.array([0.0, 0.0]), np.array([1.0, 1e-9]))
    now = (np.array([0.0, 0.0]), np.array([1.0, 1e-13]))
    slight = _correction("layer", now, wanted)
    assert slight is not None and np.abs(slight.scale - 1).max() < 2e-3
    # What does vary is scaled: by the ratio of the spreads, in the limits that there are.
    found = _correction("layer", (np.zeros(2), np.array([0.25, 1.0])), (np.array([0.0, 0.5]), np.array([1.0, 1.0])))
    assert found is not None
    np.testing.assert_allclose(found.scale, [2.0, 1.0], rtol=1e-4)
    np.testing.assert_allclose(found.shift, [0.0, 0.5])


def test_every_group_folds_by_itself() -> None:
    """The second group's columns are its own: what it loses is predicted from what it keeps."""
    rng = np.random.default_rng(0)
    text = onnx_text(
        "float[1,3,4,4] x",
        "float[a,b,c,d] y",
        "float[8,3,1,1] a, float[4,4,1,1] b",
        "h = Conv(x, a) y = Conv<group=2>(h, b)",
    )
    model = build(text)
    (place,) = [each for each in contractions(open_plan(model).channels) if each.node.inputs[1].name == "b"]
    weight = np.asarray(place.node.inputs[1].values)
    rows = rng.standard_normal((1000, 8))
    rows[:, 7], rows[:, 1] = 2 * rows[:, 5], -rows[:, 2]  # of each group one is another's multiple
    keep = np.ones(open_plan(model).channels.count, dtype=bool)
    keep[place.classes[[1, 7]]] = False
    statistics = Statistics(rows.mean(axis=0), np.cov(rows.T, bias=True), len(rows), 1)
    folded = fold(place, weight, keep, statistics, 1e-12, np.zeros(8))
    assert folded is not None
    first, second = folded.weight[:2, :, 0, 0], folded.weight[2:, :, 0, 0]
    np.testing.assert_allclose(first[:, 2], weight[:2, 2, 0, 0] - weight[:2, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(second[:, 1], weight[2:, 1, 0, 0] + 2 * weight[2:, 3, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    "layer, weights, outputs",
    [
        ("y = Conv(x, w)", "float[4,3,1,1] w", "float[a,b,c,d] y"),
        ("y = Conv(x, w, v)", "float[4,3,1,1] w, float[4] v", "float[a,b,c,d] y"),
        ("y = ConvTranspose(x, w, v)", "float[3,4,2,2] w, float[4] v", "float[a,b,c,d] y"),
        ("y = BatchNormalization(x, w.gamma, w.beta, w.mean, w.var)", NORM_OF_THREE, "float[a,b,c,d] y"),
        ("f = Flatten(x) y = Gemm<alpha=0.5, beta=2.0>(f, w, v)", "float[48,4] w, float[4] v", "float[a,b] y"),
        ("f = Flatten(x) y = Gemm<alpha=0.5>(f, w)", "float[48,4] w", "float[a,b] y"),
        ("t = Transpose<perm=[0,2,3,1]>(x) y = MatMul(t, w)", "float[3,4] w", "float[a,b,c,d] y"),
    ],
)
def test_what_a_layer_yields_is_scaled_and_shifted_per_channel(layer: str, weights: str, outputs: str) -> None:
    before = build(onnx_text("float[2,3,4,4] x", outputs, weights, layer))
    after = before.copy()
    node = after.graph.nodes[-1]
    width = 3 if node.op == "BatchNormalization" else 4
    scale, shift = np.array([0.5, 2.0, -1.0, 3.0])[:width], np.array([1.0, -2.0, 0.0, 0.25])[:width]
    apply_correction(after, node, Correction(node.name, scale, shift), Namer(after.graph))
    after.graph.nodes = toposort(after.graph)
    feed = random_feeds(before)
    axis = 3 if node.op == "MatMul" else 1
    old, new = (np.moveaxis(run_onnx(model, feed)["y"], axis, -1) for model in (before, after))
    np.testing.assert_allclose(new, scale * old + shift, rtol=1e-4, atol=1e-5)


def test_what_is_folded_goes_by_the_views_where_there_are_some() -> None:
    source = linear_model("window")
    remove(source, "h", [1, 6])
    rng = np.random.default_rng(0)
    images, views = ([rng.standard_normal((1, 3, SIDE, SIDE)).astype(np.float32) * f for _ in "abc"] for f in (1, 5))
    step = Reconstruct(match=False, ridge=1e-2)

    def fitted(*given: object) -> Array:
        after = source.copy()
        assert reconstruct(after, open_plan(after), given[0], step, *given[1:]) == 1  # type: ignore[arg-type]
        return np.asarray(after.graph.tensors()["w"].values)  # type: ignore[union-attr]

    np.testing.assert_array_equal(fitted(images, views), fitted(views))
    assert not np.array_equal(fitted(images), fitted(views))


def test_of_a_block_that_went_the_readers_are_fitted_though_no_channel_goes(images: Path) -> None:
    weights = "float[6,3,1,1] s.weight, float[6,6,1,1] p.weight, float[4,6,1,1] y.weight"
    text = "s = Conv(x, s.weight) p = Conv(s, p.weight) r = Add(s, p) y = Conv(r, y.weight)"
    source = build(onnx_text(f"float[1,3,{SIDE},{SIDE}] x", "float[a,b,c,d] y", weights, text))
    gone = source.copy()
    (block,) = [one for one in find_blocks(gone.graph) if one.kind == "branch"]
    assert DropBlocks()._take_out(gone, [block]) == 1 and open_plan(gone).keep.all()
    step = Reconstruct(images, ridge=1e-9, match=False)
    after = gone.copy()
    assert step.run(after) == 1 and step.run(after) == 0
    feed = feeds(images, source)[0]
    assert max(differences(run_onnx(source, feed), run_onnx(after, feed)).values()) < 1e-2
    assert max(differences(run_onnx(source, feed), run_onnx(gone, feed)).values()) > 0.1, "the control"
    with pytest.raises(UsageError, match="needs calibration images"):
        Reconstruct().run(gone)


def test_the_places_that_lose_channels() -> None:
    source = linear_model("concat")
    assert cut_places(open_plan(source)) == []
    for position in (0, 7):
        plan = remove(linear_model("concat"), "h", [position])
        assert [place.node.inputs[1].name for place in cut_places(plan)] == ["w"]
