"""The rows of a YOLO model yaml, `[from, number, module, args]`: one small function a module, and the table of them.

A row says how a layer is wired: strides, kernel sizes, shortcuts. How wide it is, how many blocks a stage has, and
which kind of block, is read off the state_dict's keys wherever they tell, so pruned weights need no yaml of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxslim_yolo.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Row:
    """A row of the yaml, and the tensors of its layer.

    Attributes:
        inputs: channels of its inputs as the yaml has them.
        args: the row's arguments; "None" has become None.
        repeats: how often its block stands in it, scaled by depth.
        width: nominal channels → channels as the yaml has them.
        tensors: the state_dict's entries of this layer, without `model.<i>.`.
        options: the yaml's top level (anchors, kpt_shape …).
        stride: of its inputs in pixels, for detection heads.
    """

    inputs: tuple[int, ...]
    args: list[Any]
    repeats: int
    width: Callable[[int], int]
    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any]
    stride: tuple[float, ...] = ()

    def arg(self, index: int, default: Any = None) -> Any:
        """An argument, or its default where the row is shorter."""
        return self.args[index] if index < len(self.args) else default

    @property
    def c1(self) -> int:
        """Channels of the first input."""
        return self.inputs[0]

    @property
    def c2(self) -> int:
        """Channels the first argument asks for."""
        return self.width(int(self.args[0]))

    def count(self, prefix: str) -> int:
        """How many numbered members stand under `prefix` in the state_dict."""
        numbers = {k[len(prefix) :].split(".")[0] for k in self.tensors if k.startswith(prefix)}
        return sum(number.isdigit() for number in numbers)

    def tensor(self, name: str) -> Tensor:
        """A tensor of this layer.

        Raises:
            InputError: it is not in the state_dict.
        """
        if name not in self.tensors:
            raise InputError(f"the state_dict has no '{name}' for this layer")
        return self.tensors[name]

    def has(self, start: str) -> bool:
        """Whether the state_dict has a key that starts so."""
        return any(key.startswith(start) for key in self.tensors)


def _conv(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_common import Conv

    return Conv(row.c1, row.c2, *row.args[1:5])


def _depthwise(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_common import Conv

    return Conv(row.c1, row.c2, row.arg(1, 1), row.arg(2, 1), g=math.gcd(row.c1, row.c2))


def _focus(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_common import Focus

    return Focus(row.c1, row.c2, row.arg(1, 1))


def _bottleneck(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_common import Bottleneck

    # YOLOv5's begins with a 1×1 convolution, Ultralytics' with a 3×3 one; repeated ones are numbered in front.
    sizes = {key: int(value.shape[-1]) for key, value in row.tensors.items() if key.endswith(".conv.weight")}
    first, second = (next((n for k, n in sizes.items() if part in k), 3) for part in ("cv1.", "cv2."))
    return Bottleneck(row.c1, row.c2, shortcut=row.arg(1, True), k=(first, second))


def _c3(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_common import C3

    return C3(row.c1, row.c2, row.count("m."), shortcut=row.arg(1, True))


def _c2(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_csp import C2

    return C2(row.c1, row.c2, row.count("m."), shortcut=row.arg(1, True))


def _c3_ghost(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_csp import C3Ghost

    return C3Ghost(row.c1, row.c2, row.count("m."))


def _ghost(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_csp import GhostConv

    return GhostConv(row.c1, row.c2, row.arg(1, 1), row.arg(2, 1))


def _spp(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_common import SPP

    return SPP(row.c1, row.c2, tuple(row.arg(1, (5, 9, 13))))


def _sppf(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_common import SPPF

    later = len(row.args) > 2  # YOLO26 gives the number of pools and the shortcut, and cv1 has no activation
    return SPPF(row.c1, row.c2, row.arg(1, 5), row.arg(2, 3), shortcut=row.arg(3, False), act=not later)


def _c2f(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_c2f import C2f

    return C2f(row.c1, row.c2, row.count("m."), shortcut=row.arg(1, False))


def _c3k2(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_c2f import C3k2

    attention = row.has("m.0.1.attn")
    return C3k2(row.c1, row.c2, row.count("m."), c3k=row.has("m.0.cv3"), e=row.arg(2, 0.5), attn=attention)


def _c2fcib(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_c2f import C2fCIB

    large = row.has("m.0.cv1.2.conv1.") or row.has("m.0.cv1.2.conv.conv.")
    return C2fCIB(row.c1, row.c2, row.count("m."), shortcut=row.arg(1, False), lk=large)


def _scdown(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_c2f import SCDown

    return SCDown(row.c1, row.c2, row.arg(1, 3), row.arg(2, 2))


def _psa(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_c2f import PSA

    return PSA(row.c1)


def _c2psa(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_c2f import C2PSA

    return C2PSA(row.c1, row.count("m."))


def _a2c2f(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_area import A2C2f

    area = row.arg(2, 1) if row.arg(1, True) else None
    return A2C2f(row.c1, row.c2, row.count("m."), area=area, residual="gamma" in row.tensors)


def _elan(kind: str) -> Callable[[Row], nn.Module]:
    def make(row: Row) -> nn.Module:
        from onnxslim_yolo.models import blocks_elan

        make_block: Callable[..., nn.Module] = getattr(blocks_elan, kind)
        return make_block(row.c1, row.c2, *row.args[1:])

    return make


def _upsample(row: Row) -> nn.Module:
    from torch import nn

    return nn.Upsample(size=row.arg(0), scale_factor=row.arg(1), mode=row.arg(2, "nearest"))


def _plain(kind: str) -> Callable[[Row], nn.Module]:
    def make(row: Row) -> nn.Module:
        from torch import nn

        module: nn.Module = getattr(nn, kind)(*(tuple(a) if isinstance(a, list) else a for a in row.args))
        return module

    return make


def _concat(row: Row) -> nn.Module:
    from onnxslim_yolo.models.blocks_common import Concat

    return Concat(row.arg(0, 1))


def _classify(row: Row) -> nn.Module:
    from onnxslim_yolo.models.heads_dfl import Classify

    return Classify(row.c1, int(row.tensor("linear.weight").shape[0]))


def _detect(row: Row) -> nn.Module:
    from onnxslim_yolo.models.heads import AnchorDetect
    from onnxslim_yolo.models.heads_dfl import Detect

    if "anchors" not in row.tensors:
        bins = int(row.tensor("cv2.0.2.weight").shape[0]) // 4
        ends = row.has("one2one_cv2.")
        return Detect(row.inputs, _classes(row), row.stride, reg_max=bins, light=_light(row), end2end=ends)
    levels, count, _ = row.tensor("anchors").shape
    outputs = int(row.tensor("m.0.weight").shape[0]) // count
    masks = int(row.arg(2, 32)) if row.has("proto.") else 0
    anchors = [[1.0] * (2 * count)] * levels  # the state_dict's own replace them
    wide = {"nm": masks, "npr": row.width(int(row.arg(3, 256)))} if masks else {}
    return AnchorDetect(row.inputs, outputs - 5 - masks, anchors, row.stride, implicit=row.has("ia."), **wide)


def _segment(row: Row) -> nn.Module:
    from onnxslim_yolo.models.heads_tasks import Segment

    if "anchors" in row.tensors:
        return _detect(row)
    masks = int(row.tensor("cv4.0.2.weight").shape[0])
    return Segment(row.inputs, _classes(row), row.stride, nm=masks, npr=row.width(256), light=_light(row))


def _pose(row: Row) -> nn.Module:
    from onnxslim_yolo.models.heads_tasks import Pose

    shape = row.options.get("kpt_shape", (17, 3))
    return Pose(row.inputs, _classes(row), row.stride, kpt_shape=tuple(shape), light=_light(row))


def _obb(row: Row) -> nn.Module:
    from onnxslim_yolo.models.heads_tasks import OBB

    angles = int(row.tensor("cv4.0.2.weight").shape[0])
    return OBB(row.inputs, _classes(row), row.stride, ne=angles, light=_light(row))


def _classes(row: Row) -> int:
    return int(row.tensor("cv3.0.2.weight").shape[0])


def _light(row: Row) -> bool:
    return row.has("cv3.0.0.0.")


ROWS: dict[str, Callable[[Row], nn.Module]] = {
    "Conv": _conv,
    "DWConv": _depthwise,
    "Focus": _focus,
    "Bottleneck": _bottleneck,
    "C3": _c3,
    "C2": _c2,
    "C3Ghost": _c3_ghost,
    "GhostConv": _ghost,
    "SPP": _spp,
    "SPPF": _sppf,
    "C2f": _c2f,
    "C3k2": _c3k2,
    "C2fCIB": _c2fcib,
    "SCDown": _scdown,
    "PSA": _psa,
    "C2PSA": _c2psa,
    "A2C2f": _a2c2f,
    **{kind: _elan(kind) for kind in ("RepNCSPELAN4", "ELAN1", "AConv", "ADown", "SPPELAN")},
    "nn.Upsample": _upsample,
    **{f"nn.{kind}": _plain(kind) for kind in ("MaxPool2d", "ZeroPad2d", "Identity")},
    "Concat": _concat,
    "Detect": _detect,
    "v10Detect": _detect,
    "Segment": _segment,
    "Pose": _pose,
    "OBB": _obb,
    "Classify": _classify,
}
"""The yaml's name of a module → what makes it."""

HEADS = frozenset({"Detect", "v10Detect", "Segment", "Pose", "OBB", "Classify"})
"""Heads: they need their levels' strides and end the model."""

STAGES = frozenset({"C2", "C3", "C3Ghost", "C2f", "C3k2", "C2fCIB", "C2PSA", "A2C2f", "RepNCSPELAN4"})
"""Modules that hold their repetitions themselves; others are repeated one after the other."""
