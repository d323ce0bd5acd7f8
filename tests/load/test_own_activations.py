"""Activations of a repository's own under torch's names: taken for torch's where a published repository has them so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch  # noqa: TID253
from torch import nn  # noqa: TID253

import onnxslim_yolo as oy
from onnxslim_yolo.errors import InputError, VerificationError
from onnxslim_yolo.load.trace_checkpoint import trace_checkpoint
from onnxslim_yolo.models import BLOCKS, Block, register_block
from tests.load.forks import Conv, distance, model_of, save
from tests.load.test_reference import OPTIONS, exported

EXACT = 1e-5
Function = Callable[[torch.Tensor], torch.Tensor]


def own(home: str, name: str, function: Function) -> nn.Module:
    """An activation of this name from this module."""
    cls = type(name, (nn.Module,), {"forward": lambda _, x: function(x), "HOME": home})
    return cls()


def fork(act: nn.Module) -> nn.Module:
    return model_of(Conv(16, 16, 3, act=act))


def swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


PUBLISHED = {
    "utils.activations.SiLU": swish,
    "utils.activations.Hardswish": lambda x: x * nn.functional.hardtanh(x + 3, 0.0, 6.0) / 6.0,
    "utils.activations.MemoryEfficientMish": lambda x: x * torch.tanh(nn.functional.softplus(x)),
    "models.common.SiLU": swish,
    "yolox.models.network_blocks.SiLU": swish,
    "yolov6.layers.common.SiLU": swish,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_published_repositories_define_again_is_read_and_said(name: str, tmp_path: Path) -> None:
    home, _, short = name.rpartition(".")
    model = fork(own(home, short, PUBLISHED[name]))
    path = save(tmp_path / "m.pt", model)
    assert distance(path, model) < EXACT
    _, notes = trace_checkpoint(path, imgsz=(64, 64))
    assert any(f"{name} (at 'model.3.act') is taken for torch.nn's" in note for note in notes)


@pytest.mark.parametrize(
    "name", ["mymodels.act.SiLU", "models.custom.Mish", "act.Hardswish", "utils.activations2.Swish", "lab.ReLU"]
)
def test_what_is_the_authors_own_is_refused_by_name(name: str, tmp_path: Path) -> None:
    home, _, short = name.rpartition(".")
    path = save(tmp_path / "m.pt", fork(own(home, short, torch.relu)))
    with pytest.raises(InputError, match=rf"{name} \(at ") as caught:
        trace_checkpoint(path, imgsz=(64, 64))
    assert caught.value.exit_status == 2 and caught.value.hint
    assert "register_block" in caught.value.hint


def test_the_authors_export_decides(tmp_path: Path) -> None:
    same = fork(own("mymodels.act", "SiLU", swish))
    result = oy.compile(
        save(tmp_path / "m.pt", same),
        out=tmp_path / "slim",
        reference=exported(tmp_path / "m.onnx", same),
        **OPTIONS,
    )
    assert any("mymodels.act.SiLU" in note and "is taken for" in note for note in result.report["notes"])
    other = fork(own("mymodels.act", "SiLU", torch.relu))
    with pytest.raises(VerificationError, match="does not compute what"):
        oy.compile(
            save(tmp_path / "n.pt", other),
            out=tmp_path / "none",
            reference=exported(tmp_path / "n.onnx", other),
            **OPTIONS,
        )


def test_a_registered_class_goes_first(tmp_path: Path) -> None:
    class SiLU(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x)

    model = fork(own("mymodels.act", "SiLU", torch.relu))
    path = save(tmp_path / "m.pt", model)
    register_block("SiLU")(SiLU)
    try:
        assert distance(path, model) < EXACT
    finally:
        del BLOCKS["SiLU"]
