"""Checkpoints of forks: classes of a repository that is not ours, with forwards of their own, pickled under its names.

Nothing here knows our blocks: a fork's own forward is the reference, and only its pickle reaches the reader.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch  # noqa: TID253
from torch import nn  # noqa: TID253

HOME = "models.common"


class Conv(nn.Module):
    """conv, bn, act."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, act: nn.Module | None = None, g: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU() if act is None else act

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """cv2(cv1 x), plus x if `add`."""

    def __init__(self, c: int, k: int = 3, *, add: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(c, c), Conv(c, c, k), add

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class Detect(nn.Module):
    """YOLOv5's, one level; gives the raw map."""

    def __init__(self, c: int, nc: int = 2, more: int = 0) -> None:
        super().__init__()
        self.nc, self.no, self.nl, self.na = nc, nc + 5 + more, 1, 3
        self.grid, self.anchor_grid, self.inplace = [torch.zeros(1)], [torch.zeros(1)], True
        self.stride = torch.tensor([8.0])
        self.register_buffer("anchors", torch.rand(1, 3, 2) + 1)
        self.m = nn.ModuleList([nn.Conv2d(c, self.no * self.na, 1)])

    def forward(self, x):
        return self.m[0](x[0] if isinstance(x, list) else x)


class Model(nn.Module):
    """Layers one after the other."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)
        for i, layer in enumerate(layers):
            layer.i, layer.f, layer.type, layer.np = i, -1, type(layer).__name__, 0
        layers[-1].f = [len(layers) - 2]
        self.save, self.names, self.nc = [len(layers) - 2], ["a", "b"], 2
        self.stride = torch.tensor([8.0])

    def forward(self, x):
        return self.model(x)


def model_of(*blocks: nn.Module, c: int = 16, stride: int = 2, head: nn.Module | None = None) -> Model:
    """Strides of 2 (three; two where `stride` says that the blocks have one), the blocks, a head; varied weights."""
    start = [Conv(3, 8, 3, 2), Conv(8, c, 3, 2), *([Conv(c, c, 3, 2)] if stride == 2 else [])]
    return vary(Model([*start, *blocks, head or Detect(c)]))


def vary(model: nn.Module) -> nn.Module:
    """Weights under which every layer shows: γ and β drawn, statistics of real activations."""
    random = torch.Generator().manual_seed(0)

    def calibrate(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        norm.weight.data = 0.5 + torch.rand(norm.weight.shape, generator=random)
        norm.bias.data = torch.rand(norm.bias.shape, generator=random)
        variance, mean = torch.var_mean(inputs[0], [0, 2, 3], correction=0)
        norm.running_mean, norm.running_var = mean, 2 * variance.clamp(min=1e-2)

    model.eval()
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(calibrate) for norm in norms]
    with torch.no_grad():
        model(torch.rand(2, 3, 64, 64, generator=random))
    for hook in hooks:
        hook.remove()
    return model


@contextmanager
def repository(model: nn.Module, home: str = HOME) -> Iterator[None]:
    """The modules that the fork's classes live in, while this is open: `home`, or what a class calls its own HOME."""
    own = {type(part) for part in model.modules() if not type(part).__module__.startswith("torch.")}
    homes = {cls: getattr(cls, "HOME", home) for cls in own}
    before = [(cls, cls.__module__, cls.__qualname__) for cls in own]
    parts = [each.split(".") for each in homes.values()]
    names = {".".join(each[: i + 1]) for each in parts for i in range(len(each))}
    had = {name: sys.modules.get(name) for name in names}
    sys.modules.update({name: types.ModuleType(name) for name in names})
    try:
        for cls, place in homes.items():
            cls.__module__, cls.__qualname__ = place, cls.__name__
            setattr(sys.modules[place], cls.__name__, cls)
        yield
    finally:
        for cls, module, name in before:
            cls.__module__, cls.__qualname__ = module, name
        for name, module in had.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})


def save(path: Path, model: nn.Module, **more: object) -> Path:
    """Write `{'model': model, 'epoch': 3}`."""
    with repository(model):
        torch.save({"model": model, "epoch": 3, **more}, path)
    return path


def image(size: int = 64, seed: int = 3) -> torch.Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def distance(path: Path, model: nn.Module, size: int = 64) -> float:
    """The rebuilt checkpoint's raw maps in onnxruntime against the fork's own, in units of their spread."""
    import onnxruntime

    from onnxslim_yolo.load.trace_checkpoint import trace_checkpoint

    proto, _ = trace_checkpoint(path, imgsz=(size, size), head="raw")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = model(image(size))
    wanted = [wanted] if isinstance(wanted, torch.Tensor) else wanted
    found = session.run(None, {"images": image(size).numpy()})
    pairs = [(a.reshape(-1), b.numpy().reshape(-1)) for a, b in zip(found, wanted, strict=True)]
    return max(float(np.abs(a - b).max() / b.std()) for a, b in pairs)
