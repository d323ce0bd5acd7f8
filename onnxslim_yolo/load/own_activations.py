"""Activations of a repository's own under a name that torch has as well: whose code is it?

A pickle holds no code, and an activation neither tensors nor attributes by which to tell one from another: nothing but
the module it comes from. Where that is one in which a published repository defines torch's function again (for a torch
that lacked it, or for export), it is taken for torch's, and a note says so. Anything else may be anything: only the
author's own export of the same weights (`--reference`) shows what it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.load.record_checks import children, is_plain
from onnxslim_yolo.load.records import Record

_SWISH = frozenset({"SiLU", "Swish", "MemoryEfficientSwish"})
_ALL = _SWISH | {"Hardswish", "Hardsigmoid", "Mish", "MemoryEfficientMish"}
_PUBLISHED: Mapping[str, frozenset[str]] = {
    # YOLOv3, YOLOv5, YOLOv7, YOLOR, YOLOv9, ScaledYOLOv4; YOLOv5 and YOLOv7 also as packages
    **dict.fromkeys(("utils.activations", "yolov5.utils.activations", "yolov7.utils.activations"), _ALL),
    **dict.fromkeys(("models.common", "yolov5.models.common"), _ALL),
    **dict.fromkeys(("models.layers", "utils.layers"), frozenset({"Swish", "Mish"})),  # YOLOv4 and YOLOR from cfg
    **dict.fromkeys(("yolox.models.network_blocks", "models.network_blocks"), frozenset({"SiLU"})),
    **dict.fromkeys(("yolov6.layers.common", "yolov6.layers.activations"), frozenset({"SiLU"})),
    **dict.fromkeys(("timm.layers.activations", "timm.models.layers.activations"), frozenset({"Swish", "Mish"})),
    **dict.fromkeys(("mmcv.cnn.bricks.swish", "mmcv.cnn.bricks"), frozenset({"Swish"})),
    **dict.fromkeys(("mmcv.cnn.bricks.activation", "damo.base_models.core.ops"), frozenset({"SiLU", "Swish"})),
}
"""Module → activations that it defines as torch does."""

_HINT = (
    "--reference model.onnx, the author's own export of the same weights, is what the result is then compared with; or "
    "write the class anew and register it, which puts it before torch's:\n"
    "    from onnxslim_yolo.models import Block, register_block\n"
    "    @register_block('ItsName')\n"
    "    class ItsName(Block): ...   # forward as its own code has it"
)


def own_activations(record: Record) -> dict[str, list[str]]:
    """A repository's own classes that stand for `torch.nn`'s and hold no tensors, by dotted name, and where they are.

    What has tensors (a SyncBatchNorm) is told by these, and by how they are accounted for.
    The records have been surveyed: they are finitely many, and none contains itself.
    """
    found: dict[str, list[str]] = {}
    seen: set[int] = set()
    waiting = [("", record)]
    while waiting:
        path, each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if is_plain(each) and not each.name.startswith("torch.nn."):
            found.setdefault(each.name, []).append(path)
        below = children(each)
        waiting += [(f"{path}.{name}".lstrip("."), child) for name, child in reversed(below.items()) if child]
    return found


def note_or_refuse(own: Mapping[str, list[str]], *, referenced: bool) -> tuple[str, ...]:
    """Notes on those that are taken for torch's.

    Args:
        referenced: the result is compared with the author's own export.

    Raises:
        InputError: one comes from a module that is not known, and there is nothing to compare with.
    """
    strange = {name: paths for name, paths in own.items() if not _is_published(name)}
    if strange and not referenced:
        raise InputError(
            "the checkpoint has activations of its author's own code, of which a checkpoint holds nothing: "
            f"{', '.join(_shown(name, paths) for name, paths in sorted(strange.items()))}; under that name torch has "
            "another, and whether they are the same cannot be told",
            hint=_HINT,
        )
    why = "the author's export is what the result is compared with" if referenced else "--reference compares with yours"
    return tuple(f"{_shown(name, paths)} is taken for torch.nn's; {why}" for name, paths in sorted(own.items()))


def _is_published(name: str) -> bool:
    module, _, short = name.rpartition(".")
    return short in _PUBLISHED.get(module, ())


def _shown(name: str, paths: list[str]) -> str:
    places = f"'{paths[0]}'" if len(paths) == 1 else f"{len(paths)} places, the first '{paths[0]}'"
    return f"{name[:80]} (at {places})"
