"""A pruned checkpoint of YOLOv5's kind: read again, and built again from its yaml as the repository's parser does."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402, TID253

import onnxslim_yolo as oy  # noqa: E402
from onnxslim_yolo.errors import InputError, UnsupportedError, VerificationError  # noqa: E402
from onnxslim_yolo.load.checkpoint import read_checkpoint  # noqa: E402
from onnxslim_yolo.load.raw_module import read_raw_module  # noqa: E402
from onnxslim_yolo.load.records import Record  # noqa: E402
from onnxslim_yolo.models.blocks_common import C3, SPPF, Concat, Conv  # noqa: E402
from onnxslim_yolo.models.heads import AnchorDetect as Detect  # noqa: E402
from onnxslim_yolo.models.zoo.layouts import ANCHORS, STRIDES  # noqa: E402
from onnxslim_yolo.runtime.onnx_run import run_onnx  # noqa: E402
from onnxslim_yolo.training import slim_checkpoint  # noqa: E402
from onnxslim_yolo.training.repo_checkpoint import narrowed_yaml, repo_checkpoint  # noqa: E402
from onnxslim_yolo.training.repo_rows import Narrowed, row  # noqa: E402
from onnxslim_yolo.training.slim_checkpoint import slim_from_plan  # noqa: E402
from tests.load import repositories  # noqa: E402
from tests.load.repositories import save_like_a_trainer  # noqa: E402
from tests.zoo import module  # noqa: E402

SIZE = 64


def described(model: Any) -> dict[str, Any]:
    """The yaml of a model, as far as `rebuilt` reads one: every layer's class and arguments."""
    rows: list[list[Any]] = []
    for layer in model.model:
        name, more = type(layer).__name__, []
        if isinstance(layer, C3):
            more = [layer.cv1.conv.in_channels, layer.cv3.conv.out_channels, len(layer.m), layer.m[0].add]
        elif isinstance(layer, Conv):
            conv = layer.conv
            more = [conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.padding[0]]
        elif isinstance(layer, SPPF):
            more = [layer.cv1.conv.in_channels, layer.cv2.conv.out_channels]
        elif isinstance(layer, Detect):
            name, more = "Detect", ["nc", [part.in_channels for part in layer.m]]
        rows.append([layer.f, 1, {"Upsample": "nn.Upsample"}.get(name, name), more])
    return {"nc": 2, "backbone": rows[:10], "head": rows[10:]}


def rebuilt(yaml: dict[str, Any], nc: int | None = None) -> list[nn.Module]:
    """Layers as a parser makes them that evaluates names, and asks what a row's class is."""
    nc, layers = nc or yaml["nc"], []
    for _, _, kind, arguments in copy.deepcopy(yaml["backbone"] + yaml["head"]):
        m = eval(kind)
        given = [nc if a == "nc" else a for a in arguments]
        if m in {C3}:
            layers.append(m(*given[:3], shortcut=given[3]))
        elif m in [Detect]:
            layers.append(m(given[1], given[0], ANCHORS, STRIDES))
        elif m is nn.Upsample:
            layers.append(nn.Upsample(scale_factor=2.0))
        else:
            layers.append(m(*given))
    return layers


def compiled(source: Path, out: Path, ratio: float) -> Any:
    options: dict[str, Any] = {"compensate": "none", "depth": "none", "verify": False, "imgsz": SIZE}
    return oy.compile(source, prune=ratio, emit=("onnx", "ultralytics"), out=out, **options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repo") / "mine.pt"
    model = module("yolov5n", nc=2, width=0.25)
    model.yaml, model.names = described(model), ["a", "b"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repositories, "HOME", "models.yolo")
        save_like_a_trainer(path, model)
    return path


@pytest.fixture(scope="module")
def made(checkpoint: Path) -> Any:
    return compiled(checkpoint, checkpoint.parent / "out", 0.3)


def shapes_of(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key.removeprefix("model."): tuple(tensor.shape) for key, tensor in tensors.items()}


def test_its_own_trainer_builds_it_at_its_widths(checkpoint: Path, made: Any) -> None:
    assert made.report["ultralytics"]["trainer"] == "models.yolo and its train.py"
    slim, whole = read_raw_module(made.ultralytics), read_raw_module(checkpoint)
    assert slim.name == whole.name and slim.tensors.keys() == whole.tensors.keys()
    assert shapes_of(nn.Sequential(*rebuilt(slim.yaml)).state_dict()) == shapes_of(slim.tensors)
    full = shapes_of(nn.Sequential(*rebuilt(whole.yaml)).state_dict())
    assert full == shapes_of(whole.tensors) != shapes_of(slim.tensors)  # the control: the source's own rows
    more = nn.Sequential(*rebuilt(slim.yaml, nc=7)).state_dict()  # data of other classes
    assert tuple(more["24.m.0.weight"].shape) == (36, *slim.tensors["model.24.m.0.weight"].shape[1:])


def test_it_computes_what_the_onnx_computes_and_is_pruned_again(made: Any, tmp_path: Path) -> None:
    slim = read_checkpoint(made.ultralytics)
    assert slim.module is not None and slim.names == {0: "a", 1: "b"}
    x = np.random.default_rng(0).random((1, 3, SIZE, SIZE), dtype=np.float32)
    wanted = next(iter(run_onnx(made.model, [{made.model.graph.inputs[0].name: x}])[0].values()))
    with torch.no_grad():
        assert np.allclose(slim.module(torch.from_numpy(x)).numpy(), wanted, atol=1e-3)
    again = compiled(made.ultralytics, tmp_path, 0.2)
    assert again.report["ultralytics"]["parameters"] < made.report["ultralytics"]["parameters"]
    raw = read_raw_module(again.ultralytics)
    assert shapes_of(nn.Sequential(*rebuilt(raw.yaml)).state_dict()) == shapes_of(raw.tensors)


def test_a_plan_is_applied_to_the_same_widths(checkpoint: Path, made: Any) -> None:
    applied = slim_from_plan(made.plan, checkpoint)
    assert applied.parameters == made.report["ultralytics"]["parameters"]


def test_what_computes_something_else_is_not_written(checkpoint: Path) -> None:
    tensors = read_raw_module(checkpoint).tensors
    images = [np.random.default_rng(i).random((1, 3, SIZE, SIZE), dtype=np.float32) for i in range(2)]
    line = (checkpoint, tensors, [], {}, images)
    assert repo_checkpoint(*line, cuts={})[2] == 0
    spoiled = {**tensors, "model.5.conv.weight": tensors["model.5.conv.weight"] * 1.02}
    with pytest.raises(VerificationError, match="does not compute what was planned"):
        repo_checkpoint(checkpoint, spoiled, [], {}, images, cuts={})


def test_a_yaml_that_is_not_the_models_is_refused() -> None:
    layer = Record("models.common.Conv", state={"_modules": {}, "_parameters": {}, "_buffers": {}})
    holder = Record("torch.nn.modules.container.Sequential", state={"_modules": {"0": layer}})
    model = Record("models.yolo.Model", state={"_modules": {"model": holder}, "yaml": {"backbone": [], "head": []}})
    with pytest.raises(UnsupportedError, match="0 rows for 1 layers"):
        narrowed_yaml(model, {}, {}, [])
    model.state.pop("yaml")
    with pytest.raises(InputError, match="no yaml of rows"):
        narrowed_yaml(model, {}, {}, [])


def test_a_row_of_several_and_of_what_went_whole() -> None:
    made = eval(row("nn.Linear", {"0.weight": [3, None], "1.weight": [2, 4]}, [], repeated=True))
    assert made in {nn.Linear} and made in [nn.Linear] and made not in {nn.Conv2d} and str(made) == str(nn.Linear)
    first, second = made(6, 5), made(6, 5)
    assert first.weight.shape == (3, 6) and second.weight.shape == (2, 4) and second.bias.shape == (2,)
    block = eval(row("C3", {"cv1.conv.weight": [3, None, None, None], "cv1.bn.weight": [3]}, ["m.0"], repeated=False))
    module = block(8, 8, 1)
    assert isinstance(module.m[0], nn.Identity) and module.cv1.conv.out_channels == 3
    with pytest.raises(TypeError):
        Narrowed(nn.Linear, {})()


@pytest.mark.parametrize("name", ["yolov6.models.yolo.Model", "nanodet.Model"])
def test_a_model_of_no_known_trainer_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no model of Ultralytics', YOLOv5 or YOLOv7"):
        slim_checkpoint.require_trainer(name, tmp_path)


assert Concat  # a row may name it
