"""What Resize samples and what SAME pads, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.ops.spatial import nearest_pixel, same_pads, sampled_at


@pytest.mark.parametrize(
    ("transform", "before", "after", "wanted"),
    [
        ("asymmetric", 2, 4, [0, 0.5, 1, 1.5]),
        ("half_pixel", 2, 4, [-0.25, 0.25, 0.75, 1.25]),
        ("pytorch_half_pixel", 2, 4, [-0.25, 0.25, 0.75, 1.25]),
        ("pytorch_half_pixel", 4, 1, [0]),
        ("half_pixel", 4, 1, [1.5]),
        ("align_corners", 4, 3, [0, 1.5, 3]),
        ("align_corners", 4, 1, [0]),
        ("tf_crop_and_resize", 4, 2, None),
    ],
)
def test_where_a_resize_samples(transform: str, before: int, after: int, wanted: list[float] | None) -> None:
    found = sampled_at(transform, before, after, after / before)
    assert (found is None) if wanted is None else (found is not None and found.tolist() == wanted)


def test_single_precision_decides_where_a_pixel_is_whole() -> None:
    single, double = (sampled_at("asymmetric", 14, 16, 16 / 14, kind) for kind in (np.float32, np.float64))
    assert single is not None and double is not None
    assert (nearest_pixel("floor", single, 14)[8], nearest_pixel("floor", double, 14)[8]) == (6, 7)


@pytest.mark.parametrize(
    ("rounding", "wanted"),
    [
        ("floor", [0, 0, 1, 2]),
        ("ceil", [0, 1, 2, 2]),
        ("round_prefer_floor", [0, 0, 1, 2]),
        ("round_prefer_ceil", [0, 1, 2, 2]),
    ],
)
def test_the_nearest_pixel(rounding: str, wanted: list[int]) -> None:
    assert nearest_pixel(rounding, np.array([-0.75, 0.5, 1.5, 2.5]), 3).tolist() == wanted


@pytest.mark.parametrize(
    ("size", "extent", "stride", "wanted"), [(8, 3, 2, (0, 1)), (7, 3, 2, (1, 1)), (5, 4, 1, (1, 2)), (8, 1, 2, (0, 0))]
)
def test_what_same_pads(size: int, extent: int, stride: int, wanted: tuple[int, int]) -> None:
    assert same_pads("SAME_UPPER", size, extent, stride) == wanted
    assert same_pads("SAME_LOWER", size, extent, stride) == wanted[::-1]
