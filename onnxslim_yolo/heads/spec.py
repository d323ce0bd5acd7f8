"""What a detector's outputs mean: the kind of its head and the numbers needed to decode it.

A file says it itself (metadata `onnxslim_yolo.head`, written by the pass `head`), or it is told by the outputs' shapes:

    kind        outputs                                       meaning of the numbers
    v5          (b, N, 5 + nc + e)                            cx cy w h, objectness, probabilities; pixels
    v8          (b, 4 + nc + e, N)                            cx cy w h, probabilities; pixels
    end2end     (b, k, 6 + e)                                 x1 y1 x2 y2, score, class; pixels, duplicates removed
    fastestdet  (b, 5 + nc, h, w)                             objectness, tanh/σ box, probabilities
    v5-raw      per level (b, na·(5 + nc + e), h, w)          logits; needs anchors
    v8-raw      per level (b, 4·reg_max + nc, h, w), or the boxes' and the classes' maps apart
    points      a row a cell, boxes not decoded           see `head_points` (YOLOX, NanoDet, PicoDet, SCRFD, YuNet)

with nc classes and e further numbers a box (mask coefficients, key points, an angle).
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.heads.points import STRIDES, Points

HEAD_KEY = "onnxslim_yolo.head"
"""The metadata key that holds a `HeadSpec` as JSON."""

RANKED_KEY = "end2end"
"""The metadata key by which Ultralytics tells, of a table with more than six columns, that its rows are the best boxes
already: "True"."""

Kind = Literal["v5", "v8", "end2end", "fastestdet", "v5-raw", "v8-raw", "points"]
Sizes = Literal["square", "exp"]
Extra = Literal["", "mask", "pose", "angle"]
Shape = Sequence[int]


@dataclass(frozen=True)
class HeadSpec:
    """How to decode a detector's outputs.

    Attributes:
        kind: see the module.
        nc: number of classes.
        strides: pixels per cell and level; raw heads and fastestdet.
        anchors: per level (w, h) in pixels; v5-raw.
        scale_xy: v5-raw: a centre is (α·σ(x) − (α − 1)/2 + cell)·stride; YOLOv5's α is 2. One number, or one a level.
        centres: v5-raw: "logistic" as above, or "linear" for (x + cell)·stride (YOLOX).
        sizes: v5-raw: "square" for anchor·(2σ(w))², "exp" for anchor·exp(w). One rule, or one a level.
        reg_max: v8-raw: bins a side; 1 is a plain distance.
        joint: v8-raw: boxes and classes of a level share one map; else all box maps come first, then all class maps.
        end2end: v8-raw: one-to-one towers (v10, 26): the best 300, no NMS.
        extra: what the further numbers are; v8-raw has them in maps of their own, behind the others.
        extra_channels: how many there are.
        bgr: the network was trained on BGR images (FastestDet reads them with OpenCV and keeps its channel order).
        rows: a cell's numbers stand last: (b, N, 4 + nc + e) for v8, (b, h, w, 5 + nc) for fastestdet.
        points: points: where the numbers stand.
    """

    kind: Kind
    nc: int
    strides: tuple[float, ...] = ()
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    scale_xy: float | tuple[float, ...] = 2.0
    centres: Literal["logistic", "linear"] = "logistic"
    sizes: Sizes | tuple[Sizes, ...] = "square"
    reg_max: int = 16
    joint: bool = True
    end2end: bool = False
    extra: Extra = ""
    extra_channels: int = 0
    bgr: bool = False
    rows: bool = False
    points: Points | None = None

    @property
    def levels(self) -> int:
        """The number of feature maps that boxes come from."""
        return len(self.strides)

    @property
    def scales(self) -> tuple[float, ...]:
        """`scale_xy` of every level."""
        return self.scale_xy if isinstance(self.scale_xy, tuple) else (self.scale_xy,) * self.levels

    @property
    def size_rules(self) -> tuple[Sizes, ...]:
        """`sizes` of every level."""
        return self.sizes if isinstance(self.sizes, tuple) else (self.sizes,) * self.levels

    @property
    def outputs(self) -> int:
        """How many of the model's outputs belong to the head, from the first on."""
        if self.points is not None:
            return len(self.points.order) or 1
        if not self.kind.endswith("-raw"):
            return 1
        maps = self.levels if self.kind == "v5-raw" or self.joint else 2 * self.levels
        return maps + (self.levels if self.extra and self.kind == "v8-raw" else 0)

    def to_json(self) -> str:
        """As JSON, keys sorted."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> HeadSpec:
        """The inverse of `to_json`. Raises InputError if the text is no description of a head."""
        try:
            data = json.loads(text)
            anchors = tuple(tuple((float(w), float(h)) for w, h in level) for level in data.pop("anchors", ()))
            strides = tuple(float(stride) for stride in data.pop("strides", ()))
            scale = data.pop("scale_xy", 2.0)
            scales = tuple(float(alpha) for alpha in scale) if isinstance(scale, list) else float(scale)
            sizes = data.pop("sizes", "square")
            rules = tuple(sizes) if isinstance(sizes, list) else sizes
            points = data.pop("points", None)
            data["points"] = None if points is None else Points.from_data(points)
            spec = cls(strides=strides, anchors=anchors, scale_xy=scales, sizes=rules, **data)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"the metadata '{HEAD_KEY}' is damaged: {error}") from error
        if spec.kind not in get_args(Kind):
            raise InputError(f"the metadata '{HEAD_KEY}' names an unknown kind of head: '{spec.kind}'")
        if len(spec.scales) != spec.levels or len(spec.size_rules) != spec.levels:
            raise InputError(f"the metadata '{HEAD_KEY}' has not one scale and rule of size a level")
        if not set(spec.size_rules) <= set(get_args(Sizes)):
            raise InputError(f"the metadata '{HEAD_KEY}' names an unknown rule of size: {spec.sizes!r:.60}")
        return spec


def class_names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The class names in a file's metadata (Ultralytics writes a Python dict as text), or () if there are none."""
    text = metadata.get("names")
    if not text:
        return ()
    try:
        names = ast.literal_eval(text)
        if isinstance(names, dict):
            names = [names[key] for key in sorted(names)]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # TypeError: keys of several kinds
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


BINS = (1, 16, 17)
"""Bins a side of the heads whose maps have boxes in front of classes: none; YOLOv8's; YOLOv6's and PP-YOLOE's."""

_JOIN = "export the head with its levels joined to one table, as its repository's own script does"


def identify_head(
    shapes: Sequence[Shape],
    size: tuple[int, int],
    metadata: Mapping[str, str] | None = None,
    nc: int | None = None,
) -> HeadSpec:
    """The head of a model with outputs of these shapes on inputs of `size` (h, w) pixels.

    Args:
        shapes: the outputs' shapes, as measured or declared, without symbols.
        size: the input's height and width.
        metadata: the file's; `onnxslim_yolo.head` decides, `names` tells the number of classes.
        nc: number of classes, if known otherwise.

    Raises:
        UnsupportedError: the shapes fit no known head.
    """
    metadata = metadata or {}
    if HEAD_KEY in metadata:
        return HeadSpec.from_json(metadata[HEAD_KEY])
    nc = nc or len(class_names(metadata)) or None
    tables = [shape for shape in shapes[:1] if len(shape) == 3]
    if tables:
        return _table(tables[0], size, nc, metadata)
    maps = [shape for shape in shapes if len(shape) == 4]
    if len(shapes) == 1 and maps and maps[0][1] > 5 and nc in (None, maps[0][1] - 5):
        return HeadSpec("fastestdet", maps[0][1] - 5, strides=_map_strides(maps, size), bgr=True)
    if len(shapes) == 1 and maps and maps[0][3] > 5 and nc == maps[0][3] - 5:
        strides = (size[0] / maps[0][1],)
        return HeadSpec("fastestdet", nc, strides=strides, bgr=True, rows=True)
    if len(maps) == len(shapes) and nc is not None and len(maps) > 1:
        return _raw(maps, size, nc)
    raise _unknown(shapes, "give the number of classes, or a file whose metadata describes its head")


def _table(shape: Shape, size: tuple[int, int], nc: int | None, metadata: Mapping[str, str]) -> HeadSpec:
    first, second = shape[1], shape[2]
    rows = first > second
    # Six columns are a box with score and class, or YOLOv5's with a single class: the number of classes decides.
    ranked = first == 300 or metadata.get(RANKED_KEY) == "True" or (second == 6 and nc not in (None, 1))
    if rows and (ranked or first < _cells(size, (32,))):
        if second < 6:
            raise _unknown([shape], "an end-to-end head has at least 6 numbers a box")
        return HeadSpec("end2end", nc or 0, **_extra(second - 6, metadata))
    columns, boxes = (second, first) if rows else (first, second)
    if rows and nc is not None and columns == 4 + nc and _fits(boxes, size):
        return HeadSpec("v8", nc, rows=True)
    if rows and columns >= 6 and _fits(boxes, size):
        known = columns - 5 if nc is None or metadata.get("task", "detect") == "detect" else nc
        return HeadSpec("v5", known, **_extra(columns - 5 - known, metadata))
    if not rows and columns >= 5 and _fits(boxes, size):
        known = columns - 4 if nc is None or metadata.get("task", "detect") == "detect" else nc
        return HeadSpec("v8", known, **_extra(columns - 4 - known, metadata))
    raise _unknown([shape], f"no combination of strides gives {boxes} boxes on a {size[0]}x{size[1]} input")


def _raw(maps: Sequence[Shape], size: tuple[int, int], nc: int) -> HeadSpec:
    channels = [shape[1] for shape in maps]
    half = len(maps) // 2
    if len(set(channels)) == 1 and channels[0] > 4 + nc - 1 and (channels[0] - nc) % 4 == 0:
        if (channels[0] - nc) // 4 not in BINS:
            raise _unknown(maps, f"whether {nc} classes come first (NanoDet) or last (YOLOv8) nothing says: {_JOIN}")
        return HeadSpec("v8-raw", nc, strides=_map_strides(maps, size), reg_max=(channels[0] - nc) // 4)
    boxes, scores = channels[:half], channels[half:]
    if len(set(boxes)) == 1 and set(scores) == {nc} and boxes[0] % 4 == 0:
        strides = _map_strides(maps[:half], size)
        return HeadSpec("v8-raw", nc, strides=strides, reg_max=boxes[0] // 4, joint=False)
    raise _unknown(
        maps, f"raw maps with anchors need the anchors: compile with --head raw, which records them, or {_JOIN}"
    )


def _extra(channels: int, metadata: Mapping[str, str]) -> dict[str, Any]:
    kinds: dict[str, Extra] = {"segment": "mask", "pose": "pose", "obb": "angle"}
    if channels <= 0:
        return {}
    return {"extra": kinds.get(metadata.get("task", ""), "mask"), "extra_channels": channels}


def _map_strides(maps: Sequence[Shape], size: tuple[int, int]) -> tuple[float, ...]:
    return tuple(size[0] / shape[2] for shape in maps)


def _cells(size: tuple[int, int], strides: Sequence[int]) -> int:
    return sum((size[0] // stride) * (size[1] // stride) for stride in strides)


def _fits(boxes: int, size: tuple[int, int]) -> bool:
    return any(boxes % max(_cells(size, s), 1) == 0 and boxes // max(_cells(size, s), 1) <= 9 for s in STRIDES)


def _unknown(shapes: Sequence[Shape], hint: str) -> UnsupportedError:
    listed = ", ".join("x".join(map(str, shape)) for shape in shapes)
    return UnsupportedError(f"outputs of shape {listed} fit no head that is known", hint=hint)
