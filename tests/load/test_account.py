"""A checkpoint's class is known by its name; what it holds says whether it is that class: used whole, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from forks import Bottleneck, Conv, Detect, distance, model_of, save  # noqa: E402

from onnxslim_yolo.errors import InputError, UnsupportedError  # noqa: E402
from onnxslim_yolo.load.trace_checkpoint import trace_checkpoint  # noqa: E402

nn = torch.nn
EXACT = 1e-4


def named(name: str, cls: type[nn.Module], forward: Callable | None = None) -> type[nn.Module]:
    """A fork's version of a class, under a name that is known here."""
    return type(name, (cls,), {} if forward is None else {"forward": forward})


def bottleneck(forward: Callable | None = None, **members: object) -> nn.Module:
    """A Bottleneck that holds `members` too, and a forward that uses them."""
    block = named("Bottleneck", Bottleneck, forward)(16)
    for name, value in members.items():
        setattr(block, name, value)
    return block


def refusal(path: Path) -> str:
    with pytest.raises((InputError, UnsupportedError)) as caught:
        trace_checkpoint(path, imgsz=(64, 64))
    assert caught.value.exit_status == 2
    return str(caught.value)


def plain(self, x):
    return x + self.cv2(self.cv1(x))


LEFT_OVER = {
    "a third convolution": (
        lambda: bottleneck(lambda s, x: x + s.cv3(s.cv2(s.cv1(x))), cv3=Conv(16, 16)),
        "model.3.cv3 (Conv, 6 tensors, in a Bottleneck)",
    ),
    "a learnt vector": (
        lambda: bottleneck(lambda s, x: x + s.gamma * s.cv2(s.cv1(x)), gamma=nn.Parameter(torch.rand(1, 16, 1, 1))),
        "model.3.gamma",
    ),
    "a learnt scalar": (
        lambda: bottleneck(lambda s, x: x + s.alpha * s.cv2(s.cv1(x)), alpha=nn.Parameter(torch.tensor(0.3))),
        "model.3.alpha",
    ),
    "a norm": (lambda: bottleneck(lambda s, x: s.norm(plain(s, x)), norm=nn.BatchNorm2d(16)), "model.3.norm"),
    "an activation": (lambda: bottleneck(lambda s, x: s.act(plain(s, x)), act=nn.ReLU()), "model.3.act (ReLU"),
    "a pool": (lambda: bottleneck(lambda s, x: s.pool(plain(s, x)), pool=nn.MaxPool2d(3, 1, 1)), "model.3.pool"),
    "a gate": (
        lambda: bottleneck(lambda s, x: plain(s, x) * s.se(x), se=nn.Sequential(nn.Conv2d(16, 16, 1), nn.Sigmoid())),
        "model.3.se (Sequential",
    ),
    "a number": (lambda: bottleneck(lambda s, x: x + s.scale * s.cv2(s.cv1(x)), scale=0.2), "scale = 0.2"),
    "a flag": (lambda: bottleneck(lambda s, x: s.cv2(s.cv1(x)) - x, subtract=True), "subtract = True"),
    "a text": (lambda: bottleneck(plain, mode="sum"), "mode = sum"),
    "a count": (lambda: bottleneck(lambda s, x: x + 7 * s.cv2(s.cv1(x)), times=7), "times = 7"),
    "an order": (lambda: bottleneck(plain, order=[1, 0, 77]), "order"),
    "a tensor that is no buffer": (lambda: bottleneck(lambda s, x: plain(s, x) * s.w, w=torch.tensor(2.0)), "w ="),
    "modules in a list": (lambda: bottleneck(lambda s, x: s.parts[0](plain(s, x)), parts=[Conv(16, 16)]), "parts"),
}


@pytest.mark.parametrize("kind", LEFT_OVER)
def test_what_no_call_reaches_is_refused_by_name(kind, tmp_path):
    make, words = LEFT_OVER[kind]
    text = refusal(save(tmp_path / "m.pt", model_of(make())))
    assert words in text and "register" in text and "imgsz" not in text


USED = {
    "as it is": lambda: Bottleneck(16),
    "no shortcut": lambda: Bottleneck(16, add=False),
    "another kernel": lambda: Bottleneck(16, 5),
    "dropout": lambda: bottleneck(lambda s, x: s.drop(plain(s, x)), drop=nn.Dropout(0.3)),
    "identity": lambda: bottleneck(plain, post=nn.Identity()),
    "widths as attributes": lambda: bottleneck(plain, c=16, hidden=16, ks=(3, 1)),
    "other modules inside": lambda: bottleneck(
        plain, cv2=nn.Sequential(Conv(16, 16), nn.Mish(), nn.Conv2d(16, 16, 3, 1, 1))
    ),
    "grouped": lambda: bottleneck(plain, cv2=Conv(16, 16, 3, g=4)),
}


@pytest.mark.parametrize("kind", USED)
def test_what_differs_in_what_it_holds_is_rebuilt_from_that(kind, tmp_path):
    model = model_of(USED[kind]())
    assert distance(save(tmp_path / "m.pt", model), model) < EXACT


def test_the_comparison_sees_one_percent(tmp_path):
    model = model_of(Bottleneck(16))
    path = save(tmp_path / "m.pt", model)
    model.model[3].cv2.conv.weight.data *= 1.01
    assert distance(path, model) > 10 * EXACT


ACTIVATIONS = {
    "LeakyReLU": lambda: nn.LeakyReLU(0.3),
    "Hardswish": nn.Hardswish,
    "Mish": nn.Mish,
    "ReLU6": nn.ReLU6,
    "ELU": lambda: nn.ELU(0.7),
    "CELU": lambda: nn.CELU(0.7),
    "SELU": nn.SELU,
    "GELU": nn.GELU,
    "GELU, tanh": lambda: nn.GELU(approximate="tanh"),
    "PReLU": lambda: nn.PReLU(1, 0.4),
    "PReLU, per channel": lambda: nn.PReLU(16, 0.4),
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "Softplus": lambda: nn.Softplus(2.0),
    "Softplus, a threshold that shows": lambda: nn.Softplus(0.5, 1.0),
    "LogSigmoid": nn.LogSigmoid,
    "several": lambda: nn.Sequential(nn.Hardtanh(-1, 2), nn.Hardsigmoid()),
}


class DWConvblock(nn.Module):
    """Depthwise, act1, pointwise, act2."""

    def __init__(self, act1: nn.Module, act2: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(16, 16, 3, 2, 1, groups=16, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.act1, self.act2 = act1, act2

    def forward(self, x):
        return self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x))))))


class LC_SEModule(nn.Module):  # noqa: N801
    """x · gate(conv2(inner(conv1(mean x)))) under YOLOv5-Lite's names."""

    def __init__(self, inner: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.avg_pool, self.conv1, self.conv2 = nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.relu, self.SiLU = inner, gate

    def forward(self, x):
        return x * self.SiLU(self.conv2(self.relu(self.conv1(self.avg_pool(x)))))


class RepVGGBlock(nn.Module):
    """Two branches and an activation."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.rbr_identity = None
        self.rbr_dense = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
        self.rbr_1x1 = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.nonlinearity, self.deploy = act, False

    def forward(self, x):
        return self.nonlinearity(self.rbr_dense(x) + self.rbr_1x1(x))


class Dense(nn.Module):
    """Pointwise, an activation under YOLOv5-Lite's name, dropout."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.dense_conv, self.hardswish, self.dropout = nn.Conv2d(16, 16, 1, bias=False), act, nn.Dropout(0.2)

    def forward(self, x):
        return self.dropout(self.hardswish(self.dense_conv(x)))


class CBH(nn.Module):
    """conv, bn, an activation called `hardswish`."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn, self.hardswish = nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), act

    def forward(self, x):
        return self.hardswish(self.bn(self.conv(x)))


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_any_activation_in_any_place_is_the_checkpoints_own(kind, tmp_path):
    make = ACTIVATIONS[kind]
    narrow = make if "channel" not in kind else nn.ReLU
    blocks = [Conv(16, 16, 3, act=make()), RepVGGBlock(make()), Dense(make()), CBH(make())]
    blocks += [LC_SEModule(narrow(), make()), DWConvblock(make(), nn.SiLU())]
    model = model_of(*blocks, stride=1)
    assert distance(save(tmp_path / "m.pt", model), model) < EXACT


DIVIDED = {
    "no padding": (2, None, 0, False, True, 3),
    "padded": (3, 1, 1, False, True, 5),
    "not counted": ((3, 2), (2, 1), 1, False, False, 2),
}
"""Arguments of AvgPool2d, the last of them the number that divides."""


@pytest.mark.parametrize("kind", DIVIDED)
def test_a_pool_divides_by_its_own_number(kind, tmp_path):
    model = model_of(nn.AvgPool2d(*DIVIDED[kind]))
    path = save(tmp_path / "m.pt", model)
    assert distance(path, model) < EXACT
    model.model[3].divisor_override = 7
    assert distance(path, model) > 10 * EXACT


def test_a_divided_pool_whose_windows_hang_over_is_refused(tmp_path):
    assert "divisor_override with ceil_mode" in refusal(
        save(tmp_path / "m.pt", model_of(nn.AvgPool2d(3, 2, 0, True, True, 4)))
    )


class BareDW(DWConvblock):
    """ReLU as a function, which nobody sees."""

    def __init__(self) -> None:
        super().__init__(None, None)
        del self.act1, self.act2

    def forward(self, x):
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def test_what_is_assumed_is_said(tmp_path):
    model = model_of(named("DWConvblock", BareDW)(), stride=1)
    path = save(tmp_path / "m.pt", model)
    assert distance(path, model) < EXACT
    _, notes = trace_checkpoint(path, imgsz=(64, 64))
    assert any("ReLU is assumed in 1 DWConvBlock block(s) (model.2)" in note for note in notes)
    _, notes = trace_checkpoint(
        save(tmp_path / "n.pt", model_of(DWConvblock(nn.ReLU(), nn.ReLU()), stride=1)), imgsz=(64, 64)
    )
    assert not notes


@pytest.mark.parametrize("names", [("act1",), ("act2",), ("act",), ("act1", "act2", "act3")])
def test_activations_whose_place_is_unknown_are_refused(names, tmp_path):
    block = named("DWConvblock", BareDW)()
    for name in names:
        setattr(block, name, nn.SiLU())
    text = refusal(save(tmp_path / "m.pt", model_of(block, stride=1)))
    assert "model.2" in text and "act" in text


def test_one_activation_shared_by_all_blocks_does_not_hide_one_that_is_not_called(tmp_path):
    act = nn.SiLU()
    block = named("DWConvblock", BareDW)()
    block.act = act
    model = model_of(Conv(16, 16, 3, 2, act=act), block, Conv(16, 16, act=act), stride=1)
    assert "model.3.act" in refusal(save(tmp_path / "m.pt", model))


def test_leaves_hold_nothing_more_than_torchs(tmp_path):
    conv = Conv(16, 16)
    conv.conv.register_parameter("lora", nn.Parameter(torch.rand(3)))
    assert "lora" in refusal(save(tmp_path / "a.pt", model_of(conv)))
    swish = named("Swish", nn.Module, lambda s, x: x * torch.sigmoid(s.beta * x))
    learnt, fixed = swish(), swish()
    learnt.beta, fixed.beta = nn.Parameter(torch.tensor(2.0)), 2.0
    for name, act in (("b.pt", learnt), ("c.pt", fixed)):
        assert "beta" in refusal(save(tmp_path / name, model_of(Conv(16, 16, act=act))))
    model = model_of(Conv(16, 16, act=named("Swish", nn.Module, lambda s, x: x * torch.sigmoid(x))()))
    assert distance(save(tmp_path / "d.pt", model), model) < EXACT


@pytest.mark.parametrize(("nc", "more"), [(1, 10), (2, 10), (1, 8), (3, 1), (2, 32)])
def test_heads_with_more_columns_are_named_for_what_they_are(nc, more, tmp_path):
    text = refusal(save(tmp_path / "m.pt", model_of(head=Detect(16, nc, more))))
    assert f"{nc + 5 + more} columns an anchor" in text and f"make {nc + 5}" in text
    assert ("YOLOv5-face" in text) == (more == 10) and "imgsz" not in text


def test_a_head_whose_numbers_are_stale_is_named_as_well(tmp_path):
    head = Detect(16, 1, 10)
    head.no = 6
    assert "6 or 16 columns" in refusal(save(tmp_path / "m.pt", model_of(head=head)))


def test_parts_that_do_not_fit_name_their_place(tmp_path):
    model = model_of(Bottleneck(16))
    model.model[3].cv2 = Conv(8, 16, 3)
    text = refusal(save(tmp_path / "m.pt", model))
    assert "model.3.cv2.conv" in text and "imgsz" not in text.lower().replace("input of 64x64", "")


@pytest.mark.parametrize("name", ["criterion", "teacher"])
def test_what_only_training_uses_is_left_out_and_said(name, tmp_path):
    model = model_of(Bottleneck(16))
    reference = model_of(Bottleneck(16))
    reference.load_state_dict(model.state_dict())
    unknown = named("AnyLoss", nn.Module)()
    unknown.register_parameter("weight", nn.Parameter(torch.rand(3)))
    setattr(model, name, unknown)
    path = save(tmp_path / "m.pt", model)
    assert distance(path, reference) < EXACT
    assert f"left out, since only training uses it: {name}" in trace_checkpoint(path, imgsz=(64, 64))[1]
    model.extra = Conv(3, 3)
    assert "extra" in refusal(save(tmp_path / "n.pt", model))


def test_a_users_class_goes_before_ours(tmp_path):
    from onnxslim_yolo.models import BLOCKS, Block, allow, register_block
    from onnxslim_yolo.models.registry import _VARIANTS

    model = model_of(bottleneck(lambda s, x: x + s.scale * s.cv3(s.cv2(s.cv1(x))), cv3=Conv(16, 16), scale=0.2))
    path = save(tmp_path / "m.pt", model)
    kept = BLOCKS["Bottleneck"]

    @register_block("Bottleneck")
    class Mine(Block):
        ATTRIBUTES = allow(scale=1.0)

        def forward(self, x):
            return x + self.scale * self.cv3(self.cv2(self.cv1(x)))

    try:
        assert distance(path, model) < EXACT
    finally:
        BLOCKS["Bottleneck"] = kept
        _VARIANTS["Bottleneck"].remove(Mine)
    assert "scale" in refusal(path)
