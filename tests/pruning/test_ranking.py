"""How channels are ranked: which views of which images are differentiated."""

from __future__ import annotations

import pytest

from onnxslim_yolo.pruning.ranking import in_turns


def test_one_view_of_each_image_in_turns() -> None:
    assert in_turns(5, 4, 3) == [0, 5, 10, 15, 16]


@pytest.mark.parametrize("images", [1, 2, 3, 8])
def test_few_images_are_differentiated_in_more_views(images: int) -> None:
    found = in_turns(images, 4, 6)
    assert len(set(found)) == len(found) == min(4, -(-6 // images)) * images
    assert max(found) < 4 * images
    seen = [found.count(index) for index in range(4 * images)]
    by_image = [sum(seen[4 * image : 4 * image + 4]) for image in range(images)]
    assert max(by_image) == min(by_image)
