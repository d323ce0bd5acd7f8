"""Outputs are compared column by column, in what moves them: a mistake in one column shows, whatever is beside it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.verify.columns import meanings
from onnxslim_yolo.verify.compare import TOLERANCE, compare, unseen, worst_of
from onnxslim_yolo.verify.ruler import noise_between, rulers_of

V5, V8 = HeadSpec("v5", 3), HeadSpec("v8", 3)


def table(rows: int = 200, seed: int = 0, batch: int = 1) -> np.ndarray:
    """Boxes around a grid in pixels, an objectness that hardly fires, three classes: (b, rows, 8)."""
    rng = np.random.default_rng(seed)
    grid = np.linspace(0, 640, rows)[:, None]
    boxes = np.broadcast_to(np.concatenate((grid, grid[::-1], grid * 0 + 30, grid * 0 + 40), axis=1), (batch, rows, 4))
    scores = 1 / (1 + np.exp(-rng.normal(-6, 1, (batch, rows, 4))))
    return np.concatenate((boxes + rng.normal(0, 2, (batch, rows, 4)), scores), axis=2).astype(np.float32)


def judged(values: list[np.ndarray], others: list[np.ndarray], head: HeadSpec | None = None, scores: bool = True):
    runs = [{"y": value} for value in values]
    mask = np.zeros(values[0].shape, dtype=bool)
    mask[..., 4:] = True
    rulers = rulers_of(runs, meanings(runs, head, {"y": mask} if scores else None))
    return compare(runs, [{"y": other} for other in others], rulers=rulers)


RUNS = [table(seed=seed) for seed in range(3)]

MUTATIONS = {
    "zero": lambda t, c: np.where(np.arange(8) == c, 0, t).astype(np.float32),
    "swap": lambda t, c: t[..., [*range(c), (c + 1) % 8 if c < 7 else 6, *range(c + 1, 8)]],
    "1 %": lambda t, c: np.where(np.arange(8) == c, t + 0.01 * (t - t.mean()), t).astype(np.float32),
}


@pytest.mark.parametrize("column", range(8))
@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("scores", [True, False], ids=["logits shown", "no logits"])
def test_one_spoiled_column_is_noticed(column: int, mutation: str, scores: bool) -> None:
    (found,) = judged(RUNS, [MUTATIONS[mutation](t, column) for t in RUNS], V5, scores)
    assert found.worst > 2 * TOLERANCE
    assert found.column == ("cx", "cy", "w", "h", "objectness", "class 0", "class 1", "class 2")[column]


def test_rounding_is_not() -> None:
    again = [(t.astype(np.float64) * (1 + 3e-7)).astype(np.float32) for t in RUNS]
    assert worst_of(judged(RUNS, again, V5)) < TOLERANCE
    # Control: a thousand times that is.
    assert worst_of(judged(RUNS, [t * np.float32(1 + 3e-4) for t in RUNS], V5)) > TOLERANCE


def test_absolute_rounding_of_small_probabilities_is_not() -> None:
    again = [np.where(np.arange(8) > 3, t + np.float32(2e-7), t).astype(np.float32) for t in RUNS]
    assert worst_of(judged(RUNS, again, V5)) < TOLERANCE


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_the_axis_of_columns(turned: bool, known: bool) -> None:
    runs = [{"y": np.swapaxes(t, 1, 2) if turned else t} for t in RUNS]
    head = None if not known else V8 if turned else V5
    runs = [{"y": r["y"][:, :7] if known and turned else r["y"]} for r in runs]
    assert meanings(runs, head)["y"].axis == (1 if turned else 2)


def test_scores_elsewhere_than_the_head_has_them_refute_it() -> None:
    """NanoDet's class scores in front of its distances make a table of YOLOv5's shape."""
    runs = [{"y": t} for t in RUNS]
    mask = np.zeros(RUNS[0].shape, dtype=bool)
    mask[..., :4] = True
    meaning = meanings(runs, V5, {"y": mask})["y"]
    assert meaning.axis == 2 and meaning.name(4) == "column 4" and meaning.scores.tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((5,), None),
        ((1, 6), 1),
        ((1, 6, 4, 4), 1),
        ((2, 3, 4, 5, 7), 4),
        ((3, 50, 7), 2),
        ((), None),
        ((1, 1, 1), None),
    ],
)
def test_outputs_of_any_rank(shape: tuple[int, ...], axis: int | None) -> None:
    rng = np.random.default_rng(0)
    size = 10.0 ** np.arange(7) if shape and shape[-1] == 7 else 1.0
    values = [np.asarray(rng.normal(0, 1, shape) * size, np.float32) for _ in range(3)]
    runs = [{"y": v} for v in values]
    assert meanings(runs)["y"].axis == axis
    assert worst_of(compare(runs, runs)) == 0
    assert worst_of(compare(runs, [{"y": np.asarray(v * 1.02, np.float32)} for v in values])) > TOLERANCE


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.bool_])
def test_outputs_of_integers(kind: type) -> None:
    values = [((np.random.default_rng(k).random((1, 9)) * 9).astype(np.int64) % 4).astype(kind) for k in range(2)]
    runs = [{"y": v} for v in values]
    assert worst_of(compare(runs, runs)) == 0
    other = [{"y": np.roll(v, 1, axis=1)} for v in values]
    assert worst_of(compare(runs, other)) > TOLERANCE


def test_batches_are_not_columns() -> None:
    values = [table(seed=seed, batch=4) for seed in range(2)]
    (found,) = judged(values, values, V5)
    assert found.columns == 8 and found.worst == 0


def test_what_no_input_moves_is_blind_and_still_has_to_agree() -> None:
    still = [np.where(np.arange(8) == 4, np.float32(1), t).astype(np.float32) for t in RUNS]
    (found,) = judged(still, still, V5)
    assert found.blind == ("objectness",) and found.worst == 0
    assert any("objectness" in line for line in unseen([found]))
    (off,) = judged(still, [np.where(np.arange(8) == 4, np.float32(0.99), t).astype(np.float32) for t in still], V5)
    assert off.worst > TOLERANCE and off.column == "objectness"


def test_scores_that_never_fire_are_named() -> None:
    (found,) = judged(RUNS, RUNS, V5)
    assert found.silent == ("objectness", "class 0…2")
    fired = [*RUNS, np.where(np.arange(8) == 6, np.float32(0.9), RUNS[0]).astype(np.float32)]
    assert judged(fired, fired, V5)[0].silent == ("objectness", "class 0", "class 2")


def test_a_floor_above_a_hundredth_of_the_movement_is_dim() -> None:
    runs = [{"y": t} for t in RUNS]
    meaning = meanings(runs, V5)
    rulers = rulers_of(runs, meaning)
    shaken = [{"y": t * np.float32(1.0001)} for t in RUNS]
    noisy = rulers_of(runs, meaning, noise_between(runs, shaken, rulers))["y"]
    assert noisy.dim[:2].all() and not noisy.blind.any()
    (found,) = compare(runs, shaken, rulers={"y": noisy})
    assert found.worst <= TOLERANCE, "never below the noise just measured"


def test_one_column_that_rounding_spared_does_not_make_still_columns_exact() -> None:
    """A network that is cut to death yields the same whatever it sees: rounding is all that is left of it."""
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(1, 50)).astype(np.float32)
    runs = [{"y": plain}] * 2
    jitter = np.where(np.arange(50) % 4 == 0, 0, 1e-6 * rng.uniform(0.5, 1, 50)).astype(np.float32)
    rulers = rulers_of(
        runs, meanings(runs), noise_between(runs, [{"y": plain + jitter}], rulers_of(runs, meanings(runs)))
    )
    other = [{"y": plain + np.roll(jitter, 1)}] * 2
    assert worst_of(compare(runs, other, rulers=rulers)) <= TOLERANCE
    assert worst_of(compare(runs, [{"y": plain + 100 * jitter}] * 2, rulers=rulers)) > TOLERANCE


def test_an_axis_whose_size_depends_on_the_input_has_no_columns() -> None:
    rng = np.random.default_rng(0)
    rows = [{"y": rng.normal(size=(3, n)).astype(np.float32)} for n in (5, 9, 0)]
    assert meanings(rows)["y"].axis is None
    tables = [{"y": rng.normal(size=(1, n, 6)).astype(np.float32)} for n in (5, 9)]
    assert meanings(tables)["y"].axis == 2
    assert rulers_of(rows, meanings(rows))["y"].movement.shape == (1,)
