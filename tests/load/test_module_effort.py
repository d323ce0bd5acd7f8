"""A checkpoint's module is held to the limits of an ONNX file's graph before torch computes anything of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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


class Calls(nn.Module):
    """A layer, and what its code does by itself with what that gives."""

    def __init__(self, code: Callable[[Any], Any]) -> None:
        super().__init__()
        self.conv, self.code = nn.Conv2d(3, 8, 1), code

    def forward(self, x: Any) -> Any:
        return self.code(self.conv(x))


def attention(x: Any) -> Any:
    flat = x.flatten(2)
    return (flat.transpose(1, 2) @ flat).softmax(-1).sum()


CALLS: dict[str, Callable[[Any], Any]] = {
    "attention": attention,
    "einsum": lambda x: torch.einsum("b c n, b c m -> b n m", x.flatten(2), x.flatten(2)).sum(),
    "an outer product": lambda x: (x.flatten(2).unsqueeze(3) * x.flatten(2).unsqueeze(2)).sum(),
    "interpolate": lambda x: nn.functional.interpolate(x, scale_factor=64).mean(),
    "pad": lambda x: nn.functional.pad(x, (9000,) * 4).mean(),
    "repeat": lambda x: x.repeat(1, 1, 100, 100).mean(),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_what_a_modules_code_calls_by_itself_counts(name: str) -> None:
    module = Calls(CALLS[name])
    with pytest.raises(InputError, match="at once") as refused:
        check_sizes(module, (1, 3, 512, 512))
    assert "--limit-memory" in str(refused.value.hint) and "(" in str(refused.value.node)
    check_sizes(module, (1, 3, 512, 512), Asked(math.inf, math.inf))  # the control: it would run


def test_products_of_maps_are_work_and_views_take_nothing() -> None:
    module = Calls(lambda x: attention(nn.functional.max_pool2d(x, 16)))
    with pytest.raises(InputError, match="multiply-adds"):  # 1024 places, eight numbers each, with one another
        check_sizes(module, (1, 3, 512, 512), Asked(math.inf, 8 * 1024**2 // 2))
    check_sizes(Calls(lambda x: x.expand(4096, 8, 512, 512)[0].sum()), (1, 3, 512, 512))
