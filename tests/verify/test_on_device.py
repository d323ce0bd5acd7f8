"""What a pair computes on a board, judged: a detection is held to its own candidate where NMS keeps another."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.verify.on_device import compare_there

HEAD = HeadSpec(kind="v5", nc=1)
SOURCE = np.array(
    [[9, 9, 8, 8, 1e-9, 1], [50, 50, 40, 40, 0.50, 1], [58, 50, 40, 40, 0.49, 1], [200, 200, 30, 30, 0.9, 1]],
    np.float32,
)
"""Nothing, two candidates of one object, nearly as good as each other (IoU 0.67), and another object."""


def there(board: np.ndarray) -> tuple[str, int, int, float, float]:
    found = compare_there([[SOURCE[None]]], [[board[None]]], ["output0"], HEAD)
    return found.state, found.kept, found.swapped, round(found.iou, 3), round(found.score, 3)


def moved(row: int, by: list[float]) -> np.ndarray:
    """With a row moved, and of the scores what half precision holds."""
    board = SOURCE.copy()
    board[:, 4] = board[:, 4].astype(np.float16)
    board[row] += np.array(by, np.float32)
    return board


def test_where_nms_keeps_another_candidate_the_own_one_is_looked_at() -> None:
    board = moved(1, [0.2, 0, 0, 0, -0.02, 0])
    assert there(board) == ("the same", 2, 1, 0.99, 0.02)
    found = compare_there([[SOURCE[None]]], [[board[None]]], ["output0"], HEAD)
    assert "2 of 2 detections kept (1 by another candidate in NMS), IoU ≥ 0.99" in found.sentence
    assert found.as_json()["swapped"] == 1
    assert there(SOURCE) == ("the same", 2, 0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("board", "iou"),
    [
        (moved(1, [16, 0, 0, 0, -0.02, 0]), 0.667),  # what NMS keeps is nearer than the own candidate: a wrong one
        (moved(3, [4, 4, 0, 0, 0, 0]), 0.601),  # no other candidate
    ],
)
def test_a_candidate_that_is_wrong_is_not_hidden(board: np.ndarray, iou: float) -> None:
    assert there(board)[0] == "off" and there(board)[3] == iou


def test_a_candidate_of_another_class_or_score_counts_for_nothing() -> None:
    assert there(moved(1, [0, 0, 0, 0, -0.3, 0]))[2:4] == (0, 0.667)


def test_ranked_rows_have_no_place_of_their_own() -> None:
    head = HeadSpec(kind="end2end", nc=1)
    rows = np.array([[30, 30, 70, 70, 0.5, 0], [200, 200, 230, 230, 0.9, 0]], np.float32)
    board = rows + np.array([[8, 0, 8, 0, 0, 0], [0] * 6], np.float32)
    found = compare_there([[rows[None]]], [[board[None]]], ["output0"], head)
    assert (found.state, found.swapped, round(found.iou, 3)) == ("off", 0, 0.667)
