"""Which images calibration sees, how a network is fed them, and what is kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.input_format import INPUT_KEY, InputFormat
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning import calibration_images
from onnxslim_yolo.pruning.calibration_images import CalibrationImages, evenly, input_size
from onnxslim_yolo.runtime import images as reading
from tests.numeric import build
from tests.passes.cutting import onnx_text


def network(shape: str = "1,3,16,16", kind: str = "float") -> Model:
    return build(onnx_text(f"{kind}[{shape}] x", f"{kind}[{shape}] y", "float[1] unread", "y = Identity(x)", 17))


def write(folder: Path, pixels: Sequence[Array]) -> Path:
    folder.mkdir()
    for index, each in enumerate(pixels):
        Image.fromarray(each.astype(np.uint8)).save(folder / f"{index:02}.png")
    return folder


def grey(value: float) -> Array:
    return np.full((16, 16, 3), value)


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one colour each: the n-th is n."""
    return write(tmp_path_factory.mktemp("images") / "i", [grey(n) for n in range(20)])


def numbers(images: CalibrationImages) -> list[int]:
    return [round(float(image[0, 0, 0, 0]) * 255) for image in images]


def test_every_eighth_is_held_out_of_eight_or_more(twenty: Path, tmp_path: Path) -> None:
    model = network()
    assert numbers(CalibrationImages(twenty, model)) == list(range(20))
    assert numbers(CalibrationImages(twenty, model, part="held-out")) == [7, 15]
    assert numbers(CalibrationImages(twenty, model, part="fit")) == [n for n in range(20) if n not in (7, 15)]
    for count, held in ((7, list(range(7))), (8, [7])):
        few = write(tmp_path / str(count), [grey(n) for n in range(count)])
        images = CalibrationImages(few, model, part="held-out")
        assert numbers(images) == held and images.splits == (count == 8)


@pytest.mark.parametrize("limit, seen", [(0, 20), (1, 1), (5, 5), (19, 19), (20, 20), (30, 20)])
def test_at_most_so_many_evenly_picked(limit: int, seen: int, twenty: Path) -> None:
    found = numbers(CalibrationImages(twenty, network(), limit))
    assert len(found) == seen and found == [n * 20 // seen for n in range(seen)]


def test_evenly() -> None:
    assert (evenly(3, 10), evenly(5, 3), evenly(0, 4)) == ([0, 3, 6], [0, 1, 2], [])


@pytest.mark.parametrize("shape, batch", [("1,3,16,16", 1), ("2,3,16,16", 2), ("n,3,16,16", 1), ("0,3,16,16", 1)])
def test_a_batch_is_one_image_as_often_as_it_is_wanted(shape: str, batch: int, twenty: Path) -> None:
    image = CalibrationImages(twenty, network(shape))[9]
    assert image.shape == (batch, 3, 16, 16) and image.dtype == np.float32
    assert image == pytest.approx(9 / 255)


def test_pixels_are_fed_as_the_network_takes_them(tmp_path: Path) -> None:
    colours = np.broadcast_to(np.array([10, 20, 30]), (16, 16, 3))
    folder = write(tmp_path / "c", [colours])
    model = network(kind="float16")
    assert CalibrationImages(folder, model)[0].dtype == np.float16
    model.metadata[INPUT_KEY] = str(InputFormat((1.0,), (2.0,), bgr=True))
    assert CalibrationImages(folder, model)[0][0, :, 5, 5].tolist() == [14.5, 9.5, 4.5]


def test_channels_may_lie_last(tmp_path: Path) -> None:
    """A graph that holds its own preprocessing, as other tools take pictures: (b, h, w, 3), bytes."""
    picture = np.arange(12 * 16 * 3).reshape(12, 16, 3) % 251
    body = "f = Cast<to=1>(x) y = ReduceMean<axes=[1,2,3], keepdims=0>(f)"
    model = build(onnx_text("uint8[2,12,16,3] x", "float[2] y", "float[1] unread", body))
    model.metadata[INPUT_KEY] = str(InputFormat(std=(1.0,)))
    fed = CalibrationImages(write(tmp_path / "p", [picture]), model)[0]
    assert fed.dtype == np.uint8 and fed.flags.c_contiguous
    assert np.array_equal(fed, np.stack([picture, picture]))


def test_views_follow_their_image(twenty: Path) -> None:
    images = CalibrationImages(twenty, network(), views=3)
    assert len(images) == 60 and numbers(images) == [n for n in range(20) for _ in range(3)]
    assert len(images.seen(2)) == 40 and len(images) == 60
    for index in (-1, 60):
        with pytest.raises(IndexError):
            images[index]


def test_images_are_read_once_as_long_as_they_fit(twenty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = reading.load_canvas

    def counting(path: Path, size: tuple[int, int]) -> object:
        read.append(path.stem)
        return load(path, size)

    monkeypatch.setattr(reading, "load_canvas", counting)
    monkeypatch.setattr(calibration_images, "KEPT_BYTES", 2 * 16 * 16 * 3)
    images = CalibrationImages(twenty, network(), 3)
    for _ in range(2):
        list(images)
    assert read == ["00", "06", "13", "13"]


def test_what_shows_nothing(tmp_path: Path) -> None:
    def halves(low: float, high: float) -> Array:
        return np.concatenate([grey(low)[:8], grey(high)[8:]])

    one_channel = grey(50)
    one_channel[:8, :, 2] = 60
    pixels = [grey(0), halves(100, 101), halves(100, 102), grey(114), grey(200)[:, :8], one_channel]
    images = CalibrationImages(write(tmp_path / "b", pixels), network(), views=2)
    assert [images.is_blank(index) for index in range(0, 12, 2)] == [True, True, False, True, True, False]
    assert [images.is_blank(index) for index in range(1, 12, 2)] == [True, True, False, True, True, False]


@pytest.mark.parametrize("shape", ["3,16,16", "1,1,16,16", "1,3,h,16", "1,3,16,0"])
def test_what_takes_no_image_is_refused_with_its_inputs(shape: str) -> None:
    with pytest.raises(UnsupportedError, match=r"needs one image of fixed size.*the model has x"):
        input_size(network(shape))


def test_two_inputs_are_refused() -> None:
    text = onnx_text("float[1,3,8,16] x, float[1,3,8,16] z", "float[1,3,8,16] y", "float[1] unread", "y = Add(x, z)")
    with pytest.raises(UnsupportedError, match=r"the model has x .*, z "):
        input_size(build(text))
    assert input_size(network("1,3,8,16")) == (8, 16)
