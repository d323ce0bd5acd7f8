"""Checkpoints of every family come back as modules that compute the same, under the same names."""

from __future__ import annotations

import enum
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from repositories import in_repository, save_like_a_trainer  # noqa: E402

from onnxslim_yolo.errors import InputError  # noqa: E402
from onnxslim_yolo.load.checkpoint import read_checkpoint  # noqa: E402
from onnxslim_yolo.load.trace import trace  # noqa: E402
from onnxslim_yolo.models import BLOCKS, Block, register_block  # noqa: E402
from onnxslim_yolo.models.zoo.architectures import build, randomise  # noqa: E402

FAMILIES = [
    *("yolov3-tiny", "yolov5n", "yolov5n-focus", "yolov5n-seg", "yolov6n", "yolov7-tiny", "yolov7-rep"),
    *("yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls", "yolov9t", "yolov10n"),
    *("yolo11n", "yolo12n", "yolo26n", "v5lite-e", "v5lite-s", "v5lite-c", "v5lite-g"),
]


def small(name: str = "yolov5n") -> torch.nn.Module:
    return randomise(build(name, nc=3, width=0.5))


def outputs(module, x) -> list[torch.Tensor]:
    with torch.no_grad():
        y = module(x)
    flat = lambda v: [v] if isinstance(v, torch.Tensor) else [t for each in v for t in flat(each)]  # noqa: E731
    return flat(y)


def image() -> torch.Tensor:
    return torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))


def assert_same(module, reference, *, tolerance=0.0) -> None:
    for ours, theirs in zip(outputs(module, image()), outputs(reference, image()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_back(name, tmp_path):
    model = small(name)
    save_like_a_trainer(tmp_path / "best.pt", model)
    assert "models.common" not in sys.modules
    checkpoint = read_checkpoint(tmp_path / "best.pt")
    assert list(checkpoint.module.state_dict()) == list(model.state_dict())
    assert_same(checkpoint.module, model)
    assert {type(part).__module__.split(".")[0] for part in checkpoint.module.modules()} <= {"torch", "onnxslim_yolo"}


def test_the_comparison_sees_one_percent(tmp_path):
    model = small()
    save_like_a_trainer(tmp_path / "best.pt", model)
    module = read_checkpoint(tmp_path / "best.pt").module
    module.model[1].conv.weight.data[0] *= 1.01
    with pytest.raises(AssertionError):
        assert_same(module, model, tolerance=1e-6)


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize(
    "options",
    [{"pickle_protocol": 2}, {"pickle_protocol": 3}, {"pickle_protocol": 4}, {"pickle_protocol": 5}]
    + [{"_use_new_zipfile_serialization": False, "pickle_protocol": p} for p in (2, 4)],
    ids=str,
)
def test_protocols_and_the_legacy_format(options, tmp_path):
    model = small()
    save_like_a_trainer(tmp_path / "best.pt", model, **options)
    assert_same(read_checkpoint(tmp_path / "best.pt").module, model)


def test_half_becomes_float(tmp_path):
    model = small()
    model.half().float()
    save_like_a_trainer(tmp_path / "best.pt", model, half=True)
    checkpoint = read_checkpoint(tmp_path / "best.pt")
    assert {t.dtype for t in checkpoint.state_dict.values()} == {torch.float32, torch.int64}
    assert_same(checkpoint.module, model, tolerance=1e-6)


def test_averaged_weights_come_first(tmp_path):
    model, other = small(), randomise(build("yolov5n", nc=3, width=0.5, seed=5), seed=5)
    save_like_a_trainer(tmp_path / "best.pt", model, key="ema", extra={"updates": 100, "model": other})
    assert_same(read_checkpoint(tmp_path / "best.pt").module, model)


def test_data_parallel_is_unwrapped(tmp_path):
    model = small()
    with in_repository(model):
        torch.save({"model": torch.nn.DataParallel(model)}, tmp_path / "best.pt")
    assert_same(read_checkpoint(tmp_path / "best.pt").module, model)


def test_pruning_masks_are_applied(tmp_path):
    from torch.nn.utils import prune

    model = small()
    prune.l1_unstructured(model.model[1].conv, "weight", amount=0.5)
    assert_same(model, model)  # runs the hook that multiplies
    save_like_a_trainer(tmp_path / "best.pt", model)
    module = read_checkpoint(tmp_path / "best.pt").module
    assert_same(module, model)
    assert "model.1.conv.weight" in module.state_dict()
    assert (module.model[1].conv.weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)


def test_unequal_widths_of_a_pruned_model(tmp_path):
    from onnxslim_yolo.models.blocks_common import C3Pruned

    model = small()
    stage = model.model[2]
    c1, c2 = stage.cv1.conv.in_channels, stage.cv3.conv.out_channels
    pruned = C3Pruned(c1, c2, (5, 3), [(7, 5)])
    pruned.i, pruned.f = stage.i, stage.f
    model.model[2] = randomise_part(pruned)
    save_like_a_trainer(tmp_path / "best.pt", model)
    assert_same(read_checkpoint(tmp_path / "best.pt").module, model)


def randomise_part(module):
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
    return module.eval()


def test_facts_about_the_model(tmp_path):
    model = small()
    model.names = ["red", "white", "platelet"]
    model.stride = torch.tensor([8.0, 16.0, 32.0])
    extra = {"license": "AGPL-3.0", "date": "2026-01-01", "train_args": {"imgsz": 320}, "optimizer": {"state": {}}}
    save_like_a_trainer(tmp_path / "best.pt", model, extra=extra)
    checkpoint = read_checkpoint(tmp_path / "best.pt")
    assert checkpoint.names == {0: "red", 1: "white", 2: "platelet"}
    assert (checkpoint.stride, checkpoint.imgsz, checkpoint.task) == (32, (320, 320), "detect")
    assert (checkpoint.licence, checkpoint.metadata["epoch"]) == ("AGPL-3.0", 7)
    assert checkpoint.onnx_metadata()["license"] == "AGPL-3.0"
    assert checkpoint.notes == ()


def test_a_fused_model_says_that_it_has_no_gamma(tmp_path):
    model = small()
    for part in model.modules():
        if hasattr(part, "conv") and getattr(part, "bn", None) is not None:
            part.conv = torch.nn.utils.fuse_conv_bn_eval(part.conv, part.bn)
            del part.bn
    with in_repository(model):
        for part in model.modules():
            if hasattr(part, "conv"):
                part.__dict__.pop("bn", None)
        torch.save({"model": model}, tmp_path / "best.pt")
    checkpoint = read_checkpoint(tmp_path / "best.pt")
    assert "no γ" in checkpoint.notes[0]
    assert outputs(checkpoint.module, image())


def test_unknown_classes_are_all_named(tmp_path):
    save_like_a_trainer(tmp_path / "best.pt", small(), rename={"C3": "MyStage", "SPPF": "MyPool"})
    with pytest.raises(InputError) as caught:
        read_checkpoint(tmp_path / "best.pt")
    text = str(caught.value)
    for words in ("models.common.MyStage (at 'model.2')", "models.common.MyPool", "register_block", "PRESERVE"):
        assert words in text


def test_a_registered_class_is_used(tmp_path):
    @register_block("MyStage")
    class MyStage(Block):
        MEMBERS = ("cv1", "cv2", "cv3", "m")

        def forward(self, x):
            return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))

    model = small()
    try:
        save_like_a_trainer(tmp_path / "best.pt", model, rename={"C3": "MyStage"})
        assert_same(read_checkpoint(tmp_path / "best.pt").module, model)
    finally:
        del BLOCKS["MyStage"]


def test_attributes_that_ask_for_much_are_refused(tmp_path):
    model = small()
    model.model[11].scale_factor = 1e6
    save_like_a_trainer(tmp_path / "best.pt", model)
    with pytest.raises(InputError, match="scale_factor"):
        read_checkpoint(tmp_path / "best.pt")


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_method_kept_as_an_attribute_is_only_a_name(protocol, tmp_path):
    """YOLOv5's segmentation head does that; protocol 2 writes it as a call of getattr."""
    model = small("yolov5n-seg")
    model.model[-1].detect = type(model.model[-1]).forward
    save_like_a_trainer(tmp_path / "best.pt", model, pickle_protocol=protocol)
    assert_same(read_checkpoint(tmp_path / "best.pt").module, model)


def test_the_transforms_that_a_classifier_keeps_do_not_matter(tmp_path, monkeypatch):
    """Ultralytics' trainer leaves torchvision's in the model: a member of an enumeration is pickled as a call."""
    home = "torchvision.transforms.functional"
    mode = enum.Enum("InterpolationMode", {"BILINEAR": "bilinear"}, module=home)
    for path, parts in {"torchvision": {}, "torchvision.transforms": {}, home: {"InterpolationMode": mode}}.items():
        stand_in = types.ModuleType(path)
        vars(stand_in).update(parts)
        monkeypatch.setitem(sys.modules, path, stand_in)
    model = small("yolov8n-cls")
    model.transforms = {"interpolation": mode.BILINEAR}
    save_like_a_trainer(tmp_path / "best.pt", model)
    checkpoint = read_checkpoint(tmp_path / "best.pt")
    assert_same(checkpoint.module, model)
    assert checkpoint.notes == ()


def test_tensors_that_do_not_fit_are_refused(tmp_path):
    model = small()
    model.model[1].bn.bias = torch.nn.Parameter(torch.zeros(3))
    save_like_a_trainer(tmp_path / "best.pt", model)
    with pytest.raises(InputError, match=r"model\.1\.bn.*BatchNorm2d.*bias should have shape"):
        read_checkpoint(tmp_path / "best.pt")


def test_a_bare_state_dict(tmp_path):
    state = small().state_dict()
    torch.save(state, tmp_path / "a.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        checkpoint = read_checkpoint(tmp_path / name)
        assert checkpoint.module is None
        assert list(checkpoint.state_dict) == list(state)
        assert all(torch.equal(checkpoint.state_dict[key], state[key]) for key in state)


def test_masks_in_a_state_dict(tmp_path):
    torch.save({"a.weight_orig": torch.ones(4), "a.weight_mask": torch.tensor([0.0, 1, 1, 0])}, tmp_path / "a.pt")
    state = read_checkpoint(tmp_path / "a.pt").state_dict
    assert {key: value.tolist() for key, value in state.items()} == {"a.weight": [0, 1, 1, 0]}
    torch.save({"a.weight_orig": torch.ones(4)}, tmp_path / "b.pt")
    with pytest.raises(InputError, match="no mask"):
        read_checkpoint(tmp_path / "b.pt")


def test_safetensors(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    state = {key: value.contiguous() for key, value in small().half().state_dict().items()}
    save_file(state, str(tmp_path / "a.safetensors"))
    read = read_checkpoint(tmp_path / "a.safetensors").state_dict
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key].float()) for key in state if state[key].is_floating_point())
    (tmp_path / "b.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(InputError, match="no safetensors file"):
        read_checkpoint(tmp_path / "b.safetensors")


def test_views_of_one_storage_and_strides(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "whole": base,
        "rows": base[1:3],
        "columns": base[:, 2:4],
        "turned": base.T,
        "half": base.half(),
        "none": base[:0],
    }
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save(state, tmp_path / "a.pt", **options)
        read = read_checkpoint(tmp_path / "a.pt").state_dict
        for key, value in state.items():
            torch.testing.assert_close(read[key], value.float(), rtol=0, atol=0)
            assert read[key].is_contiguous()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "bfloat16", "float64"])
def test_element_types(dtype, tmp_path):
    values = torch.tensor([0, 1, 3, 100]).to(getattr(torch, dtype))
    torch.save({"v": values}, tmp_path / "a.pt")
    read = read_checkpoint(tmp_path / "a.pt").state_dict["v"]
    assert read.tolist() == values.tolist()


def test_programs_need_trust(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)).eval()
    path = tmp_path / "a.torchscript"
    torch.jit.save(torch.jit.trace(model, torch.zeros(1, 3, 8, 8)), str(path))
    with pytest.raises(InputError, match="TorchScript") as caught:
        read_checkpoint(path)
    assert "--trust" in str(caught.value)
    assert_same(read_checkpoint(path, trust=True).module, model, tolerance=1e-6)
    torch.export.save(torch.export.export(model, (torch.zeros(1, 3, 64, 96),)), tmp_path / "a.pt2")
    with pytest.raises(InputError, match=r"torch\.export"):
        read_checkpoint(tmp_path / "a.pt2")
    assert_same(read_checkpoint(tmp_path / "a.pt2", trust=True).module, model, tolerance=1e-6)


@pytest.mark.material
@pytest.mark.parametrize(("file", "norms", "classes"), [("yolov5n-coco-v6.pt", 57, 80), ("v5lite-s-coco.pt", 79, 80)])
def test_published_weights_open_and_trace(file, norms, classes, material):
    checkpoint = read_checkpoint(material / "weights" / file)
    assert (len(checkpoint.names), checkpoint.stride) == (classes, 32)
    model = trace(checkpoint.module, torch.zeros(1, 3, 64, 64))
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == norms
    names = {tensor.name for tensor in model.graph.initializer}
    weights = {key for key in checkpoint.state_dict if key.endswith(("weight", "bias", "running_mean", "running_var"))}
    assert weights <= names


@pytest.mark.material
def test_dead_channels_of_yolov5_lite(material):
    state = read_checkpoint(material / "weights" / "v5lite-s-coco.pt").state_dict
    variances = np.concatenate([value.numpy() for key, value in state.items() if key.endswith("running_var")])
    assert (variances < 1e-8).sum() == 22
