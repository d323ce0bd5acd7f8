"""Letterbox: against hand-computed placements, an independent resize, and OpenCV where it is installed."""

import numpy as np
import pytest
from PIL import Image

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.runtime.images import (
    PAD_VALUE,
    Letterbox,
    letterbox,
    list_images,
    load_input,
    read_image,
    resize_bilinear,
    to_input,
)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Straight from the definition, in float64: pixel centres at +½, edges repeated."""

    def axis(values: np.ndarray, target: int) -> np.ndarray:
        source = len(values)
        position = (np.arange(target) + 0.5) * source / target - 0.5
        first = np.floor(position).astype(int)
        weight = (position - first).reshape(-1, *[1] * (values.ndim - 1))
        near, far = first.clip(0, source - 1), (first + 1).clip(0, source - 1)
        return values[near] * (1 - weight) + values[far] * weight

    wide = axis(image.astype(np.float64).transpose(1, 0, 2), size[1]).transpose(1, 0, 2)
    return axis(wide, size[0])


@pytest.mark.parametrize("size", [(31, 40), (64, 64), (200, 17), (1, 1), (480, 640)])
def test_resize_is_bilinear_within_one_level(size: tuple[int, int]) -> None:
    image = photo(48, 64)
    error = np.abs(resize_bilinear(image, size) - bilinear(image, size))
    assert error.max() < 1.01
    # Control: half a pixel of misalignment is seen.
    assert np.abs(resize_bilinear(np.roll(image, 1, axis=1), size) - bilinear(image, size)).max() > 20


@pytest.mark.peer
def test_resize_against_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    for height, width, size in ((480, 640, (264, 352)), (375, 500, (480, 640)), (97, 61, (203, 128))):
        image = photo(height, width)
        theirs = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR).astype(int)
        error = np.abs(resize_bilinear(image, size).astype(int) - theirs)
        assert error.max() <= 1 and (error > 0).mean() < 0.01


@pytest.mark.parametrize(
    ("source", "size", "expected"),
    [
        ((480, 640), (640, 640), Letterbox(1.0, 0, 80, (480, 640))),
        ((427, 640), (640, 640), Letterbox(1.0, 0, 106, (427, 640))),  # 213 rows of grey: 106 above, 107 below
        ((640, 427), (640, 640), Letterbox(1.0, 106, 0, (640, 427))),
        ((240, 320), (640, 640), Letterbox(2.0, 0, 80, (240, 320))),
        ((480, 640), (320, 416), Letterbox(0.65, 0, 4, (480, 640))),
        ((100, 100), (64, 64), Letterbox(0.64, 0, 0, (100, 100))),
    ],
)
def test_placement(source: tuple[int, int], size: tuple[int, int], expected: Letterbox) -> None:
    canvas, placement = letterbox(photo(*source), size)
    assert placement == expected
    assert canvas.shape == (*size, 3)
    height, width = round(source[0] * placement.scale), round(source[1] * placement.scale)
    grey = np.ones(size, bool)
    grey[placement.top : placement.top + height, placement.left : placement.left + width] = False
    assert (canvas[grey] == PAD_VALUE).all()
    assert not (canvas[~grey] == PAD_VALUE).all()


def test_boxes_come_back() -> None:
    placement = letterbox(photo(375, 500), (640, 640))[1]
    boxes = np.array([[0, 0, 500, 375], [10.5, 20, 300, 200.25]])
    np.testing.assert_allclose(placement.undo(placement.apply(boxes)), boxes, atol=1e-9)
    outside = placement.undo(placement.apply(np.array([[-50.0, -50, 900, 900]])))
    np.testing.assert_allclose(outside, [[0, 0, 500, 375]])


def test_input_is_rgb_nchw_in_unit_range() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 1] = (255, 51, 0)
    array = to_input(image)
    assert array.shape == (1, 3, 2, 3) and array.dtype == np.float32 and array.flags.c_contiguous
    np.testing.assert_array_equal(array[0, :, 0, 1], np.array([1, 0.2, 0], np.float32))


def test_kinds_of_files(tmp_path) -> None:
    colour = photo(8, 6)
    Image.fromarray(colour).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack((colour, photo(8, 6, 1)[:, :, :1]))).save(tmp_path / "rgba.png")
    Image.fromarray(colour[:, :, 0]).save(tmp_path / "grey.png")
    Image.fromarray(colour[:, :, 0].astype(np.uint16) * 256 + 3).save(tmp_path / "deep.png")
    turned = Image.fromarray(colour)
    exif = turned.getexif()
    exif[0x0112] = 6  # turned by 90°
    turned.save(tmp_path / "turned.png", exif=exif)
    grey = np.repeat(colour[:, :, :1], 3, axis=2)
    for name, expected in (("rgb", colour), ("rgba", colour), ("grey", grey), ("deep", grey)):
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), expected)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(colour, -1))
    array, placement = load_input(tmp_path / "rgb.png", (32, 32))
    assert array.shape == (1, 3, 32, 32) and placement.scale == 4


@pytest.mark.parametrize(
    "content", [None, b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40), b"\xff\xd8\xff\xe0" + bytes(9)]
)
def test_broken_images_are_named(tmp_path, content: bytes | None) -> None:
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.jpg"):
        read_image(path)


def test_lists(tmp_path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.jpg", "sub/c.bmp"):
        Image.fromarray(photo(4, 4)).save(tmp_path / name)
    (tmp_path / "notes.md").write_text("x")
    assert [p.name for p in list_images(tmp_path)] == ["a.jpg", "b.png", "c.bmp"]
    (tmp_path / "list.txt").write_text("# chosen\nb.png\n\n./sub/c.bmp\n")
    assert [p.name for p in list_images(tmp_path / "list.txt")] == ["b.png", "c.bmp"]
    assert list_images(tmp_path / "b.png") == (tmp_path / "b.png",)
    (tmp_path / "bad.txt").write_text("gone.png\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "void").mkdir()
    for name in ("bad.txt", "empty.txt", "binary.txt", "void", "nothing"):
        with pytest.raises(InputError, match=name):
            list_images(tmp_path / name)
