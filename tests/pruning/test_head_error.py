"""How far outputs are from the source's: the error of cells by hand, of plain outputs, and which images count."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.heads.decode import Candidates
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.pruning.head_error import (
    BOX_WEIGHT,
    FAINTEST,
    LEAST,
    HeadError,
    cell_errors,
    iou,
    relative_error,
    run_images,
)
from tests.numeric import build
from tests.passes.cutting import onnx_text

BOX = np.array([[2.0, 4.0, 12.0, 10.0]])


def cells(scores: list[float], classes: list[int] | None = None, boxes: Array | None = None) -> Candidates:
    count = len(scores)
    placed = np.repeat(BOX, count, axis=0) if boxes is None else boxes
    return Candidates(placed, np.array(scores), np.array(classes or [0] * count), np.zeros((count, 0)))


def divergence(p: float, q: float) -> float:
    return float(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


@pytest.mark.parametrize(
    "other, shared",
    [
        ([2.0, 4.0, 12.0, 10.0], 1.0),
        ([7.0, 4.0, 17.0, 10.0], 30 / 90),
        ([2.0, 7.0, 12.0, 13.0], 30 / 90),
        ([5.0, 5.0, 7.0, 9.0], 8 / 60),
        ([12.0, 4.0, 22.0, 10.0], 0.0),
        ([20.0, 20.0, 30.0, 30.0], 0.0),
        ([0.0, 12.0, 30.0, 14.0], 0.0),
        ([5.0, 5.0, 5.0, 9.0], 0.0),
        ([7.0, 9.0, 5.0, 5.0], 0.0),
    ],
)
def test_shares_of_boxes(other: list[float], shared: float) -> None:
    assert iou(BOX, np.array([other])) == pytest.approx([shared])
    assert iou(np.array([other]), BOX) == pytest.approx([shared])
    assert iou(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [0.0]
    assert iou(BOX / 20, np.array([other]) / 20) == pytest.approx([shared]), "of less than a pixel, too"


def test_boxes_without_an_end() -> None:
    endless, none = np.array([[-np.inf, 0.0, np.inf, np.inf]]), np.array([[np.nan, 0.0, 1.0, 1.0]])
    assert iou(endless, endless) == pytest.approx([1.0]) and iou(endless, BOX) == pytest.approx([0.0])
    assert iou(none, none).tolist() == iou(none, BOX).tolist() == [0.0]


def test_lost_confidence() -> None:
    for p, q in ((0.9, 0.4), (0.4, 0.9), (0.005, 0.3)):
        lost, there = cell_errors(cells([p]), cells([q]))
        assert lost == pytest.approx(divergence(p, q)) and there == (p if p > FAINTEST else 0.0)
    assert cell_errors(cells([1.0]), cells([0.0]))[0] == pytest.approx(divergence(1 - LEAST, LEAST))
    assert cell_errors(cells([0.5, 0.9]), cells([0.5, 0.4])) == pytest.approx((divergence(0.9, 0.4), 1.4))


def test_too_faint_to_count() -> None:
    assert cell_errors(cells([FAINTEST]), cells([0.0])) == (0.0, 0.0)
    assert cell_errors(cells([FAINTEST + 1e-6]), cells([0.0]))[0] > 0


def test_another_class_is_a_miss_and_a_false_alarm() -> None:
    p, q = 0.8, 0.6
    lost, _ = cell_errors(cells([p], [1]), cells([q], [2]))
    assert lost == pytest.approx(divergence(p, q / 2) - np.log(1 - q))
    lost, _ = cell_errors(cells([p], [1]), cells([0.0], [2]))
    assert lost == pytest.approx(divergence(p, LEAST) - np.log(1 - LEAST))


def test_lost_overlap_counts_by_the_surer_of_both() -> None:
    moved = BOX + np.array([5.0, 0.0, 5.0, 0.0])
    for p, q in ((0.7, 0.7), (0.3, 0.7), (0.7, 0.3)):
        lost, _ = cell_errors(cells([p]), cells([q], boxes=moved))
        assert lost == pytest.approx(divergence(p, q) + BOX_WEIGHT * 0.7 * (1 - 1 / 3))
    nowhere = cell_errors(cells([0.7]), cells([0.7], boxes=np.full((1, 4), np.nan)))[0]
    assert nowhere == pytest.approx(BOX_WEIGHT * 0.7)


def test_other_cells_are_no_answer_to_these() -> None:
    with pytest.raises(InputError, match="2 cells, expected 1"):
        cell_errors(cells([0.5]), cells([0.5, 0.5]))


def test_of_plain_outputs_the_squares_over_the_spread() -> None:
    expected = np.array([1.0, 3.0, 5.0])
    assert relative_error(expected, expected + np.array([0.0, 2.0, 0.0])) == pytest.approx(4 / 8)
    assert relative_error(np.ones(2), np.array([1.0, 1.5])) == pytest.approx(0.25 / 1e-12)
    one, two = [[expected], [expected]], [[expected + 1], [expected]]
    assert HeadError([expected] * 2, None, one, []).error_of(two) == pytest.approx(3 / 8 / 2)


HEAD = HeadSpec("v8", 2)


def test_outputs_that_are_no_numbers_or_large_ones() -> None:
    expected = np.array([1.0, 3.0, 5.0, np.nan, np.inf], np.float32)
    found = np.array([1.0, np.nan, 5.0, 7.0, 2.0], np.float32)
    assert relative_error(expected, expected) == relative_error(np.full(3, np.nan), np.ones(3)) == 0
    assert relative_error(expected, found) == pytest.approx(0)  # the mean, by chance
    assert relative_error(expected, np.full(5, np.nan, np.float32)) == pytest.approx(1)
    large = np.array([1e30, -1e30, 0.0], np.float32)  # whose square no float32 holds
    assert relative_error(large, large * np.float32(1.5)) == pytest.approx(0.25)


def output(*scores: float) -> Array:
    """(1, 4 + classes, cells): one box, and the first class's scores."""
    found = np.zeros((1, 6, len(scores)), np.float32)
    found[0, :4] = np.array([8.0, 8.0, 4.0, 4.0])[:, None]
    found[0, 4] = scores
    return found


def measure(*outputs: Array) -> HeadError:
    from onnxslim_yolo.pruning.head_error import _decode

    source = [[one] for one in outputs]
    return HeadError([np.zeros(n) for n in range(len(outputs))], HEAD, source, [_decode(one, HEAD) for one in source])


def test_the_mean_is_over_what_the_source_sees_in_all_images() -> None:
    head = measure(output(0.9, 0.6), output(0.8))
    found = head.error_of([[output(0.5, 0.6)], [output(0.8)]])
    assert found == pytest.approx(divergence(0.9, 0.5) / (0.9 + 0.6 + 0.8), rel=1e-4)
    faint = measure(output(0.2))  # fewer than one in sum are no reason to divide by less than one
    assert faint.error_of([[output(0.1)]]) == pytest.approx(divergence(0.2, 0.1), rel=1e-4)
    nothing = np.full_like(output(0.2), np.nan)
    assert faint.error_of([[nothing]]) > divergence(0.2, LEAST) - 1e-6


def test_scores_far_below_zero_are_cells_all_the_same() -> None:
    """As of a head whose scores go through no sigmoid behind what is added to them."""
    low = output(0.9, -3.0)
    low[0, 5] = -4.0
    assert measure(low).error_of([[low]]) == pytest.approx(0)
    assert measure(output(0.9, 0.8)).error_of([[low]]) > 1


def test_what_is_seen_and_how_surely() -> None:
    head = measure(output(0.0), output(0.3), output(FAINTEST / 2), output(0.02))
    assert head.seen == [1, 3]
    assert [head.detects(at) for at in (0.29, 0.3, 0.31)] == [True, np.float32(0.3) >= 0.3, False]
    assert HeadError([], None, [], []).detects(1.0)
    assert HeadError([np.zeros(1)] * 2, None, [[], []], []).seen == [0, 1]
    assert head.undecoded().seen == [0, 1, 2, 3] and head.undecoded().outputs is head.outputs


def test_some_of_the_images_that_show_something() -> None:
    head = measure(output(0.5), output(0.0), output(0.6), output(0.7))
    few = head.subset(2)
    assert [len(one) for one in few.inputs] == [0, 2]
    assert few.outputs == [head.outputs[0], head.outputs[2]] and few.cells == [head.cells[0], head.cells[2]]
    assert [len(one) for one in measure(output(0.0), output(0.0)).subset(5).inputs] == [0, 1]
    plain = HeadError([np.zeros(n) for n in range(4)], None, [[np.zeros(n)] for n in range(4)], []).subset(2)
    assert [len(one) for one in plain.inputs] == [0, 2] and plain.cells == []


@pytest.mark.parametrize("kind", ["float", "float16"])
def test_images_are_run_in_the_networks_type_and_come_out_in_single(kind: str) -> None:
    text = onnx_text(
        f"{kind}[1,3,4,4] x", f"{kind}[1,3,4,4] y, {kind}[1,3,4,4] z", "float[1] u", "y = Neg(x) z = Relu(y)"
    )
    image = np.full((1, 3, 4, 4), -0.5, np.float32)
    ((y, z),) = run_images(build(text), [image])
    assert (y.dtype, z.dtype) == (np.float32, np.float32) and (y == 0.5).all() and (z == 0.5).all()


def test_no_image_is_refused() -> None:
    with pytest.raises(InputError, match="no calibration image"):
        HeadError.of(build(onnx_text("float[1,3,4,4] x", "float[1,3,4,4] y", "float[1] u", "y = Neg(x)")), [])


def test_rows_that_are_not_as_many_are_lost() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert relative_error(rows, rows[:2]) == 1.0
    assert relative_error(rows, rows) == relative_error(rows[:0], rows[:0]) == 0.0
