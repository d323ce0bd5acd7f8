"""Parts that a checkpoint's instances have otherwise than ours: no activation, another normalisation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch  # noqa: TID253
from torch import nn  # noqa: TID253

from onnxslim_yolo.load.trace_checkpoint import trace_checkpoint
from tests.load.forks import Detect, Model, distance, save, vary
from tests.load.test_account import EXACT, refusal
from tests.load.test_account import RepVGGBlock as Branches

Forward = Callable[[nn.Module, torch.Tensor], torch.Tensor]


def conv(change: Callable[[nn.Module], None], forward: Forward) -> type[nn.Module]:
    """A fork's Conv: conv, bn, act, then changed."""

    def init(self, c1, c2, s=1):
        nn.Module.__init__(self)
        self.conv, self.bn, self.act = nn.Conv2d(c1, c2, 3, s, 1, bias=False), nn.BatchNorm2d(c2), nn.SiLU()
        change(self)

    return type("Conv", (nn.Module,), {"__init__": init, "forward": forward})


def model_of(cls: type[nn.Module]) -> nn.Module:
    return vary(Model([cls(3, 8, 2), cls(8, 16, 2), cls(16, 16, 2), Detect(16)]))


def usual(self, x):
    return self.act(self.bn(self.conv(x)))


def bare(self, x):
    return torch.relu(self.bn(self.conv(x)))


def without_act(self):
    del self.act


def test_a_conv_that_holds_no_activation_is_refused(tmp_path: Path) -> None:
    text = refusal(save(tmp_path / "m.pt", model_of(conv(without_act, bare))))
    assert "models.common.Conv holds no activation" in text and "model.0" in text


def test_one_that_says_so_has_none(tmp_path: Path) -> None:
    def change(self):
        del self.act
        self.activation_type = None

    model = model_of(conv(change, lambda self, x: self.bn(self.conv(x))))
    assert distance(save(tmp_path / "m.pt", model), model) < EXACT


def test_branches_without_an_activation_are_refused(tmp_path: Path) -> None:
    block = Branches(nn.ReLU())
    del block.nonlinearity
    plain = conv(lambda self: None, usual)
    whole = Model([plain(3, 16, 2), plain(16, 16, 2), plain(16, 16, 2), block, Detect(16)])
    assert "RepVGGBlock holds no activation" in refusal(save(tmp_path / "m.pt", whole))


NORMS = {
    "without γ and β": lambda c: nn.BatchNorm2d(c, affine=False),
    "groups": lambda c: nn.GroupNorm(4, c),
    "a large ε": lambda c: nn.BatchNorm2d(c, eps=0.1),
}


@pytest.mark.parametrize("kind", NORMS)
def test_another_normalisation_is_the_checkpoints_own(kind: str, tmp_path: Path) -> None:
    def change(self):
        self.bn = NORMS[kind](self.conv.out_channels)

    model = Model([cls(*size) for cls in [conv(change, usual)] for size in ((3, 8, 2), (8, 16, 2), (16, 16, 2))])
    model = Model([*model.model, Detect(16)]).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.2, 0.2)
            part.running_var.uniform_(0.5, 1.5)
    path = save(tmp_path / "m.pt", model)
    assert distance(path, model) < EXACT
    assert not trace_checkpoint(path, imgsz=(64, 64))[1]  # neither fused nor idle
