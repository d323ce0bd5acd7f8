"""What a checkpoint's head says of itself: used, known not to touch the result, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from repositories import save_like_a_trainer  # noqa: E402

from onnxslim_yolo.errors import InputError, UnsupportedError  # noqa: E402
from onnxslim_yolo.load.checkpoint import read_checkpoint  # noqa: E402
from onnxslim_yolo.models.blocks_common import Conv  # noqa: E402
from onnxslim_yolo.models.container import Assembler  # noqa: E402
from onnxslim_yolo.models.heads import AnchorDetect  # noqa: E402
from onnxslim_yolo.models.heads_dfl import Detect  # noqa: E402
from onnxslim_yolo.models.heads_tasks import OBB, Pose, Segment  # noqa: E402
from onnxslim_yolo.models.yolov6 import YOLOv6  # noqa: E402

nn = torch.nn
STRIDES = (4.0, 8.0)
ANCHORS = ((10, 13, 16, 30), (33, 23, 30, 61))


def network(make: Callable[..., nn.Module]) -> nn.Module:
    """Two levels and a head."""
    net = Assembler(lambda c: c)
    for c in (8, 8, 16):
        net.block(Conv, c, 3, 2)
    net.add(make((8, 16)), 16, [1, 2])
    return net.finish().eval()


HEADS: dict[str, Callable[[], nn.Module]] = {
    "v5": lambda: network(lambda ch: AnchorDetect(ch, 2, ANCHORS, STRIDES)),
    "v7": lambda: network(lambda ch: AnchorDetect(ch, 2, ANCHORS, STRIDES, implicit=True)),
    "v5-seg": lambda: network(lambda ch: AnchorDetect(ch, 2, ANCHORS, STRIDES, nm=4, npr=8)),
    "v6": lambda: YOLOv6(2, width=0.25).eval(),
    "v8": lambda: network(lambda ch: Detect(ch, 2, STRIDES)),
    "v10": lambda: network(lambda ch: Detect(ch, 2, STRIDES, light=True, end2end=True)),
    "26": lambda: network(lambda ch: Detect(ch, 2, STRIDES, reg_max=1, light=True, end2end=True)),
    "v8-seg": lambda: network(lambda ch: Segment(ch, 2, STRIDES, nm=4, npr=8)),
    "v8-pose": lambda: network(lambda ch: Pose(ch, 2, STRIDES, kpt_shape=(3, 3))),
    "v8-obb": lambda: network(lambda ch: OBB(ch, 2, STRIDES)),
}


def read(path: Path, kind: str, **attributes: object) -> nn.Module:
    """The checkpoint's rebuilt module, its head's attributes changed before it was written."""
    model = HEADS[kind]()
    head = model.detect if kind == "v6" else model.model[-1]
    for name, value in attributes.items():
        if name == "anchor_grid":
            head.register_buffer(name, value)
        else:
            setattr(head, name, value)
    save_like_a_trainer(path / "m.pt", model)
    module = read_checkpoint(path / "m.pt").module
    assert module is not None
    return module


def image() -> torch.Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


UNKNOWN = {"scale": 2, "act": "relu", "wide": True, "bias_of": 0.5, "order": (1, 0), "mode": ["a"], "_shift": 1}


@pytest.mark.parametrize("kind", HEADS)
def test_what_no_head_is_known_to_hold_is_refused_by_name(kind, tmp_path):
    read(tmp_path, kind)
    for name, value in [*UNKNOWN.items()][: 1 if kind == "v6" else None]:
        with pytest.raises((InputError, UnsupportedError)) as caught:
            read(tmp_path, kind, **{name: value})
        assert name in str(caught.value) and caught.value.exit_status == 2


KNOWN = {
    "nc": ("v5 v7 v8 v10 26 v8-seg", 3),
    "no": ("v5 v7 v8 v10 26 v8-seg v8-obb", 5),
    "nl": ("v5 v7 v6 v8 v10 26 v8-obb", 1),
    "na": ("v5 v7", 3),
    "nm": ("v5-seg v8-seg", 2),
    "ne": ("v8-obb", 2),
    "reg_max": ("v8 v10 26", 8),
    "use_dfl": ("v8", False),
    "include_nms": ("v5 v7", True),
    "end2end": ("v10 26", False),
    "_end2end": ("v10 26 v8", "no"),
    "agnostic_nms": ("v10 26", True),
    "xyxy": ("v8 v10 v8-seg", True),
    "output": ("v8", 3.5),
    "anchor_grid": ("v5 v7", torch.ones(2, 1, 2, 1, 1, 2)),
}
CONTRADICTIONS = [(name, kind) for name, (kinds, _) in KNOWN.items() for kind in kinds.split() if name != "output"]


@pytest.mark.parametrize(("name", "kind"), CONTRADICTIONS)
def test_what_contradicts_the_rest_of_the_head_is_refused(name, kind, tmp_path):
    with pytest.raises((InputError, UnsupportedError)) as caught:
        module = read(tmp_path, kind, **{name: KNOWN[name][1]})
        if name == "reg_max":  # bins that do not fit are met when it runs
            module(image())
    assert name in str(caught.value) or "columns an anchor" in str(caught.value) or name in ("nc", "reg_max")


@pytest.mark.parametrize("kind", ["v10", "26"])
def test_a_head_that_is_set_to_one_to_many_gives_that(kind, tmp_path):
    """As Ultralytics' validation leaves every such checkpoint from 8.4 on: what it computes are boxes for NMS."""
    best, every = read(tmp_path, kind), read(tmp_path, kind, _end2end=False)
    every.load_state_dict(best.state_dict())
    plain = HEADS["v8"]().model[-1]
    plain.cv2, plain.cv3, plain.dfl, plain.reg_max = (
        getattr(every.model[-1], name) for name in ("cv2", "cv3", "dfl", "reg_max")
    )
    with torch.no_grad():
        found, chosen = every(image()), best(image())
        every.model[-1] = plain
        assert torch.equal(found, every(image())) and found.shape == (1, 6, 320) and chosen.shape == (1, 300, 6)
    assert best.model[-1].idle() == ("cv2", "cv3")
    fused = read(tmp_path, kind, _end2end=False, cv2=None, cv3=None)  # nothing else is left of it
    fused.load_state_dict(best.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.equal(fused(image()), chosen)


HARMLESS = {
    "legacy": True, "shape": (1, 3, 64, 64), "export": True, "format": "onnx", "dynamic": True, "inplace": False,
    "grid": [torch.zeros(1)], "strides": torch.ones(1, 80), "prior_prob": 0.01,
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADS)
def test_what_trainers_and_exporters_leave_changes_nothing(kind, tmp_path):
    held = {"v8-obb": {"angle": torch.zeros(1, 1, 320)}, "v8": {"anchors": torch.ones(2, 320), "_end2end": True}}
    plain, told = read(tmp_path, kind), read(tmp_path, kind, **HARMLESS, **held.get(kind, {}))
    told.load_state_dict(plain.state_dict())
    with torch.no_grad():
        pairs = zip(_flat(plain(image())), _flat(told(image())), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def _flat(value: object) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else [each for part in value for each in _flat(part)]


def test_how_many_boxes_an_end_to_end_head_gives_is_read(tmp_path):
    assert read(tmp_path, "v10", max_det=7)(image()).shape == (1, 7, 6)
    assert read(tmp_path, "v10", max_det=-1)(image()).shape == (1, 300, 6)  # THU-MIG's: set when it is exported


def test_where_in_a_cell_its_centre_lies_is_read(tmp_path):
    plain, moved = read(tmp_path, "v6"), read(tmp_path, "v6", grid_cell_offset=0.25)
    moved.load_state_dict(plain.state_dict())
    with torch.no_grad():
        by = (plain(image()) - moved(image()))[0, :, :2]
    strides = torch.cat([torch.full((64 // s * 64 // s, 2), s / 4.0) for s in (8, 16, 32)])
    torch.testing.assert_close(by, strides)


def test_an_early_heads_second_anchors_say_the_same(tmp_path):
    pixels = torch.tensor(ANCHORS).view(2, 1, 2, 1, 1, 2).float()
    read(tmp_path, "v7", anchor_grid=pixels.half())
