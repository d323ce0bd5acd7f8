"""Rebuilding a model from class names, sub-modules, tensors and attributes gives the same model."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

from onnxslim_yolo.errors import InputError, UnsupportedError  # noqa: E402
from onnxslim_yolo.models import BLOCKS, Block, block_class, rebuild  # noqa: E402
from onnxslim_yolo.models.blocks_common import C3Pruned, Conv  # noqa: E402
from tests.zoo import images, module  # noqa: E402

ALIASES = {"LayeredModel": "DetectionModel", "AnchorDetect": "Detect", "YOLOv6": "Model", "RepVGGBlock": "RepVGGBlock"}
CHECKPOINT_NAMES = {cls.__name__: name for name, cls in BLOCKS.items()} | ALIASES
LAYERED = [
    *("yolov3-tiny", "yolov5n", "yolov5n-focus", "yolov5n-seg", "yolov6n", "yolov7-tiny", "yolov7-rep", "yolov8n"),
    *("yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls", "yolov9t", "yolov10n", "yolo11n", "yolo12n"),
    *("yolo26n", "v5lite-e", "v5lite-s", "v5lite-c", "v5lite-g"),
]


def _copy(part):
    """What a checkpoint reader does: leaves as they are, everything else rebuilt."""
    children = {key: None if child is None else _copy(child) for key, child in part._modules.items()}
    if type(part).__module__.startswith("torch.nn"):
        copy = part
        for key, child in children.items():
            part._modules[key] = child
    else:
        name = next((n for n in (type(part).__name__, CHECKPOINT_NAMES.get(type(part).__name__)) if n in BLOCKS), None)
        name = ALIASES.get(type(part).__name__, name)
        junk = {"c": 1, "forward": print, "names": {0: "cat"}}
        plain = {key: value for key, value in vars(part).items() if not key.startswith("_")}
        if "stride" in plain and isinstance(plain["stride"], tuple):
            plain["stride"] = torch.tensor(plain["stride"])
        copy = rebuild(
            name, modules=children, parameters=part._parameters, buffers=part._buffers, attributes=plain | junk
        )
        assert not hasattr(copy, "names")
    copy.f = getattr(part, "f", -1)
    return copy.eval()


@pytest.mark.parametrize("name", LAYERED)
def test_rebuilt_model_computes_the_same(name):
    net, x = module(name), images(1, 96)
    with torch.no_grad():
        want = net(x)
        got = _copy(net)(x)
    for a, b in zip(*((y if isinstance(y, tuple) else (y,)) for y in (want, got)), strict=True):
        assert torch.equal(a, b)


def test_a_name_with_two_meanings_is_told_apart_by_its_members():
    assert block_class("Detect", {"m", "anchors"}) is not block_class("Detect", {"cv2", "cv3"})
    assert block_class("RepConv", {"rbr_reparam"}) is not block_class("RepConv", {"conv1", "conv2", "act"})


def test_unknown_names_and_wrong_members_are_refused():
    with pytest.raises(InputError, match="named 'Mystery'"):
        block_class("Mystery", ())
    with pytest.raises(InputError, match="cv2, cv3"):
        block_class("Detect", {"nothing"})
    with pytest.raises(InputError, match="lacks the attribute 'add'"):
        rebuild("Bottleneck", modules={"cv1": Conv(1, 1), "cv2": Conv(1, 1)}, parameters={}, buffers={}, attributes={})


def test_an_end_to_end_mask_head_is_refused_instead_of_mixing_its_towers():
    head = module("yolov8n-seg").model[-1]
    towers = {"one2one_cv2": head.cv2, "one2one_cv3": head.cv3}
    with pytest.raises(UnsupportedError, match="one-to-one"):
        rebuild("Segment", modules=head._modules | towers, parameters={}, buffers={}, attributes=vars(head))


def test_defaults_stand_in_for_what_old_checkpoints_lack():
    parts = {"cv1": Conv(4, 2), "cv2": Conv(8, 4), "m": nn.MaxPool2d(5, 1, 2)}
    pool = rebuild("SPPF", modules=parts, parameters={}, buffers={}, attributes={}).eval()
    assert (pool.n, pool.add) == (3, False)
    fused = rebuild(
        "Conv", modules={"conv": nn.Conv2d(3, 4, 1), "act": nn.SiLU()}, parameters={}, buffers={}, attributes={}
    )
    assert fused.bn is None
    assert fused(images()).shape == (1, 4, 64, 64)


def test_unequal_widths_run_without_stored_sizes():
    block = C3Pruned(8, 12, (5, 3), [(7, 5), (2, 5)]).eval()
    assert block(torch.rand(1, 8, 4, 4)).shape == (1, 12, 4, 4)


def test_c2f_takes_its_split_from_its_parts():
    net = module("yolov8n")
    block = net.model[2]
    width = block.cv1.conv.out_channels
    # One channel of the untouched part goes: 4 outputs of cv1 are no longer two equal halves.
    block.cv1.conv = nn.Conv2d(block.cv1.conv.in_channels, width - 1, 1, bias=False)
    block.cv1.bn = nn.BatchNorm2d(width - 1).eval()
    block.cv2.conv = nn.Conv2d(block.cv2.conv.in_channels - 1, block.cv2.conv.out_channels, 1, bias=False)
    with torch.no_grad():
        assert net(images()).shape == (1, 8, 84)


def test_every_block_says_what_it_needs():
    for name, cls in BLOCKS.items():
        assert issubclass(cls, Block)
        assert cls.__doc__, name
