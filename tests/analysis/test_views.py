"""Views of calibration images: how many, mirrored, and magnified cut-outs."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.views import ENOUGH_IMAGES, VIEWS, view_of, views_for


@pytest.mark.parametrize(
    "images, views", [(0, 4), (1, 4), (28, 4), (37, 4), (38, 3), (55, 3), (56, 2), (111, 2), (112, 1), (1000, 1)]
)
def test_few_images_are_seen_more_often(images: int, views: int) -> None:
    assert (VIEWS, ENOUGH_IMAGES) == (4, 112)
    assert views_for(images) == views


def ramp(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Channel 0 counts rows, channel 1 columns."""
    return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))[None].astype(np.float32)


def test_the_first_two_are_the_image_and_its_mirror_image() -> None:
    image = ramp(4, 6)
    assert view_of(image, 0) is image
    assert np.array_equal(view_of(image, 1), image[..., ::-1]) and view_of(image, 1).flags.c_contiguous


@pytest.mark.parametrize("seed", range(4))
def test_a_cut_out_is_a_straight_piece_of_the_image(seed: int) -> None:
    image = ramp(40, 60)
    whole = view_of(image, 2, seed)
    assert whole.shape == image.shape and whole.dtype == np.float32
    shares = []
    for channel, axis, side in ((0, 0, 40), (1, 1, 60)):
        line = whole[0, channel].take(0, 1 - axis)
        assert np.allclose(whole[0, channel], line[:, None] if axis == 0 else line[None], atol=1e-4)
        assert 0 <= line.min() <= line.max() <= side - 1
        step = np.diff(line)[side // 4 : -side // 4]
        assert np.allclose(step, step[0], atol=1e-3)
        inner = round(float(step[0]) * side)
        assert 0.5 * side - 1 <= inner <= 0.8 * side
        # Pixel centres: the borders repeat, so that the cut-out's first and last pixel are the view's.
        assert line[0] == round(float(line[0])) and line[-1] - line[0] == pytest.approx(inner - 1, abs=1e-3)
        middle = line[0] + (np.arange(side) + 0.5) * inner / side - 0.5
        assert np.allclose(line, middle.clip(line[0], line[-1]), atol=1e-3)
        shares.append(inner / side)
    assert shares[0] == pytest.approx(shares[1], abs=0.03)


def test_another_seed_and_another_view_cut_out_otherwise() -> None:
    image = ramp(40, 60)
    assert np.array_equal(view_of(image, 2, 1), view_of(image, 2, 1))
    assert not np.array_equal(view_of(image, 2, 1), view_of(image, 2, 2))
    assert not np.array_equal(view_of(image, 2, 1), view_of(image, 3, 1)[..., ::-1])
    third = view_of(image, 3, 1)[0, 1, 0]
    assert third[0] > third[-1] and view_of(image, 2, 1)[0, 1, 0, 0] < view_of(image, 2, 1)[0, 1, 0, -1]


def test_the_smallest_image() -> None:
    assert view_of(np.full((1, 3, 1, 1), 7, np.float16), 2).tolist() == np.full((1, 3, 1, 1), 7).tolist()
