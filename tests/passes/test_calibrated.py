"""What calibration images tell: importance by output, curves, head error, the loss estimate; with controls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxslim_yolo.analysis.contraction import contractions
from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.analysis.plan_cost import PlanCost
from onnxslim_yolo.analysis.views import VIEWS, view_of, views_for
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.heads.decode import Candidates
from onnxslim_yolo.ir.graph import Array, input_constant, replace_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.measure.estimate import estimate_loss
from onnxslim_yolo.passes import PruneChannels, Reconstruct, SliceChannels
from onnxslim_yolo.pruning.calibration import collect
from onnxslim_yolo.pruning.calibration_images import HELD_OUT, CalibrationImages
from onnxslim_yolo.pruning.curves import Gauge, without
from onnxslim_yolo.pruning.head_error import HeadError, cell_errors, iou
from onnxslim_yolo.pruning.importance_variance import average, measured_variance
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.pruning.second_order import SecondOrder
from onnxslim_yolo.runtime.half import in_float32
from tests.numeric import build, run_onnx
from tests.passes.cutting import classes_of, onnx_text, remove_random, run

SIDE = 16
SHIFT = np.array([5, 0, 5, 0])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calib")
    rng = np.random.default_rng(0)
    for index in range(8):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def two_branches(kind: str = "float") -> Model:
    """`a` matters to the output a hundred times more than `b`; of a's channels 6 and 7 are sums of others."""
    rng = np.random.default_rng(1)
    first = rng.standard_normal((8, 3, 3, 3))
    first[6], first[7] = first[0] + first[1], first[2] - first[3]
    text = onnx_text(
        f"float[1,3,{SIDE},{SIDE}] x",
        "float[a,b,c,d] y",
        "float[8,3,3,3] a.weight, float[8,3,3,3] b.weight, float[4,8,1,1] p.weight, float[4,8,1,1] q.weight",
        "a = Conv<pads=[1,1,1,1]>(x, a.weight) b = Conv<pads=[1,1,1,1]>(x, b.weight) "
        "p = Conv(a, p.weight) q = Conv(b, q.weight) y = Add(p, q)",
    )
    return build(
        text.replace("float[", f"{kind}["), values={"a.weight": first, "q.weight": 0.01 * rng.standard_normal((4, 8))}
    )


def with_output(model: Model, name: str) -> Model:
    """A copy that gives this tensor out instead."""
    copy = model.copy()
    copy.graph.outputs = [t for node in copy.graph.nodes for t in node.outputs if t.name == name]
    return copy


def removed(model: Model, step: PruneChannels) -> dict[str, list[int]]:
    after = run(model, step)
    assert after.plan is not None
    return {name: np.flatnonzero(~after.plan.keep[classes_of(after, name)]).tolist() for name in "ab"}


@pytest.mark.parametrize("allocate", ["global", "curves"])
def test_what_matters_little_goes_first(allocate: str, images: Path) -> None:
    found = removed(two_branches(), PruneChannels(ratio=0.3, importance="output", allocate=allocate, calib=images))  # type: ignore[arg-type]
    assert len(found["b"]) >= 4 and not set(found["a"]) & {4, 5}
    # Control: by weights the two branches are alike.
    blind = removed(two_branches(), PruneChannels(ratio=0.3, importance="weight"))
    assert blind != found


def test_redundant_channels_go_before_others(images: Path) -> None:
    model = two_branches()
    step = PruneChannels(ratio=0.12, importance="output", calib=images, keep=("b",), per="none")
    assert set(removed(model, step)["a"]) <= {0, 1, 2, 3, 6, 7}


def test_variance_as_measured(images: Path) -> None:
    """Var(x_c)·‖W_c‖² over its sum, from the maps themselves."""
    model = two_branches()
    channels = open_plan(model).channels
    places = [place for place in contractions(channels) if place.taps is not None]
    inputs = CalibrationImages(images, model)
    found = measured_variance(channels, places, collect(model, places, inputs))
    conv = next(node for node in model.graph.nodes if node.inputs[1].name == "a.weight")
    network = with_output(model, conv.outputs[0].name)
    maps = np.concatenate([run_onnx(network, {"x": image})[conv.outputs[0].name] for image in inputs])
    values = np.moveaxis(maps, 1, 0).reshape(8, -1)
    reader = next(node for node in model.graph.nodes if node.inputs[1].name == "p.weight")
    share = values.var(axis=1) * (np.asarray(input_constant(reader, 1))[:, :, 0, 0] ** 2).sum(axis=0)
    assert found[classes_of(model, "a")] == pytest.approx(share / share.sum(), rel=1e-3)
    # The control: other readers weigh other channels.
    assert found[classes_of(model, "b")] != pytest.approx(share / share.sum(), rel=1e-1)


def test_the_mean_of_two_importances() -> None:
    fitted, variance = np.array([1.0, 8.0, 27.0, 0.0]), np.array([27.0, 1.0, 8.0, 2.0])
    assert average(fitted, variance) == pytest.approx([3.0, 4.0, 18.0, 0.0])
    assert average(np.array([-1e-17, 1.0]), np.array([1.0, -1e-17])).tolist() == [0.0, 0.0]
    # Units do not matter: the order stays.
    assert np.argsort(average(1e6 * fitted, 1e-3 * variance)).tolist() == [3, 0, 1, 2]


def test_curves_meet_a_share_of_macs(images: Path) -> None:
    model = two_branches()
    step = PruneChannels(macs=0.7, importance="weight", allocate="curves", calib=images)
    after = run(model, step, SliceChannels())
    assert 0.55 < cost_of(after.graph).macs / cost_of(model.graph).macs <= 0.7


def test_predicted_errors_are_those_that_are_measured(images: Path) -> None:
    model = two_branches()
    plan = open_plan(model)
    places = [place for place in contractions(plan.channels) if place.taps is not None]
    inputs = CalibrationImages(images, model)
    statistics = collect(model, places, inputs, window=False)
    predicted = SecondOrder.of(model, places, statistics, HeadError.of(model, inputs))
    gauge = Gauge.of(model, list(inputs), None)
    assert gauge.error(model) == 0
    for branch, other in ("ab", "ba"):
        order = classes_of(model, branch).tolist()
        for count, expected in zip((3, 6), predicted.errors(order, (3, 6)), strict=True):
            keep = np.ones(plan.channels.count, dtype=bool)
            keep[order[:count]] = False
            measured = gauge.error(without(model, places, statistics, keep, 1e-2))
            assert expected == pytest.approx(measured, rel=0.3)  # one random cotangent an image leaves some noise
        # The control: the other branch's channels matter another amount.
        assert predicted.errors(classes_of(model, other).tolist(), (6,))[0] != pytest.approx(measured, rel=0.9)


def test_a_ranking_is_measured_once(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = two_branches()
    PruneChannels(ratio=0.1, importance="output", calib=images).run(model)
    monkeypatch.setattr("onnxslim_yolo.passes.prune.rank", None)
    again = model.copy()
    PruneChannels(ratio=0.4, importance="output", calib=images).run(again)
    assert again.plan is not None and model.plan is not None and again.plan.removed > model.plan.removed


def test_macs_of_a_plan_are_those_of_the_sliced_graph() -> None:
    model = two_branches()
    for seed in range(3):
        trial = model.copy()
        plan = remove_random(trial, seed=seed)
        cost = PlanCost.of(trial.graph, plan.channels)
        assert cost.macs(np.ones(plan.channels.count, dtype=bool)) == pytest.approx(cost_of(trial.graph).macs)
        expected = cost.macs(plan.keep)
        single = int(np.flatnonzero(plan.keep & plan.channels.prunable)[0])
        fewer = plan.keep.copy()
        fewer[single] = False
        assert expected - cost.macs(fewer) == pytest.approx(cost.saved(plan.keep)[single])
        SliceChannels().run(trial)
        assert expected == pytest.approx(cost_of(trial.graph).macs)


def test_views_of_an_image(images: Path) -> None:
    model = two_branches()
    plain = CalibrationImages(images, model)
    seen = plain.seen(VIEWS)
    assert (len(plain), len(seen), views_for(28), views_for(500)) == (8, 8 * VIEWS, VIEWS, 1)
    np.testing.assert_array_equal(seen[VIEWS], plain[1])
    np.testing.assert_array_equal(seen[VIEWS + 1], plain[1][..., ::-1])
    for index in (2, 3):
        part = seen[index]
        assert part.shape == plain[0].shape and part.dtype == plain[0].dtype
        assert plain[0].min() <= part.min() and part.max() <= plain[0].max()
        np.testing.assert_array_equal(part, seen[index])  # the same every time
        assert np.abs(part - plain[0]).max() > 0.1
    # A cut-out of a ramp is a ramp, less steep.
    ramp = np.broadcast_to(np.arange(64.0), (1, 3, 64, 64)).astype(np.float32)
    steps = np.diff(view_of(ramp, 2)[0, 0, 0])
    assert 0.49 < np.median(steps) < 0.81 and np.ptp(steps[2:-2]) < 1e-3
    assert sum(1 for _ in seen) == len(seen)


def cells(boxes: Array, scores: list[float], classes: list[int]) -> Candidates:
    n = len(scores)
    return Candidates(np.asarray(boxes, float), np.array(scores), np.array(classes), np.zeros((n, 0)))


def test_cell_errors() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30.0]])
    source = cells(boxes, [0.9, 0.001], [1, 0])
    assert cell_errors(source, source)[0] == pytest.approx(0)
    assert cell_errors(source, source)[1] == pytest.approx(0.9)
    moved = cell_errors(source, cells(boxes + SHIFT, [0.9, 0.001], [1, 0]))[0]
    assert moved == pytest.approx(3 * 0.9 * (1 - 1 / 3))
    shy = cell_errors(source, cells(boxes, [0.5, 0.001], [1, 0]))[0]
    assert shy == pytest.approx(0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5))
    assert cell_errors(source, cells(boxes, [0.9, 0.001], [2, 0]))[0] > shy  # another class is worse
    assert cell_errors(source, cells(boxes, [0.9, 0.001], [1, 1]))[0] == pytest.approx(0)  # too faint to count
    np.testing.assert_allclose(iou(boxes, boxes + SHIFT), 1 / 3)


def test_head_error_of_any_network(images: Path) -> None:
    model = two_branches()
    head = HeadError.of(model, CalibrationImages(images, model))
    assert head.head is None and head.error(model) == 0
    spoiled = model.copy()
    node = next(n for n in spoiled.graph.nodes if n.inputs[1].name == "p.weight")
    weight = input_constant(node, 1)
    assert weight is not None
    replace_constant(node, 1, np.asarray(weight * 1.1))
    assert head.error(spoiled) == pytest.approx(0.01, rel=0.4)


def test_the_loss_is_estimated_on_images_held_out(images: Path) -> None:
    model = two_branches()
    fit, held = (CalibrationImages(images, model, part=part) for part in ("fit", "held-out"))  # type: ignore[arg-type]
    assert (len(fit), len(held)) == (8 - 8 // HELD_OUT, 8 // HELD_OUT) and held.splits
    exact = estimate_loss(model, model, held, held_out=True)
    assert exact is not None and exact.head_error == 0 and "held-out" in exact.sentence()
    worse = run(model, PruneChannels(ratio=0.6, importance="weight", keep=("b",)), SliceChannels())
    lossy = estimate_loss(model, worse, held, held_out=True)
    assert lossy is not None and lossy.head_error > 0.01
    assert open_plan(model).keep.all()


def test_compile_reconstructs_and_estimates(images: Path, tmp_path: Path) -> None:
    """The whole way: every check passes, and the loss is smaller than without images."""
    import onnxslim_yolo as oy

    path = two_branches().save(tmp_path / "two.onnx")
    lost = {}
    for compensate in ("constant", "reconstruct"):
        result = oy.compile(
            path, out=tmp_path / compensate, emit="onnx", prune=0.2, importance="weight", keep="b", snap="none",
            compensate=compensate, calib=images,
        )  # fmt: skip
        assert all(check["passed"] for check in result.report["verification"]["checks"])
        assert any("estimated loss on 1 held-out" in note for note in result.report["notes"])
        lost[compensate] = result.report["estimate"]["head_error"]
    assert lost["reconstruct"] < 0.8 * lost["constant"]


def test_options_that_need_images() -> None:
    import onnxslim_yolo as oy

    for option in ({"compensate": "reconstruct"}, {"importance": "output"}, {"allocate": "curves"}):
        with pytest.raises(UsageError, match="needs images"):
            oy.compile("x.onnx", **option)


@pytest.mark.parametrize("allocate", ["global", "curves"])
def test_a_half_network_is_ranked_as_its_float32_self_is(allocate: str, images: Path) -> None:
    half = two_branches("float16")
    prune = PruneChannels(ratio=0.4, importance="output", calib=images, allocate=allocate)  # type: ignore[arg-type]
    assert removed(half, prune) == removed(in_float32(half), prune) != {"a": [], "b": []}


def test_a_half_network_is_reconstructed_as_its_float32_self_is(images: Path) -> None:
    half, image = two_branches("float16"), np.random.default_rng(5).random((1, 3, SIDE, SIDE))
    cut = (PruneChannels(ratio=0.4, importance="weight"), SliceChannels())
    steps = (cut[0], Reconstruct(calib=images), cut[1])

    def answer(model: Model, *run_steps: PruneChannels | Reconstruct | SliceChannels) -> Array:
        after = run(model, *run_steps)
        return run_onnx(after, {"x": image.astype(after.graph.inputs[0].dtype)})["y"].astype(np.float64)

    ours, wanted = answer(half, *steps), answer(in_float32(half), *steps)
    assert np.abs(ours - wanted).max() < 0.2 * np.abs(answer(in_float32(half), *cut) - wanted).max()
