"""Resize as Interp, where ncnn samples the very pixels that ONNX asks for; anything else is refused.

Both rules are evaluated for every output pixel and compared, so that a new coordinate mode needs no new case.
Formulas: ONNX operator Resize, section "coordinate_transformation_mode"; ncnn src/layer/interp.cpp.
"""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.emit.ncnn.format import Param
from onnxslim_yolo.emit.ncnn.lower import Lowering, unsupported
from onnxslim_yolo.emit.ncnn.prepare import shape_of
from onnxslim_yolo.ir.attributes import attribute, operand
from onnxslim_yolo.ir.graph import Array, Node
from onnxslim_yolo.ops.spatial import nearest_pixel, sampled_at

TOLERANCE = 1e-4
CUBIC = -0.75
"""The coefficient a of ncnn's cubic kernel, and ONNX's default."""


def resize(low: Lowering, node: Node) -> None:
    """Interp type 1 (nearest), 2 (bilinear) or 3 (bicubic), to a fixed size."""
    source, out_shape = low.input(node, 0), shape_of(node.outputs[0], node)
    if source.shape == out_shape:
        low.alias(node.outputs[0], source, node)
        return
    if len(source.shape) not in (3, 4) or source.shape[0] != 1 or source.shape[:2] != out_shape[:2]:
        raise unsupported(node, f"from {source.shape} to {out_shape}")
    mode, transform, rounding = (
        str(attribute(node, key)) for key in ("mode", "coordinate_transformation_mode", "nearest_mode")
    )
    if attribute(node, "antialias") or mode not in ("nearest", "linear", "bilinear", "cubic"):
        raise unsupported(node, f"mode '{mode}'" + (" with antialias" if attribute(node, "antialias") else ""))
    if mode == "cubic" and (attribute(node, "cubic_coeff_a") != CUBIC or attribute(node, "exclude_outside")):
        raise unsupported(node, f"cubic with another coefficient than {CUBIC}, or weights that leave out the outside")
    size = (1, source.shape[2]) if len(source.shape) == 3 else source.shape[2:]
    out = (1, out_shape[2]) if len(source.shape) == 3 else out_shape[2:]
    scales = _scales(node, size, out)
    aligned = transform == "align_corners"
    for before, after, scale in zip(size, out, scales, strict=True):
        wanted = sampled_at(transform, before, after, scale, np.float32 if mode == "nearest" else np.float64)
        if wanted is None:
            raise unsupported(node, f"coordinate mode '{transform}'")
        if not _same_pixels(mode, rounding, wanted, before, after, aligned=aligned):
            raise unsupported(
                node, f"{mode} {transform} {rounding} from {size} to {out} samples other pixels than ncnn"
            )
    nearest = mode == "nearest" or size == (1, 1)
    if not nearest and 1 in size and size != out and any(a == 1 and b != 1 for a, b in zip(size, out, strict=True)):
        raise unsupported(node, f"{mode} interpolation of one row or column, from {size} to {out}")
    if mode == "cubic" and min(size) < 4:
        raise unsupported(node, f"cubic interpolation of {size} pixels, ncnn wants four each way")
    kind = 1 if nearest else 3 if mode == "cubic" else 2
    params: dict[int, Param] = {0: kind, 3: out[0], 4: out[1]}
    if aligned and not nearest:
        params[6] = 1
    view = low.view(source, (source.shape[1], *size))
    low.emit(node, "Interp", [view], (source.shape[1], *out), params, to=node.outputs[0])


def _scales(node: Node, size: tuple[int, ...], out: tuple[int, ...]) -> list[float]:
    """Out per in, per spatial axis: as given, else from the sizes."""
    given = operand(node, "scales")
    if given is not None and given.size >= 3:
        tail = [float(value) for value in given.reshape(-1)[2:]]
        return [1.0, *tail] if len(tail) == 1 else tail
    return [after / before for before, after in zip(size, out, strict=True)]


def _same_pixels(mode: str, rounding: str, wanted: Array, before: int, after: int, *, aligned: bool) -> bool:
    x = np.arange(after, dtype=np.float64)
    if mode == "nearest":
        ratio = np.float32(before) / np.float32(after)
        theirs = np.minimum((np.arange(after, dtype=np.float32) * ratio).astype(np.int64), before - 1)
        return bool(np.array_equal(nearest_pixel(rounding, wanted, before).astype(np.int64), theirs))
    if mode == "cubic":  # taps are clamped at the edge, positions are not
        theirs = x * (before - 1) / max(after - 1, 1) if aligned else (x + 0.5) * before / after - 0.5
        return bool(np.allclose(wanted, theirs, atol=TOLERANCE, rtol=0))
    centred, cornered = (x + 0.5) * before / after - 0.5, x * (before - 1) / max(after - 1, 1)
    theirs = cornered if aligned else centred
    edge = before - 1
    return bool(np.allclose(np.clip(wanted, 0, edge), np.clip(theirs, 0, edge), atol=TOLERANCE, rtol=0))
