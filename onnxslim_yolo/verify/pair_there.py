"""A compilation's pair where it will run: is it the network there, and does half precision hold its values?

It is run on made-up photographs in what ncnn computes in there by itself, and judged beside its own graph, weights
rounded as the pair stores them (see `on_device`). Where a value is not finite, the layers that make it so of finite
inputs are named, and the pair is kept in fp32 (see `emit.ncnn.masks` why all of it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxslim_yolo.emit.ncnn.masks import in_full
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.runtime.boards import Board
from onnxslim_yolo.runtime.half import in_float32, is_half
from onnxslim_yolo.runtime.ncnn_reader import NcnnNet, read_ncnn
from onnxslim_yolo.runtime.ncnn_run import NcnnSession, ncnn_files
from onnxslim_yolo.runtime.onnx_run import run_onnx
from onnxslim_yolo.verify.alive import head_of
from onnxslim_yolo.verify.columns import Feeds
from onnxslim_yolo.verify.files import NcnnFiles, as_cut
from onnxslim_yolo.verify.ncnn_compare import half_weights
from onnxslim_yolo.verify.on_device import IMAGES, SLOW, There, compare_there, require_sound
from onnxslim_yolo.verify.scenes import scene_feeds


def verify_there(ncnn: NcnnFiles, run_on: str, feeds: Sequence[Feeds] = ()) -> tuple[NcnnFiles, There, list[str]]:
    """Run the pair where a launcher leads, and mend it where values overflow.

    Args:
        feeds: inputs of the graph; none: made-up photographs.

    Returns:
        The files, rewritten where they were mended; what was found; and notes.

    Raises:
        VerificationError: what is computed there is broken. UsageError: the launcher starts no Python that will do.
    """
    model = as_cut(ncnn.model, ncnn.pair)
    model = in_float32(model) if is_half(model) else model
    if ncnn.pair.weights == "fp16":
        model = half_weights(model, ncnn.pair.full)
    given = [_wide(feed) for feed in feeds or scene_feeds(model, IMAGES)]
    names = {blob: port.onnx for blob, port in ncnn.pair.outputs.items()}
    expected = [[run[name] for name in names.values()] for run in run_onnx(model, given)]
    inputs = [{blob: f[port.onnx].reshape(port.dims) for blob, port in ncnn.pair.inputs.items()} for f in given]
    got, board, causes = _run(ncnn, run_on, inputs, list(names))
    if causes:
        ncnn = replace(ncnn, pair=in_full(ncnn.pair))
        write_pair(ncnn.pair, ncnn.folder)
        got, board, _ = _run(ncnn, run_on, inputs, list(names))
    there = compare_there(expected, got, list(names.values()), head_of(model, expected[0], given[0]), board=board)
    require_sound(there, ncnn.folder)
    where = "there" if board is None else f"on {board.cpu}, ncnn {board.ncnn}"
    notes = [f"as computed {where}: {there.state}: {there.sentence}", *(() if board is None else board.notes)]
    if causes:
        shown = ", ".join(causes[:3]) + (" …" if len(causes) > 3 else "")
        notes.append(
            f"ncnn: half precision does not hold what {shown} computes, so that the whole pair is kept in fp32 (31=3): "
            "ncnn cannot keep single layers so"
        )
    return ncnn, there, notes


def _wide(feed: Feeds) -> Feeds:
    return {name: np.asarray(value, np.float32) for name, value in feed.items()}


def _run(
    ncnn: NcnnFiles, run_on: str, inputs: Sequence[Mapping[str, Array]], outputs: list[str]
) -> tuple[list[list[Array]], Board | None, list[str]]:
    """Outputs, [input][output]; where; and the layers that make something not finite of finite inputs, if any."""
    param, weights = ncnn_files(ncnn.folder)
    with NcnnSession(param, weights, arithmetic="default", run_on=run_on, timeout=SLOW) as session:
        runs = [session.run(each, outputs) for each in inputs]
        wrong = next((i for i, run in enumerate(runs) if not _finite(run.values())), None)
        causes = [] if wrong is None else _causes(session, read_ncnn(param, weights), inputs[wrong])
        return [[run[name] for name in outputs] for run in runs], session.board, causes


def _causes(session: NcnnSession, net: NcnnNet, feed: Mapping[str, Array]) -> list[str]:
    """The layers that make something not finite of finite inputs, in order."""
    made = [blob for layer in net.layers for blob in layer.outputs]
    finite = {blob: _finite([value]) for blob, value in session.run(feed, made).items()}
    return [
        layer.name
        for layer in net.layers
        if layer.type != "Input"
        and not all(finite.get(blob, True) for blob in layer.outputs)
        and all(finite.get(blob, True) for blob in layer.inputs)
    ]


def _finite(values: Iterable[Array]) -> bool:
    return all(bool(np.isfinite(value).all()) for value in values)
