"""Sparsity training: formulas checked by hand, exact zeros under Adam, and what happens without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402, TID253

from onnxslim_yolo.errors import UsageError  # noqa: E402
from onnxslim_yolo.training.sparsity import GammaSparsity, coupled_channels, ultralytics_callbacks  # noqa: E402


class Half(nn.Module):
    """Ten channels, of which only the first three carry the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(10, 10, 1, groups=10, bias=False)
        self.bn = nn.BatchNorm2d(10)
        self.out = nn.Conv2d(10, 1, 1)

    def forward(self, x: Any) -> Any:
        return self.out(self.bn(self.conv(x)))


def train(rate: float, steps: int = 300, **options: Any) -> Any:
    torch.manual_seed(0)
    model = Half()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sparsity = GammaSparsity(model, optimizer, rate, **options) if rate else None
    for step in range(steps):
        if sparsity is not None:
            sparsity.set_epoch(step // 30, 8)
        x = torch.randn(16, 10, 4, 4)
        optimizer.zero_grad()
        (model(x) - x[:, :3].sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
    return model, sparsity


def test_prox_zeroes_exactly_what_is_useless_under_adam() -> None:
    model, sparsity = train(0.5)
    gamma = model.bn.weight.detach()
    assert (gamma[3:] == 0).all()
    assert (gamma[:3].abs() > 0.1).all()
    assert sparsity.history[-1].zero == pytest.approx(0.7)
    assert sum(sparsity.history[-1].counts) == sparsity.history[-1].count == 10
    assert "exactly 0: 70.0%" in str(sparsity.history[-1])


def test_without_it_nothing_becomes_zero() -> None:
    gamma = train(0.0)[0].bn.weight.detach()
    assert (gamma != 0).all()
    assert gamma.abs().mean() > 0.2


def test_subgradient_under_adam_leaves_nothing_exactly_zero() -> None:
    assert (train(1e-3, mode="subgrad")[0].bn.weight != 0).all()


def test_the_proximal_step_is_the_soft_threshold() -> None:
    model = Half()
    start = torch.linspace(-1, 1, 10)
    model.bn.weight.data = start.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    GammaSparsity(model, optimizer, 0.8)
    optimizer.step()  # no gradients: only the hook acts
    want = start.sign() * (start.abs() - 0.4).clamp(min=0)
    torch.testing.assert_close(model.bn.weight.detach(), want, rtol=0, atol=1e-6)


def test_the_rate_follows_the_optimizer_even_after_resuming() -> None:
    model = Half()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    GammaSparsity(model, optimizer, 1.0)
    optimizer.load_state_dict(optimizer.state_dict())  # which replaces the groups
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.step()
    torch.testing.assert_close(model.bn.weight.detach(), torch.full((10,), 0.75))


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1.0), (5, 0.55), (9, 0.19)])
def test_the_subgradient_is_the_published_one(epoch: int, factor: float) -> None:
    model = Half()
    model.bn.weight.data = torch.linspace(-1, 1, 10)
    model.bn.bias.data = torch.linspace(1, -1, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsity = GammaSparsity(model, optimizer, 1e-2, mode="subgrad", bias_mult=10)
    sparsity.set_epoch(epoch, 10)
    model(torch.randn(2, 10, 4, 4)).sum().backward()
    gamma, beta = model.bn.weight.grad.clone(), model.bn.bias.grad.clone()
    optimizer.step()
    torch.testing.assert_close(model.bn.weight.grad, gamma + 1e-2 * factor * model.bn.weight.sign())
    torch.testing.assert_close(model.bn.bias.grad, beta + 1e-1 * model.bn.bias.sign())


def test_zeros_are_held_while_the_network_settles() -> None:
    model = Half()
    model.bn.weight.data[:5] = 0
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    sparsity = GammaSparsity(model, optimizer, 1.0)
    sparsity.set_epoch(4, 4)
    for _ in range(5):
        model(torch.randn(4, 10, 4, 4)).square().mean().backward()
        optimizer.step()
    assert (model.bn.weight[:5] == 0).all()
    assert (model.bn.weight[5:] != 0).all()
    sparsity.remove()
    optimizer.step()
    assert (model.bn.weight[:5] != 0).any()  # the control: nothing holds them now


def test_bias_follows_a_dead_channel_only() -> None:
    model = Half()
    model.bn.weight.data[:5] = 0.05
    model.bn.bias.data[:] = 0.5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    GammaSparsity(model, optimizer, 1.0, bias_mult=3)
    optimizer.step()
    torch.testing.assert_close(model.bn.bias.detach(), torch.tensor([0.2] * 5 + [0.5] * 5))


def test_coupled_channels_reach_zero_together() -> None:
    model = nn.ModuleDict({"a": nn.BatchNorm2d(2), "b": nn.BatchNorm2d(2)})
    model["a"].weight.data = torch.tensor([0.01, 1.0])
    model["b"].weight.data = torch.tensor([0.3, 0.1])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    coupling = {"a": np.array([7, 9]), "b": np.array([7, -1])}
    GammaSparsity(model, optimizer, 0.25, coupling=coupling)
    optimizer.step()
    assert model["a"].weight[0] == model["b"].weight[0] == 0
    assert model["a"].weight[1].item() == pytest.approx(0.75)
    assert model["b"].weight[1] == 0  # on its own


def test_target_pushes_what_matters_least() -> None:
    """Not the smallest γ: those whose zeroing changes the loss least; and a resumed run remembers it."""
    model = Half()
    model.bn.weight.data = torch.linspace(0.1, 1.0, 10)
    model.conv.weight.data.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    sparsity = GammaSparsity(model, optimizer, 0.5, target=0.4)
    sparsity.set_epoch(5, 10)
    matters = torch.tensor([1.0] * 6 + [1e-4] * 4).view(1, 10, 1, 1)
    images = torch.randn(4, 10, 4, 4, generator=torch.Generator().manual_seed(0)) + 1

    def pushed() -> list[bool]:
        before = model.bn.weight.detach().clone()
        optimizer.step()
        return ((model.bn.weight.detach() - before) < -4e-4).tolist()

    model.eval()
    (model.bn(model.conv(images)) * matters).mean().backward()
    optimizer.param_groups[0]["lr"], lr = 0.0, 1e-3
    optimizer.step()  # the effects are noted, nothing moves
    model.zero_grad()
    optimizer.param_groups[0]["lr"] = lr
    assert pushed() == [False] * 6 + [True] * 4
    again = GammaSparsity(model, torch.optim.SGD(model.parameters(), lr=lr), 0.5, target=0.4)
    again.load_state_dict(sparsity.state_dict())
    assert again.state_dict()["effects"] is not None


def test_target_pushes_the_smallest_share_only() -> None:
    """Where no gradients tell what matters."""
    model = Half()
    model.bn.weight.data = torch.linspace(0.1, 1.0, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsity = GammaSparsity(model, optimizer, 0.5, target=0.4)
    sparsity.set_epoch(5, 10)
    optimizer.step()
    moved = (model.bn.weight.detach() - torch.linspace(0.1, 1.0, 10)).abs() > 1e-6
    assert moved.tolist() == [True] * 4 + [False] * 6


def test_coupling_is_the_compilers() -> None:
    from onnxslim_yolo.models.zoo.architectures import build

    model = build("yolov5n", nc=2, width=0.25)
    coupling = coupled_channels(model, torch.zeros(1, 3, 64, 64))
    norms = {name for name, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)}
    assert set(coupling) == norms
    # the shortcut of the first C3 ties its first convolution to its bottleneck's last
    assert coupling["model.2.cv1.bn"].tolist() == coupling["model.2.m.0.cv2.bn"].tolist()
    assert not set(coupling["model.2.cv1.bn"].tolist()) & set(coupling["model.2.cv2.bn"].tolist())


def test_no_residual_leaves_shortcuts_alone() -> None:
    from onnxslim_yolo.models.zoo.architectures import build

    model = build("yolov5n", nc=2, width=0.25)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    names = GammaSparsity(model, optimizer, 1.0, scope="no-residual").names
    assert "model.2.m.0.cv1.bn" not in names
    assert {"model.2.cv1.bn", "model.13.m.0.cv1.bn"} <= set(names)
    assert GammaSparsity(model, optimizer, 1.0, scope=["model.0.bn"]).names == ("model.0.bn",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "l2"}, "neither"),
        ({"rate": -1.0}, "negative"),
        ({"target": 1.0}, "not in"),
        ({"mode": "subgrad", "target": 0.5}, "belong to mode prox"),
        ({"scope": ["nope"]}, "no BatchNorm is called 'nope'"),
        ({"coupling": {"bn": np.zeros(3)}}, "has 10 channels"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    model = Half()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UsageError, match=message):
        GammaSparsity(model, optimizer, **{"rate": 1.0, **options})


def test_another_models_optimizer_is_refused() -> None:
    with pytest.raises(UsageError, match="no parameter of this optimizer"):
        GammaSparsity(Half(), torch.optim.SGD(Half().parameters(), lr=0.1), 1.0)
    with pytest.raises(UsageError, match="no BatchNorm"):
        GammaSparsity(nn.Conv2d(1, 1, 1), torch.optim.SGD(Half().parameters(), lr=0.1), 1.0)


def test_callbacks_drive_a_trainer() -> None:
    class Yolo:
        def __init__(self) -> None:
            self.events: dict[str, Any] = {}

        def add_callback(self, event: str, function: Any) -> None:
            self.events[event] = function

    class Ema:
        ema = Half()

    class Trainer:
        model = Half()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        ema, epoch, epochs = Ema(), 0, 10

    yolo = Yolo()
    running = ultralytics_callbacks(yolo, 2.0, settle=0.5)
    assert running() is None
    yolo.events["on_train_start"](Trainer)
    yolo.events["on_train_epoch_start"](Trainer)
    Trainer.optimizer.step()
    yolo.events["on_train_epoch_end"](Trainer)
    assert (Trainer.ema.ema.bn.weight == 0).all()
    assert len(running().history) == 1
