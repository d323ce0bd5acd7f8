"""A full-width module of somebody's script takes a plan's widths, and computes what the plan says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import onnxslim_yolo  # noqa: E402
from onnxslim_yolo.errors import InputError  # noqa: E402
from onnxslim_yolo.load.checkpoint import read_checkpoint  # noqa: E402
from onnxslim_yolo.runtime.onnx_run import run_onnx  # noqa: E402
from onnxslim_yolo.training import narrow_to  # noqa: E402
from onnxslim_yolo.training.apply_plan import apply_plan  # noqa: E402
from tests.load.repositories import save_like_a_trainer  # noqa: E402
from tests.zoo import module  # noqa: E402

WEIGHTS = Path(__file__).resolve().parents[3] / "shared/material/weights/yolov5n-coco-v6.pt"


def compiled(path: Path, out: Path, size: int) -> tuple[dict[str, Any], Any]:
    """The plan of a third of the channels less, and the ONNX file that it makes, nothing compensated."""
    made = onnxslim_yolo.compile(
        path,
        prune=0.3,
        depth="none",
        compensate="none",
        imgsz=size,
        emit=("onnx",),
        will_train=True,
        verify=False,
        out=out,
    )
    return json.loads((out / f"{path.stem}.plan.json").read_text()), made.model


def worst(net: Any, model: Any, size: int) -> float:
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = net.eval()(x)
    found = (found[0] if isinstance(found, tuple) else found).numpy()
    name = model.graph.inputs[0].name
    wanted = next(iter(run_onnx(model, [{name: x.numpy()}])[0].values()))
    return float(np.abs(found - wanted).max() / np.abs(wanted).std())


def checked(path: Path, tmp_path: Path, size: int) -> None:
    plan, model = compiled(path, tmp_path / "out", size)
    whole, again = (read_checkpoint(path).module for _ in range(2))
    assert whole is not None and again is not None
    before = sum(p.numel() for p in whole.parameters())
    tensors = apply_plan(plan, whole.state_dict())
    torch.save(tensors, tmp_path / "slim-weights.pt")
    net = narrow_to(whole, tmp_path / "slim-weights.pt")
    assert sum(p.numel() for p in net.parameters()) < 0.9 * before
    assert worst(net, model, size) < 1e-4
    with torch.no_grad():
        last = [part for part in net.modules() if isinstance(part, torch.nn.Conv2d)]
        last[len(last) // 2].weight.mul_(1.05)
    assert worst(net, model, size) > 1e-4  # the control
    resumed = narrow_to(again, net.state_dict())  # as a script that builds its model again
    assert worst(resumed, model, size) == worst(net, model, size)


def test_a_script_that_builds_the_full_width(tmp_path: Path) -> None:
    save_like_a_trainer(tmp_path / "yolov5n.pt", module("yolov5n", nc=2, width=0.25))
    checked(tmp_path / "yolov5n.pt", tmp_path, 64)


@pytest.mark.material
@pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs YOLOv5n's weights")
def test_the_real_yolov5n(tmp_path: Path) -> None:
    checked(WEIGHTS, tmp_path, 160)


def test_what_does_not_fit() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    state = dict(net.state_dict())
    with pytest.raises(InputError, match=r"lacks 1\.weight, which the module has"):
        narrow_to(net, {k: v for k, v in state.items() if k != "1.weight"})
    with pytest.raises(InputError, match=r"holds 2\.weight, which the module lacks"):
        narrow_to(net, {**state, "2.weight": state["1.weight"]})
