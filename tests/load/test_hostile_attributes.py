"""A whole detector's checkpoint with one attribute that makes no sense: refused, or read as if it were not there."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from forks import Bottleneck, distance, model_of, save  # noqa: E402

from onnxslim_yolo.errors import OnnxSlimError  # noqa: E402

nn = torch.nn


def itself(kind: type) -> object:
    value = kind()
    value.append(value) if kind is list else value.update(a=value)
    return value


def nest(kind: type, depth: int = 200) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


VALUES: dict[str, Callable[[], object]] = {
    "5000 digits": lambda: 10**5000,
    "2⁶²": lambda: 2**62,
    "-1": lambda: -1,
    "nan": lambda: math.nan,
    "infinite": lambda: math.inf,
    "text": lambda: "3",
    "control": lambda: "a\n\x1b[31m",
    "bytes": lambda: b"\xff" * 10,
    "complex": lambda: 1j,
    "a list in itself": lambda: itself(list),
    "a dict in itself": lambda: itself(dict),
    "lists in lists": lambda: nest(list),
    "dicts in dicts": lambda: nest(dict),
    "odd keys": lambda: {(1, 2): 3},
    "no elements": lambda: torch.zeros(0),
    "huge elements": lambda: torch.tensor([2**62]),
    "bools": lambda: torch.tensor([True]),
    "half nan": lambda: torch.tensor([math.nan], dtype=torch.float16),
    "complex elements": lambda: torch.zeros(2, dtype=torch.complex64),
    "a wrong shape": lambda: torch.zeros(3, 3, 3),
    "a long list": lambda: list(range(100_000)),
}
PLACES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "head": lambda model: model.model[-1],
    "conv": lambda model: model.model[0].conv,
    "norm": lambda model: model.model[0].bn,
    "layer": lambda model: model.model[1],
    "model": lambda model: model,
}
ATTRIBUTES = {
    "head": ("nc", "no", "na", "stride", "anchors", "f"),
    "conv": ("stride", "padding", "dilation", "groups", "kernel_size", "padding_mode"),
    "norm": ("eps", "momentum", "num_features", "running_mean"),
    "layer": ("i", "f", "bogus"),
    "model": ("names", "yaml", "save", "stride", "nc"),
}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return model_of(Bottleneck(16))


def put(part: nn.Module, name: str, value: object) -> None:
    (part._buffers if name in part._buffers else part.__dict__)[name] = value  # type: ignore[assignment]


def outcome(path: Path, model: nn.Module) -> float | None:
    """How far the rebuilt one is from the model; None where it was refused as it should."""
    start = time.process_time()
    try:
        return distance(path, model)
    except OnnxSlimError as error:
        assert error.exit_status == 2 and len(str(error)) < 2000 and "\x1b" not in str(error), str(error)
        return None
    finally:
        assert time.process_time() - start < 20, "seconds, of a hang"


@pytest.mark.parametrize(
    ("place", "name", "turn"),
    [(place, name, turn) for place in PLACES for turn, name in enumerate(ATTRIBUTES[place])],
)
def test_refused_or_as_if_it_were_not_there(place: str, name: str, turn: int, model: nn.Module, tmp_path: Path) -> None:
    """Every second value, in turn: all of them at every place."""
    for what, value in list(VALUES.items())[turn % 2 :: 2]:
        changed = copy.deepcopy(model)
        put(PLACES[place](changed), name, value())
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(20_000)  # what pickles a nest
        try:
            path = save(tmp_path / "m.pt", changed)
        finally:
            sys.setrecursionlimit(limit)
        far = outcome(path, model)
        assert far is None or far < 1e-3, (what, far)


def test_numbers_of_numpy_are_numbers(model: nn.Module, tmp_path: Path) -> None:
    """The controls: an unchanged model is read; so is an eps of numpy's, as what it is and not as the default."""
    assert outcome(save(tmp_path / "m.pt", model), model) < 1e-3
    changed = copy.deepcopy(model)
    put(changed.model[0].bn, "eps", np.float64(0.5))
    assert outcome(save(tmp_path / "e.pt", changed), model) > 0.1
    assert outcome(save(tmp_path / "e.pt", changed), changed) < 1e-3
