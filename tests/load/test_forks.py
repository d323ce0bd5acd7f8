"""Whole networks as forks write them: the published YOLOv5 pruner's, and YOLO12 with separate qk and v."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from forks import Conv, Model, distance, image, repository, save, vary  # noqa: E402

import onnxslim_yolo  # noqa: E402
from onnxslim_yolo.load.checkpoint import read_checkpoint  # noqa: E402

nn = torch.nn


class BottleneckPruned(nn.Module):
    """Two convolutions, every width given."""

    def __init__(self, widths: tuple[int, int, int], *, shortcut: bool) -> None:
        super().__init__()
        c1, inner, c2 = widths
        self.cv1, self.cv2 = Conv(c1, inner), Conv(inner, c2, 3)
        self.add = shortcut and c1 == c2

    def forward(self, x):
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C3Pruned(nn.Module):
    """cv1, cv2, cv3 and a chain of pruned bottlenecks."""

    def __init__(self, c1: int, first: int, second: int, c2: int, parts: list, *, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, first), Conv(c1, second)
        self.cv3 = Conv(parts[-1][-1] + second, c2)
        self.m = nn.Sequential(*(BottleneckPruned(each, shortcut=shortcut) for each in parts))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))


class SPPFPruned(nn.Module):
    """Three pools of one size in a row, all widths given."""

    def __init__(self, c1: int, inner: int, c2: int, k: int = 5) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, inner), Conv(4 * inner, c2)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x):
        y = [self.cv1(x)]
        for _ in range(3):
            y.append(self.m(y[-1]))
        return self.cv2(torch.cat(y, 1))


class Concat(nn.Module):
    """Along axis `d`."""

    def __init__(self) -> None:
        super().__init__()
        self.d = 1

    def forward(self, x):
        return torch.cat(x, self.d)


class Detect(nn.Module):
    """YOLOv5's head, decoded as its paper says, and the raw maps behind."""

    def __init__(self, ch: tuple[int, ...], nc: int = 3) -> None:
        super().__init__()
        self.nc, self.no, self.nl, self.na = nc, nc + 5, len(ch), 3
        self.stride = torch.tensor([8.0, 16.0, 32.0])[: self.nl]
        self.grid, self.inplace = [torch.zeros(1)] * self.nl, True
        pixels = torch.tensor([[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]]], dtype=torch.float32)
        self.register_buffer("anchors", pixels / self.stride.view(-1, 1, 1))
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in ch)

    def forward(self, x):
        rows, raw = [], []
        for i, level in enumerate(x):
            raw.append(self.m[i](level))
            b, _, h, w = raw[-1].shape
            y = raw[-1].reshape(b, self.na, self.no, h, w).permute(0, 1, 3, 4, 2).sigmoid()
            down, right = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            cell = torch.stack((right, down), 2)
            xy = (2 * y[..., :2] - 0.5 + cell) * self.stride[i]
            wh = (2 * y[..., 2:4]) ** 2 * (self.anchors[i] * self.stride[i]).view(1, self.na, 1, 1, 2)
            rows.append(torch.cat((xy, wh, y[..., 4:]), -1).reshape(b, -1, self.no))
        return torch.cat(rows, 1), raw


class ModelPruned(nn.Module):
    """The pruner's root: walks its layers by `f`, and keeps what it was cut by."""

    def __init__(self) -> None:
        super().__init__()
        detect = Detect((22, 40))
        layers = [
            (Conv(3, 13, 6, 2), -1),
            (Conv(13, 21, 3, 2), -1),
            (C3Pruned(21, 9, 7, 24, [(9, 5, 9), (9, 11, 9)]), -1),
            (Conv(24, 30, 3, 2), -1),
            (C3Pruned(30, 12, 15, 28, [(12, 7, 12)]), -1),
            (Conv(28, 41, 3, 2), -1),
            (SPPFPruned(41, 11, 33), -1),
            (nn.Upsample(None, 2, "nearest"), -1),
            (Concat(), [-1, 4]),
            (C3Pruned(61, 14, 9, 22, [(14, 8, 17)], shortcut=False), -1),
            (Conv(22, 19, 3, 2), -1),
            (Concat(), [-1, 6]),
            (C3Pruned(52, 20, 10, 40, [(20, 6, 23)], shortcut=False), -1),
            (detect, [9, 12]),
        ]
        layers[0][0].conv.padding = (2, 2)
        for i, (layer, source) in enumerate(layers):
            layer.i, layer.f, layer.type, layer.np = i, source, type(layer).__name__, 0
        self.model = nn.Sequential(*(layer for layer, _ in layers))
        self.save, self.names, self.nc = [4, 6, 9, 12], ["red", "white", "platelet"], 3
        self.yaml, self.inplace, self.stride = {"nc": 3}, True, detect.stride
        self.from_to_map = {"model.1.bn": "model.0.bn", "model.2.cv1.bn": "model.1.bn"}

    def forward(self, x):
        y = []
        for layer in self.model:
            if layer.f != -1:
                x = y[layer.f] if isinstance(layer.f, int) else [x if j == -1 else y[j] for j in layer.f]
            x = layer(x)
            y.append(x)
        return x


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelPruned]:
    model = vary(ModelPruned())
    path = tmp_path_factory.mktemp("pruned") / "pruned.pt"
    with repository(model, "models.pruned_common"):
        torch.save({"epoch": -1, "model": model, "ema": None, "optimizer": None}, path)
    return path, model


def test_the_published_pruners_checkpoints_compile_and_compute_the_same(pruned, tmp_path):
    import onnxruntime

    path, model = pruned
    result = onnxslim_yolo.compile(path, out=tmp_path / "slim", imgsz=64)
    assert result.ncnn is not None and all(check["passed"] for check in result.report["verification"]["checks"])
    session = onnxruntime.InferenceSession(str(result.onnx), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = model(image())[0].numpy()
    (found,) = session.run(None, {session.get_inputs()[0].name: image().numpy()})
    assert found.shape == wanted.shape
    assert (abs(found - wanted) / wanted.std((0, 1))).max() < 1e-4
    checkpoint = read_checkpoint(path)
    assert (checkpoint.names[1], checkpoint.stride, checkpoint.task) == ("white", 16, "detect")


def test_their_comparison_sees_one_percent(pruned, tmp_path):
    import onnxruntime

    path, model = pruned
    result = onnxslim_yolo.compile(path, out=tmp_path / "slim", imgsz=64, emit=("onnx",), verify=False)
    session = onnxruntime.InferenceSession(str(result.onnx), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: image().numpy()})
    layer = model.model[4].m[0].cv2.conv
    layer.weight.data *= 1.01
    with torch.no_grad():
        wanted = model(image())[0].numpy()
    layer.weight.data /= 1.01
    assert (abs(found - wanted) / wanted.std((0, 1))).max() > 1e-3


def test_a_root_of_any_name_is_told_by_its_layers(tmp_path):
    from forks import Bottleneck, model_of

    from onnxslim_yolo.errors import InputError

    model = model_of(Bottleneck(16))
    model.__class__ = type("FancyNet", (Model,), {})
    assert distance(save(tmp_path / "a.pt", model), model) < 1e-4
    del model.model[1].f  # nobody says where its input comes from
    with pytest.raises(InputError, match="FancyNet"):
        read_checkpoint(save(tmp_path / "b.pt", model))


class AAttn(nn.Module):
    """Area attention written token by token: q, k, v per head and strip."""

    def __init__(self, dim: int, num_heads: int, area: int) -> None:
        super().__init__()
        self.area, self.num_heads, self.head_dim = area, num_heads, dim // num_heads
        self.qk, self.v = Conv(dim, 2 * dim, act=nn.Identity()), Conv(dim, dim, act=nn.Identity())
        self.proj, self.pe = Conv(dim, dim, act=nn.Identity()), Conv(dim, dim, 5, act=nn.Identity(), g=dim)

    def forward(self, x):
        b, c, h, w = x.shape
        qk, v = self.qk(x).flatten(2), self.v(x)
        out = torch.zeros(b, c, h * w)
        n = h * w // self.area
        for strip in range(self.area):
            at = slice(strip * n, (strip + 1) * n)
            for head in range(self.num_heads):
                own = slice(head * self.head_dim, (head + 1) * self.head_dim)
                q, k = qk[:, :c][:, own, at], qk[:, c:][:, own, at]
                share = torch.softmax(torch.einsum("bdi,bdj->bij", q, k) / self.head_dim**0.5, 2)
                out[:, own, at] = torch.einsum("bij,bdj->bdi", share, v.flatten(2)[:, own, at])
        return self.proj(out.view(b, c, h, w) + self.pe(v))


class ABlock(nn.Module):
    """Attention and two convolutions."""

    def __init__(self, dim: int, num_heads: int, area: int) -> None:
        super().__init__()
        self.attn = AAttn(dim, num_heads, area)
        self.mlp = nn.Sequential(Conv(dim, 2 * dim), Conv(2 * dim, dim, act=nn.Identity()))

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x)


class A2C2f(nn.Module):
    """YOLO12's stage, with its learnt layer scale."""

    def __init__(self, c: int, num_heads: int, area: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(c, c), Conv(3 * c, c)
        self.m = nn.ModuleList(nn.Sequential(*(ABlock(c, num_heads, area) for _ in range(2))) for _ in range(2))
        self.gamma = nn.Parameter(torch.rand(c))

    def forward(self, x):
        y = [self.cv1(x)]
        for part in self.m:
            y.append(part(y[-1]))
        return x + self.gamma.view(1, -1, 1, 1) * self.cv2(torch.cat(y, 1))


@pytest.mark.parametrize(("heads", "area"), [(1, 1), (2, 4), (4, 1), (4, 4)])
def test_yolo12_with_separate_qk_and_v(heads, area, tmp_path):
    from forks import model_of

    model = model_of(A2C2f(16, heads, area))
    assert distance(save(tmp_path / "m.pt", model, epoch=1), model) < 1e-4
