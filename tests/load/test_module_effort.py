"""A checkpoint's module is held to the limits of an ONNX file's graph before torch computes anything of it."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from onnxslim_yolo.analysis.limits import Asked  # noqa: E402
from onnxslim_yolo.errors import InputError  # noqa: E402
from onnxslim_yolo.load.dry_run import check_sizes  # noqa: E402

nn = torch.nn

BOMBS = {
    "a wide pooling": (nn.MaxPool2d(1999, 1, 999), "work"),
    "an average over all": (nn.AvgPool2d(1999, 1, 999), "work"),
    "pooling again and again": (nn.Sequential(*(nn.MaxPool2d(255, 1, 127) for _ in range(30))), "work"),
    "a wide convolution": (nn.Conv2d(3, 64, 65, padding=32), "work"),
    "a transposed one": (nn.ConvTranspose2d(3, 64, 65, padding=32), "work"),
    "an upsampling": (nn.Upsample(scale_factor=8), "memory"),
    "padding": (nn.ZeroPad2d(4000), "memory"),
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_bombs_are_refused_on_shapes_alone(name: str) -> None:
    part, what = BOMBS[name]
    module = nn.Sequential(nn.Conv2d(3, 3, 1), part)
    with pytest.raises(InputError) as refused:
        check_sizes(module, (1, 3, 1024, 1024))
    assert f"--limit-{what}" in str(refused.value.hint) and str(refused.value.node).startswith("1")
    check_sizes(module, (1, 3, 1024, 1024), Asked(math.inf, math.inf))  # the control: it would run


def test_a_detector_is_not_refused_and_a_limit_of_the_users_holds() -> None:
    layers = [nn.Sequential(nn.Conv2d(c, 2 * c, 3, 2, 1), nn.BatchNorm2d(2 * c), nn.SiLU()) for c in (16, 32, 64, 128)]
    module = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), *layers, nn.MaxPool2d(5, 1, 2), nn.Conv2d(256, 255, 1))
    check_sizes(module, (1, 3, 1280, 1280))
    for asked, what in ((Asked(memory=1e6), "at once"), (Asked(work=1e6), "multiply-adds")):
        with pytest.raises(InputError, match=what):
            check_sizes(module, (1, 3, 640, 640), asked)
