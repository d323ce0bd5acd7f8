"""An ONNX file that was exported for one input size, read for another.

Its body is made for the other size by `rewrites.other_size`. Where that does not go through, it is mostly for the
decode, whose grids are constants: a decode that is recognised (`heads.recognise`) is cut off, and written anew behind
the maps (`rewrites.decode_nodes`). That this is the file's own is seen at the size of the export, where both are run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.limits import Asked, limits_for
from onnxslim_yolo.errors import InputError, OnnxSlimError
from onnxslim_yolo.ir.graph import sweep, toposort
from onnxslim_yolo.ir.input_format import image_axes
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.rewrites.other_size import for_size
from onnxslim_yolo.rewrites.size_factors import OneSizeError
from onnxslim_yolo.rewrites.size_windows import require_bounds
from onnxslim_yolo.runtime.onnx_run import Feeds, image_like_feeds, run_onnx

ALIKE = 1e-3
"""Largest difference of two decodes, in pixels or of a score, and as a share of what is larger than 1."""

_WAY_OUT = "leave --imgsz out, or export the model with a dynamic size or the size you want"


def fixed_size(graph: gs.Graph) -> tuple[int, int] | None:
    """(height, width) of the only image that a graph takes; None where one of them is open, or there are several."""
    images = [tensor for tensor in graph.inputs if tensor.shape is not None and len(tensor.shape) == 4]
    if len(images) != 1:
        return None
    shape = images[0].shape
    _, (tall, wide) = image_axes(shape)
    sides = (shape[tall], shape[wide])
    return sides if all(isinstance(side, int) and side > 0 for side in sides) else None


def made_for(
    model: Model, size: tuple[int, int], *, raw: bool, path: Path, asked: Asked
) -> tuple[onnx.ModelProto, str]:
    """A file for images of (height, width), and in words what was done to it.

    Args:
        model: as it was read; it is left as it is. raw: only the maps before the decode are wanted.
        asked: what running it may take, judged before.

    Raises:
        InputError: something in it holds for its own size only; the message says what and where.
    """
    from onnxslim_yolo.passes import Canonicalise

    full = fixed_size(model.graph)
    assert full is not None
    source = model.to_onnx()
    body = model.copy()
    limits = limits_for(model, asked.memory, asked.work)
    reinfer(body.graph)
    try:
        require_bounds(body.graph.nodes)
    except OneSizeError as error:
        raise _refusal(model, full, size, error, path) from error
    Canonicalise().run(body)
    limits.require(body)
    reason: OneSizeError | None = None
    try:
        found, count = _resized(body, size)
        said = ""
    except OneSizeError as error:
        reason = error
    if reason is not None:
        try:
            found, count = _behind(body, source, size, raw=raw)
        except OneSizeError as error:
            raise _refusal(model, full, size, reason if error.node == DECODE else error, path) from reason
        said = "; its decode is cut off" if raw else "; its decode was written anew, and gives the same at the old size"
    limits.require(found)
    if "imgsz" in found.metadata:
        found.metadata["imgsz"] = str(list(size))
    _require_running(found, model, full, size, path)
    note = f"it was exported for {full[0]}x{full[1]}, and made for {size[0]}x{size[1]}: {count} sizes in it{said}"
    return found.to_onnx(), note


DECODE = "(decode)"


def _resized(model: Model, size: tuple[int, int]) -> tuple[Model, int]:
    found = model.copy()
    found.graph.nodes = toposort(found.graph)
    count = for_size(found.graph, size)
    for tensor in found.graph.outputs:
        tensor.shape = None
    try:
        reinfer(found.graph)
    except InputError as error:
        raise OneSizeError(error.message, error.node or "") from error
    return found, count


def _behind(body: Model, source: onnx.ModelProto, size: tuple[int, int], *, raw: bool) -> tuple[Model, int]:
    """The same with its decode cut off and, unless only maps are wanted, written anew."""
    from onnxslim_yolo.passes import Head

    maps = body.copy()
    if not Head("raw").run(maps):
        raise OneSizeError("its decode is not recognised", DECODE)
    if raw:
        return _resized(maps, size)
    again = _decoded(maps.copy(), body)
    feeds = image_like_feeds(body, 1)
    ours, theirs = run_onnx(again, feeds)[0], run_onnx(source, feeds)[0]
    if not _alike(ours, theirs):
        raise OneSizeError("its decode is written in another way than we write it", DECODE)
    found, count = _resized(maps, size)
    return _decoded(found, body), count


def _decoded(maps: Model, body: Model) -> Model:
    """Raw maps with their decode, its output under the name that it had."""
    from onnxslim_yolo.passes import Head

    spare = len(maps.graph.outputs) - len(body.graph.outputs)
    if not Head("decoded").run(maps) or spare < 0:
        raise OneSizeError("its decode can be cut off, and not be written anew", DECODE)
    kept = {tensor.name for tensor in maps.graph.outputs[1:]}
    gone = [tensor for tensor in body.graph.outputs if tensor.name not in kept]
    if len(gone) != 1:
        raise OneSizeError("its decode has several outputs", DECODE)
    maps.graph.outputs[0].name = gone[0].name
    order = [tensor.name for tensor in body.graph.outputs]
    maps.graph.outputs.sort(key=lambda tensor: order.index(tensor.name))
    sweep(maps.graph)
    return maps


def _alike(ours: Feeds, theirs: Feeds) -> bool:
    if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in ours):
        return False
    return all(np.allclose(ours[name], theirs[name], rtol=ALIKE, atol=ALIKE) for name in ours)


def _require_running(found: Model, model: Model, full: tuple[int, int], size: tuple[int, int], path: Path) -> None:
    """Raises InputError where the file does not run at its new size."""
    try:
        run_onnx(found, image_like_feeds(found, 1))
    except OnnxSlimError as error:
        raise _refusal(model, full, size, OneSizeError(f"it does not run: {error.message}"), path) from error


def _refusal(model: Model, full: tuple[int, int], size: tuple[int, int], why: OneSizeError, path: Path) -> InputError:
    name = next(tensor.name for tensor in model.graph.inputs if tensor.shape is not None and len(tensor.shape) == 4)
    return InputError(
        f"the input '{name}' is fixed at {full[0]}x{full[1]} pixels, not {size[0]}x{size[1]}, for which it cannot be "
        f"made: {why}",
        file=path,
        node=why.node if why.node and why.node != DECODE else None,
        hint=_WAY_OUT,
    )
