"""A module of somebody else's code is narrowed in place: it runs, and what it computes is what was planned."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402, TID253

from onnxslim_yolo.errors import InputError  # noqa: E402
from onnxslim_yolo.training.module_widths import heads_left, narrow  # noqa: E402
from onnxslim_yolo.training.slim_child import followers, guarded, masked, unguarded  # noqa: E402


class Layer(nn.Module):
    def __init__(self, c1: int, c2: int, g: int = 1) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(c1, c2, 1, groups=g, bias=False), nn.BatchNorm2d(c2)

    def forward(self, x: Any) -> Any:
        return self.bn(self.conv(x))


class Halved(nn.Module):
    """Cuts what `cv1` gives in halves of `c`."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.cv1, self.m, self.cv2 = 4, Layer(3, 8), Layer(4, 4), Layer(12, 5)

    def forward(self, x: Any) -> Any:
        a, b = self.cv1(x).split((self.c, self.c), 1)
        return self.cv2(torch.cat((a, b, self.m(b)), 1))


class Heads(nn.Module):
    """Attention whose scale is a number of its own (`kept`), or is made of `head_dim` where it is used."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 2, 4
        if kept:
            self.key_dim, self.scale = 4, 0.5
        self.qkv, self.pe, self.proj = Layer(8, 24), Layer(8, 8, 8), Layer(8, 8)

    def forward(self, x: Any) -> Any:
        b, _, h, w = x.shape
        keys = getattr(self, "key_dim", self.head_dim)
        split = (keys, keys, self.head_dim)
        q, k, v = self.qkv(x).view(b, self.num_heads, sum(split), h * w).split(split, 2)
        weights = ((q * getattr(self, "scale", self.head_dim**-0.5)).transpose(-2, -1) @ k).softmax(-1)
        y = (v @ weights.transpose(-2, -1)).view(b, -1, h, w)
        return self.proj(y + self.pe(v.reshape(b, -1, h, w)))


def calibrated(module: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data = torch.rand(part.weight.shape, generator=random) + 0.5
            part.bias.data = torch.rand(part.bias.shape, generator=random) - 0.5
    return module.eval()


def cut(module: nn.Module, keep: dict[str, dict[int, list[int]]]) -> dict[str, Any]:
    state = dict(module.state_dict())
    for path, axes in keep.items():
        for name in [name for name in state if name.rpartition(".")[0] == path and state[name].ndim]:
            for axis, kept in axes.items():
                if axis < state[name].ndim:
                    state[name] = state[name].index_select(axis, torch.tensor(kept))
    return state


def check(module: nn.Module, keep: dict[str, dict[int, list[int]]], x: Any) -> nn.Module:
    """Narrow a copy; what it computes is what the module computes with removed channels masked."""
    cuts = {path: {str(axis): kept for axis, kept in axes.items()} for path, axes in keep.items()}
    slim = copy.deepcopy(module)
    narrow(slim, cut(module, keep))
    with torch.no_grad():
        expected, got = masked(module, cuts)(x), slim(x)
        assert (expected - got).abs().max() < 1e-5
        assert (module(x) - got).abs().max() > 1e-2  # and that differs from the module itself
    return slim


def test_halves() -> None:
    torch.manual_seed(0)
    module = calibrated(Halved())
    rows, m, all_of = [0, 2, 3, 4, 6, 7], [0, 2, 3], [0, 2, 3, 4, 6, 7, 8, 11]
    keep = {
        "cv1.conv": {0: rows},
        "cv1.bn": {0: rows},
        "m.conv": {0: [0, 3], 1: m},
        "m.bn": {0: [0, 3]},
        "cv2.conv": {1: all_of},
    }
    slim = check(module, keep, torch.rand(2, 3, 4, 4))
    assert slim.c == 3 and slim.cv2.conv.in_channels == 8 and slim.cv1.bn.num_features == 6


@pytest.mark.parametrize("kept", [True, False])
def test_attention(kept: bool) -> None:
    torch.manual_seed(0)
    module = calibrated(Heads(kept))
    rows = [head * 12 + part + i for head in (0, 1) for part in (0, 4, 8) for i in (0, 2, 3)]
    values = [0, 2, 3, 4, 6, 7]
    both = {0: values}
    keep = {"qkv.conv": {0: rows}, "qkv.bn": {0: rows}, "pe.conv": both, "pe.bn": both, "proj.conv": {1: values}}
    slim = check(module, keep, torch.rand(1, 8, 4, 4))
    assert slim.head_dim == 3 and slim.pe.conv.groups == 6


def test_an_attention_without_its_positions() -> None:
    """Depth bridges `pe` by an identity, which has no width."""
    torch.manual_seed(0)
    module = calibrated(Heads(kept=True))
    module.pe = nn.Identity()
    rows = [head * 12 + part + i for head in (0, 1) for part in (0, 4, 8) for i in (0, 2, 3)]
    keep = {"qkv.conv": {0: rows}, "qkv.bn": {0: rows}, "proj.conv": {1: [0, 2, 3, 4, 6, 7]}}
    assert check(module, keep, torch.rand(1, 8, 4, 4)).head_dim == 3


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("head", [0, 1])
def test_a_whole_head(head: int, kept: bool) -> None:
    torch.manual_seed(0)
    module = calibrated(Heads(kept))
    rows, values = list(range(12 * head, 12 * head + 12)), list(range(4 * head, 4 * head + 4))
    both = {0: values}
    keep = {"qkv.conv": {0: rows}, "qkv.bn": {0: rows}, "pe.conv": both, "pe.bn": both, "proj.conv": {1: values}}
    cuts = {path: {str(axis): indices for axis, indices in axes.items()} for path, axes in keep.items()}
    heads = heads_left(module, cuts)
    assert heads == {"": 1}
    slim, x = copy.deepcopy(module), torch.rand(1, 8, 4, 4)
    narrow(slim, cut(module, keep), heads=heads)
    assert (slim.num_heads, slim.head_dim, slim.pe.conv.groups) == (1, 4, 4)
    with torch.no_grad():
        expected = masked(module, cuts)(x)
        assert (expected - slim(x)).abs().max() < 1e-5 < (module(x) - expected).abs().max()
        blind = copy.deepcopy(module)
        narrow(blind, cut(module, keep))  # told nothing, it takes them for two narrower heads
        assert blind.head_dim == 2 and (expected - blind(x)).abs().max() > 1e-4


def test_halves_of_an_odd_width_are_refused() -> None:
    module = Halved()
    with pytest.raises(InputError, match="cannot halve"):
        narrow(module, cut(module, {"cv1.conv": {0: [0, 1, 2]}, "cv1.bn": {0: [0, 1, 2]}}))


def test_heads_that_do_not_share_are_refused() -> None:
    module = Heads(kept=True)
    with pytest.raises(InputError, match="do not share"):
        narrow(module, cut(module, {"proj.conv": {1: [0, 1, 2]}}))


def test_what_only_training_runs_follows_what_reads_the_same() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.run, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 5, 1)

        def forward(self, x: Any) -> Any:
            y = self.stem(x)
            return (self.run(y), self.other(y.detach())) if self.training else self.run(y)

    module, kept = Both(), [1, 3]
    tensors = cut(module, {"stem": {0: kept}})
    tensors["run.weight"] = tensors["run.weight"][:, kept]
    cuts = {"stem": {"0": kept}, "run": {"1": kept}}
    found = followers(module, tensors, cuts, torch.rand(1, 3, 4, 4))
    assert list(found) == ["other.weight"]
    narrow(module, {**tensors, **found})
    assert module.train()(torch.rand(1, 3, 4, 4))[1].shape[1] == 5


def test_a_guarded_yaml_is_told_and_undone() -> None:
    yaml = {"nc": 3, "backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": []}
    closed = guarded(yaml, "no")
    assert closed["backbone"][0][2] == "no" and unguarded(closed, "no") == yaml == unguarded(yaml, "no")


def test_a_layer_that_reads_one_channel_is_not_taken_for_a_depthwise_one() -> None:
    layer = nn.Conv2d(1, 4, 3)
    narrow(layer, {"weight": layer.weight[:2].detach(), "bias": torch.zeros(2)})
    assert (layer.in_channels, layer.out_channels, layer.groups) == (1, 2, 1)
    depthwise = nn.Conv2d(4, 4, 3, groups=4)  # the control
    narrow(depthwise, {"weight": depthwise.weight[:2].detach(), "bias": torch.zeros(2)})
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (2, 2, 2)
