"""Attributes, orders and flags that change what a class of a known name computes: read as they are, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from forks import Bottleneck, Conv, Detect, Model, distance, model_of, save, vary  # noqa: E402
from test_account import EXACT, bottleneck, named, plain, refusal  # noqa: E402

from onnxslim_yolo.load.trace_checkpoint import trace_checkpoint  # noqa: E402

nn = torch.nn


def with_attributes(module: nn.Module, **attributes: object) -> nn.Module:
    """The module, and what a fork's constructor kept."""
    for name, value in attributes.items():
        if hasattr(module, name):
            delattr(module, name)
        setattr(module, name, value)
    return module


class C3(nn.Module):
    """cv3(cat(m(cv1 x), cv2 x)), `e` channels inside."""

    def __init__(self, e: int = 8) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3, self.m = Conv(16, e), Conv(16, e), Conv(2 * e, 16), nn.Sequential(Bottleneck(e))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


def c3(forward: Callable, **attributes: object) -> nn.Module:
    return with_attributes(named("C3", C3, forward)(), **attributes)


def swapped(self, x):
    return self.cv3(torch.cat((self.cv2(x), self.m(self.cv1(x))), 1))


class C2f(nn.Module):
    """cv1's output in two halves, `m` of the last of them in turn; parts that went whole are identities."""

    def __init__(self, *parts: nn.Module, c: int = 6, **attributes: object) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m = Conv(16, 2 * c), Conv((2 + len(parts)) * c, 16), nn.ModuleList(parts)
        with_attributes(self, **{"c": c, **attributes})

    def forward(self, x):
        y = list(self.cv1(x).chunk(2, 1))
        for part in self.m:
            y.append(part(y[-1]))
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    """`pools` pools in a row, each of them concatenated."""

    def __init__(self, pools: int = 3, inner: int = 8, k: int = 5, **attributes: object) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m = Conv(16, inner), Conv(inner * (pools + 1), 16), nn.MaxPool2d(k, 1, k // 2)
        with_attributes(self, **attributes)

    def forward(self, x):
        y = [self.cv1(x)]
        for _ in range(self.cv2.conv.in_channels // y[0].shape[1] - 1):
            y.append(self.m(y[-1]))
        return self.cv2(torch.cat(y, 1))


class Shuffle_Block(nn.Module):  # noqa: N801
    """ShuffleNetV2's unit of stride 1, the channels shuffled in `groups` groups."""

    def __init__(self, act: nn.Module, **attributes: object) -> None:
        super().__init__()
        self.stride, norm = 1, nn.BatchNorm2d
        first, last = nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False)
        wise = nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False)
        self.branch2 = nn.Sequential(first, norm(8), act, wise, norm(8), last, norm(8), act)
        with_attributes(self, **attributes)

    def forward(self, x):
        a, b = x.chunk(2, 1)
        y = torch.cat((a, self.branch2(b)), 1)
        n, c, h, w = y.shape
        groups = getattr(self, "groups", 2)
        return y.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class RepConv(nn.Module):
    """Ultralytics': two branches and an activation."""

    def __init__(self, act: nn.Module | None, **attributes: object) -> None:
        super().__init__()
        self.g, self.c1, self.c2, self.act, self.bn = 1, 16, 16, act, None
        self.conv1, self.conv2 = Conv(16, 16, 3, act=nn.Identity()), Conv(16, 16, act=nn.Identity())
        with_attributes(self, **attributes)

    def forward(self, x):
        return self.act(self.conv1(x) + self.conv2(x))


class SimConv(nn.Module):
    """BatchNorm, activation, convolution: the known one's parts in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.act, self.conv = nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 16, 3, 1, 1, bias=False)

    def forward(self, x):
        return self.conv(self.act(self.bn(x)))


def by_function(self, x):
    return nn.functional.hardswish(self.bn(self.conv(x)))


REFUSED = {
    "a count as small as a kernel": (
        lambda: bottleneck(lambda s, x: x + 3 * s.cv2(s.cv1(x)), times=3),
        "times = 3",
    ),
    "an order": (lambda: c3(swapped, order=(1, 0)), "order = (1, 0)"),
    "an order in a list": (lambda: c3(swapped, order=[1, 0]), "order = [1, 0]"),
    "a flag that is a number": (lambda: c3(swapped, swap=1), "swap = 1"),
    "a shortcut": (lambda: c3(lambda s, x: x + C3.forward(s, x), shortcut=True), "shortcut = True"),
    "an add that is a number": (lambda: c3(lambda s, x: x + C3.forward(s, x), add=1), "add = 1"),
    "a flag that is off": (lambda: bottleneck(lambda s, x: s.cv2(s.cv1(x)), use_res=False), "use_res = False"),
    "a dictionary": (lambda: bottleneck(lambda s, x: x + s.cfg["k"] * s.cv2(s.cv1(x)), cfg={"k": 0.2}), "cfg ="),
    "a private number": (lambda: bottleneck(lambda s, x: x + s._scale * s.cv2(s.cv1(x)), _scale=0.2), "_scale = 0.2"),
    "a head's name": (lambda: bottleneck(lambda s, x: plain(s, x) * s.stride, stride=2), "stride = 2"),
    "a head's count": (lambda: bottleneck(lambda s, x: plain(s, x) * s.nl, nl=2), "nl = 2"),
    "a kernel that no leaf has": (lambda: bottleneck(lambda s, x: plain(s, x), k=7), "k = 7"),
    "an axis": (lambda: bottleneck(lambda s, x: plain(s, x).flip(s.dim), dim=2), "dim = 2"),
    "groups of a shuffle": (lambda: Shuffle_Block(nn.ReLU(), groups=4), "4 groups"),
    "as many groups as channels": (lambda: Shuffle_Block(nn.ReLU(), groups=8), "8 groups"),
    "an activation that is a function": (
        lambda: with_attributes(named("SimConv", Conv, by_function)(16, 16, 3), act=nn.functional.hardswish),
        "act =",
    ),
    "the order of norm and convolution": (SimConv, "bn, act, conv"),
    "a second activation": (
        lambda: named("RepConv", RepConv, lambda s, x: s.act2(RepConv.forward(s, x)))(nn.ReLU(), act2=nn.SiLU()),
        "model.3.act2",
    ),
    "no activation member": (
        lambda: named("RepConv", RepConv, lambda s, x: (s.conv1(x) + s.conv2(x)).relu())(None),
        "RepConv",
    ),
    "a width beside an identity that is not half of anything": (
        lambda: named("C3k2", C2f, C2f.forward)(nn.Identity(), dim=2),
        "dim = 2",
    ),
    "half of a width where nothing went": (
        lambda: with_attributes(C3(14), hidden_dim=7),
        "hidden_dim = 7",
    ),
    "pools counted by another name": (lambda: SPPF(pools=3, repeats=3), "repeats = 3"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_changes_the_result_is_refused_by_name(kind, tmp_path):
    make, words = REFUSED[kind]
    text = refusal(save(tmp_path / "m.pt", model_of(make())))
    assert words in text and "imgsz" not in text


READ = {
    "two pools": lambda: SPPF(2),
    "two pools, counted": lambda: SPPF(2, n=2),
    "four pools, counted": lambda: SPPF(4, n=4),
    "narrower inside": lambda: SPPF(3, inner=4),
    "larger pools": lambda: SPPF(3, k=7),
    "no shortcut": lambda: SPPF(3, add=False),
    "a narrower C3": lambda: C3(4),
    "a wider C3": lambda: with_attributes(C3(24), c_=24),
    "pools in a bottleneck": lambda: bottleneck(plain, cv2=SPPF(3)),
    "an identity where a block went": lambda: named("C3k2", C2f, C2f.forward)(nn.Identity()),
    "an identity before a block": lambda: named("C3k2", C2f, C2f.forward)(nn.Identity(), Bottleneck(4), c=4),
    "a block before an identity": lambda: named("C2f", C2f, C2f.forward)(Bottleneck(2), nn.Identity(), c=2),
    "a narrow width six levels down": lambda: named("C3k2", C2f, C2f.forward)(
        nn.Sequential(nn.Sequential(Bottleneck(5))), c=5
    ),
    "shuffle, Hardswish": lambda: Shuffle_Block(nn.Hardswish()),
    "shuffle, LeakyReLU": lambda: Shuffle_Block(nn.LeakyReLU(0.2)),
    "shuffle, groups": lambda: Shuffle_Block(nn.ReLU6(), groups=2),
    "RepConv, ReLU": lambda: RepConv(nn.ReLU()),
    "RepConv, Mish": lambda: RepConv(nn.Mish()),
    "RepConv, Identity": lambda: RepConv(nn.Identity()),
}


@pytest.mark.parametrize("kind", READ)
def test_what_it_holds_is_what_it_computes(kind, tmp_path):
    model = model_of(READ[kind]())
    assert distance(save(tmp_path / "m.pt", model), model) < EXACT


class Concat(nn.Module):
    """Along an axis, perhaps the other way round."""

    def __init__(self, **attributes: object) -> None:
        super().__init__()
        with_attributes(self, **attributes)

    def forward(self, x):
        axis = next((getattr(self, name) for name in ("d", "dim", "axis") if hasattr(self, name)), 1)
        return torch.cat(x[::-1] if hasattr(self, "reverse") or hasattr(self, "order") else x, axis)


class Routed(Model):
    """Layers by their `f`."""

    def forward(self, x):
        outputs = []
        for layer in self.model:
            if isinstance(layer.f, list):
                x = [x if index == -1 else outputs[index] for index in layer.f]
            elif layer.f != -1:
                x = outputs[layer.f]
            x = layer(x)
            outputs.append(x)
        return x


def routed(layers: list[nn.Module], sources: dict[int, object]) -> nn.Module:
    model = named("Model", Routed)([Conv(3, 16, 3, 2), Conv(16, 16, 3, 2), Conv(16, 16, 3, 2), *layers])
    for index, source in sources.items():
        model.model[index].f = source
    return vary(model)


def concatenated(**attributes: object) -> nn.Module:
    wide = 32 if attributes.get("dim", 1) == 1 else 16
    return routed([Conv(16, 16, 3), Concat(**attributes), Conv(wide, 16), Detect(16)], {4: [-1, 2]})


@pytest.mark.parametrize("axis", [{}, {"d": 1}, {"dim": 1}, {"axis": 1}, {"dim": 2}])
def test_the_axis_has_several_names(axis, tmp_path):
    model = concatenated(**axis)
    assert distance(save(tmp_path / "m.pt", model), model) < EXACT


@pytest.mark.parametrize("more", [{"reverse": True}, {"order": (1, 0)}, {"order": 1}, {"dim": 2}, {"s": 1}])
def test_what_else_a_concatenation_does_is_refused(more, tmp_path):
    model = concatenated(d=1)
    with_attributes(model.model[4], **more)
    assert "model.4" in refusal(save(tmp_path / "m.pt", model))


class IAuxDetect(Detect):
    """The auxiliary levels' convolutions are `m2`; only the others run."""

    def __init__(self, c: int) -> None:
        super().__init__(c)
        self.m2 = nn.ModuleList([nn.Conv2d(c, self.no * self.na, 1)])

    def forward(self, x):
        return self.m[0](x[0])


def test_layers_in_front_of_auxiliary_levels_are_left_out_and_said(tmp_path):
    model = routed([Conv(16, 16, 3), Conv(16, 16), Conv(16, 16, 3), IAuxDetect(16)], {4: 2, 6: [3, 5]})
    path = save(tmp_path / "m.pt", model)
    assert distance(path, model) < EXACT
    _, notes = trace_checkpoint(path, imgsz=(64, 64))
    assert any("model.4, model.5, model.6.m2 (they serve training)" in note for note in notes)


def test_layers_that_nothing_reads_are_refused_by_name(tmp_path):
    model = routed([Conv(16, 16, 3), Conv(16, 16), IAuxDetect(16)], {4: 2, 5: [3]})
    assert "model.4 (Conv" in refusal(save(tmp_path / "m.pt", model))


def scaling_root(**attributes: object) -> nn.Module:
    layers = [Conv(3, 16, 3, 2), Conv(16, 16, 3, 2), Conv(16, 16, 3, 2), Detect(16)]
    model = named("Model", Model, lambda s, x: s.model(x * getattr(s, "gain", 1)))(layers)
    return vary(with_attributes(model, **attributes))


@pytest.mark.parametrize("gain", [2.5, 3, True, (2.0,), torch.tensor(2.5)], ids=str)
def test_what_a_whole_model_does_to_its_input_is_refused(gain, tmp_path):
    model = scaling_root(gain=gain) if not isinstance(gain, tuple) else with_attributes(scaling_root(), gain=gain)
    assert "gain" in refusal(save(tmp_path / "m.pt", model))


def test_what_trainers_write_on_a_whole_model_is_not(tmp_path):
    told = {"yaml": {"nc": 2}, "hyp": {"lr0": 0.01}, "gr": 1.0, "class_weights": torch.ones(2), "task": "detect",
            "inplace": True, "traced": False, "note": "mine", "best_fitness": 0.4}  # fmt: skip
    model = scaling_root(**told)
    assert distance(save(tmp_path / "m.pt", model), model) < EXACT


def doubled(module, inputs, output):
    return output * 2


@pytest.mark.parametrize("place", ["a block in the layers", "all layers"])
def test_a_function_on_a_sequential_is_refused(place, tmp_path):
    model = model_of(nn.Sequential(Conv(16, 16, 3)))
    (model.model if place == "all layers" else model.model[3]).register_forward_hook(doubled)
    assert "_forward_hooks = a function" in refusal(save(tmp_path / "m.pt", model))


def test_a_function_on_a_list_that_nobody_calls_is_none(tmp_path):
    model = model_of(Conv(16, 16, 3))
    model.model[-1].m.register_forward_hook(doubled)
    assert distance(save(tmp_path / "m.pt", model), model) < EXACT
