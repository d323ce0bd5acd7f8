"""Images as they come: every kind that is meant, other formats refused unopened, sizes limited before decoding."""

from __future__ import annotations

import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.runtime import images
from onnxslim_yolo.runtime.images import Letterbox, load_canvas, load_input, read_image
from tests.passes.test_calibrated import two_branches
from tests.verify.test_images import photo

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def png_of(width: int, height: int, rows: int = 0) -> bytes:
    """A black PNG of any size: its pixels are a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(1 + width)) for _ in range(rows or height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def grey(colour: Array) -> Array:
    return np.repeat(colour[:, :, :1], 3, axis=2)


def test_every_kind_that_is_meant(tmp_path: Path) -> None:
    colour = photo(9, 7)
    image = Image.fromarray(colour)
    alpha = Image.fromarray(np.dstack((colour, photo(9, 7, 1)[:, :, :1])))
    levels = Image.fromarray(colour[:, :, 0])
    deep = Image.fromarray(colour[:, :, 0].astype(np.uint16) * 256 + 7)
    cases: dict[str, tuple[Image.Image, dict[str, object], Array]] = {
        "rgb.bmp": (image, {}, colour),
        "rgb.tif": (image, {"compression": "tiff_lzw"}, colour),
        "rgb.webp": (image, {"lossless": True}, colour),
        "alpha.webp": (alpha, {"lossless": True, "exact": True}, colour),
        "alpha.png": (alpha, {}, colour),
        "grey.png": (levels, {}, grey(colour)),
        "grey-alpha.png": (levels.convert("LA"), {}, grey(colour)),
        "deep.png": (deep, {}, grey(colour)),
        "deep.tif": (deep, {}, grey(colour)),
        "palette.png": (levels.convert("P"), {}, grey(colour)),
        "bits.png": (levels.point(lambda v: 255 * (v > 99)).convert("1"), {}, 255 * (grey(colour) > 99)),
        "ink.tif": (image.convert("CMYK"), {}, colour),
        "moving.png": (image, {"save_all": True, "append_images": [alpha.convert("RGB")]}, colour),
        "moving.webp": (image, {"save_all": True, "append_images": [levels.convert("RGB")], "lossless": True}, colour),
        "pages.tif": (image, {"save_all": True, "append_images": [levels.convert("RGB")]}, colour),
        "dot.png": (image.crop((0, 0, 1, 1)), {}, colour[:1, :1]),
    }
    for name, (pixels, options, expected) in cases.items():
        pixels.save(tmp_path / name, **options)  # type: ignore[arg-type]
        np.testing.assert_array_equal(read_image(tmp_path / name), expected, err_msg=name)
        array, _ = load_input(tmp_path / name, (32, 32))
        assert array.shape == (1, 3, 32, 32) and np.isfinite(array).all(), name


@pytest.mark.parametrize("kind", ["EPS", "GIF", "PPM", "ICO", "TGA", "PCX"])
def test_other_formats_are_not_opened(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: object, **options: object) -> None:
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", start)
    path = tmp_path / "a.png"
    if kind == "EPS":
        path.write_bytes(EPS)
    else:
        Image.fromarray(photo(16, 16)).save(path, format=kind)
    with pytest.raises(InputError, match=r"a\.png.*no image of a known format \(BMP, JPEG") as caught:
        read_image(path)
    assert caught.value.exit_status == 2
    if kind == "EPS":  # the control: opened by Pillow alone, it does start something
        monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
        monkeypatch.setattr(subprocess, "check_call", start)
        with pytest.raises(AssertionError, match="started"), Image.open(path) as image:
            image.load()


@pytest.mark.parametrize(("width", "height"), [(13_300, 13_300), (170_000_000, 1), (1, 170_000_000), (70_000, 1_000)])
def test_huge_images_are_refused_by_their_header(width: int, height: int, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_of(width, height, rows=2 if width < 1_000_000 else 1)[:4_000])
    with pytest.raises(InputError, match=r"huge\.png: is too large an image: .* million pixels; at most 67"):
        load_input(path, (64, 64))


@pytest.mark.parametrize(("width", "height"), [(300_000, 1), (1, 300_000), (1, 1), (3, 1)])
def test_thin_images_become_thin_lines(width: int, height: int, tmp_path: Path) -> None:
    path = tmp_path / "line.png"
    path.write_bytes(png_of(width, height))
    canvas, placement = load_canvas(path, (64, 48))
    assert canvas.shape == (64, 48, 3) and placement.source == (height, width)
    assert (canvas == 0).any()


@pytest.mark.parametrize("turned", [False, True])
def test_huge_jpegs_are_decoded_as_far_as_needed(turned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 640)[None, :, None], (480, 640, 3)).astype(np.uint8)
    image = Image.fromarray(ramp)
    exif = image.getexif()
    exif[0x0112] = 6 if turned else 1
    path = tmp_path / "photo.jpg"
    image.save(path, exif=exif, quality=95)
    whole, there = load_canvas(path, (64, 96))
    monkeypatch.setattr(images, "EXACT_PIXELS", 1000)
    monkeypatch.setattr(images, "MAX_PIXELS", 640 * 480 // 3)  # what is decoded is less
    smaller, here = load_canvas(path, (64, 96))
    assert here == there and isinstance(here, Letterbox)
    assert here.source == ((640, 480) if turned else (480, 640))
    assert 0 < np.abs(smaller.astype(int) - whole).max() < 12
    with pytest.raises(InputError, match="too large"):  # as a whole it would be more
        read_image(path)


def test_samples_of_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match=r"float\.tif.*32 bits"):
        read_image(tmp_path / "float.tif")


def test_scans_of_a_progressive_jpeg_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scans.jpg"
    Image.fromarray(photo(64, 64)).save(path, progressive=True)
    assert read_image(path).shape == (64, 64, 3)
    monkeypatch.setattr(images, "MAX_SCANNED", 64 * 64 * 3)
    with pytest.raises(InputError, match="scans"):
        read_image(path)


def test_calibration_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        Image.fromarray(photo(20, 30, index)).save(tmp_path / f"{index}.png")
    found = CalibrationImages(tmp_path, two_branches())
    first = list(found)
    monkeypatch.setattr(images, "load_canvas", None)
    for before, after in zip(first, found, strict=True):
        np.testing.assert_array_equal(before, after)
