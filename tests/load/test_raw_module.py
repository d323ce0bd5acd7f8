"""What an Ultralytics checkpoint says of its attentions, read without running it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402, TID253

from onnxslim_yolo.load.raw_module import read_raw_module, told_widths  # noqa: E402


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    theirs = ModuleType("ultralytics.nn.tasks")
    for name in ("ultralytics", "ultralytics.nn", theirs.__name__):
        monkeypatch.setitem(sys.modules, name, theirs if name == theirs.__name__ else ModuleType(name))
    for name in ("DetectionModel", "Attention"):
        setattr(theirs, name, type(name, (nn.Module,), {"__module__": theirs.__name__}))
    model, plain, telling = theirs.DetectionModel(), theirs.Attention(), theirs.Attention()
    plain.num_heads, telling.num_heads, telling.all_head_dim = 2, 4, 128
    model.yaml = {"nc": 1, "backbone": [], "head": []}
    model.model = nn.Sequential(plain, nn.Sequential(telling, nn.Conv2d(3, 4, 1)))
    torch.save({"model": model}, tmp_path / "best.pt")
    return tmp_path / "best.pt"


def test_heads_and_told_widths(checkpoint: Path) -> None:
    raw = read_raw_module(checkpoint)
    assert raw.heads == {"model.0": 2, "model.1.0": 4}
    assert list(raw.tensors) == ["model.1.1.weight", "model.1.1.bias"]
    assert told_widths(checkpoint) == {"model.1.0"}


def test_tensors_alone_tell_no_widths(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "state.pt")
    assert told_widths(tmp_path / "state.pt") == frozenset()
