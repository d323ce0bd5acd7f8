"""`--reference`: the author's own export decides whether a rebuilt checkpoint is the author's network."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

torch = pytest.importorskip("torch")

from forks import Bottleneck, image, model_of, save  # noqa: E402

import onnxslim_yolo  # noqa: E402
from onnxslim_yolo.errors import InputError, VerificationError  # noqa: E402
from onnxslim_yolo.load.trace_checkpoint import trace_checkpoint  # noqa: E402

nn = torch.nn
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
OPTIONS = {"imgsz": 64, "emit": ("onnx",)}


def dw(act: object) -> nn.Module:
    """YOLOv5-Lite's DWConvblock with a function for its activations."""

    class DWConvblock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16)
            self.conv2, self.bn2 = nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16)

        def forward(self, x):
            return act(self.bn2(self.conv2(act(self.bn1(self.conv1(x))))))

    return DWConvblock()


def exported(path: Path, model: nn.Module, **options: object) -> Path:
    """The author's export: the raw map decoded as YOLOv5 does, and the training output behind it."""
    head = model.model[-1]

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x):
            raw = self.inner(x)
            b, _, h, w = raw.shape
            y = raw.view(b, head.na, head.no, h, w).permute(0, 1, 3, 4, 2).sigmoid()
            down, right = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            xy = (2 * y[..., :2] - 0.5 + torch.stack((right, down), 2)) * 8
            wh = (2 * y[..., 2:4]) ** 2 * (head.anchors[0] * 8).view(1, 3, 1, 1, 2)
            return raw, torch.cat((xy, wh, y[..., 4:]), -1).reshape(b, -1, head.no)

    names = {"input_names": ["data"], "output_names": ["train", "boxes"]}
    torch.onnx.export(Whole().eval(), (image(),), str(path), dynamo=False, opset_version=17, **(names | options))
    return path


def test_the_right_export_is_what_the_result_is_compared_with(tmp_path):
    model = model_of(Bottleneck(16))
    path = save(tmp_path / "m.pt", model)
    for i, options in enumerate(
        ({}, {"dynamic_axes": {"data": {0: "b", 2: "h", 3: "w"}}}, {"output_names": ["raw", "output0"]})
    ):
        reference = exported(tmp_path / f"r{i}.onnx", model, **options)
        result = onnxslim_yolo.compile(path, out=tmp_path / "slim", reference=reference, **OPTIONS)
        assert any(f"r{i}.onnx" in note for note in result.report["notes"])


def test_what_cannot_be_seen_in_the_checkpoint_shows_in_its_export(tmp_path):
    """ReLU is assumed in this block; the author's code applies Hardswish."""
    good, bad = model_of(dw(torch.relu)), model_of(dw(nn.functional.hardswish))
    reference = exported(tmp_path / "good.onnx", good)
    onnxslim_yolo.compile(save(tmp_path / "good.pt", good), out=tmp_path / "slim", reference=reference, **OPTIONS)
    with pytest.raises(VerificationError, match=r"bad\.onnx") as caught:
        reference = exported(tmp_path / "bad.onnx", bad)
        onnxslim_yolo.compile(save(tmp_path / "bad.pt", bad), out=tmp_path / "none", reference=reference, **OPTIONS)
    assert "spread" in caught.value.message and not (tmp_path / "none").exists()


def test_an_export_of_something_else_is_refused(tmp_path):
    model = model_of(Bottleneck(16))
    path = save(tmp_path / "m.pt", model)
    reference = exported(tmp_path / "r.onnx", model)
    with pytest.raises(InputError, match="takes \\(1, 3, 64, 64\\) where the model takes \\(1, 3, 96, 96\\)"):
        onnxslim_yolo.compile(path, out=tmp_path / "slim", reference=reference, imgsz=96, emit=("onnx",))
    other = onnx.load(reference)
    del other.graph.output[1]
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="gives nothing like the model's output0"):
        onnxslim_yolo.compile(path, out=tmp_path / "slim", reference=tmp_path / "other.onnx", **OPTIONS)
    with pytest.raises(InputError, match="no such file"):
        onnxslim_yolo.compile(path, out=tmp_path / "slim", reference=tmp_path / "absent.onnx", **OPTIONS)


def test_one_percent_on_one_weight_is_seen(tmp_path):
    model = model_of(Bottleneck(16))
    path = save(tmp_path / "m.pt", model)
    model.model[2].conv.weight.data[:, :, 1] *= 1.01
    with pytest.raises(VerificationError, match="spread"):
        reference = exported(tmp_path / "r.onnx", model)
        onnxslim_yolo.compile(path, out=tmp_path / "slim", reference=reference, **OPTIONS)
    assert trace_checkpoint(path, imgsz=(64, 64))
