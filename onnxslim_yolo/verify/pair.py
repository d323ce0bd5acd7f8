"""Compare any two models on the same inputs: ONNX files, NCNN folders, checkpoints, Darknet networks.

The inputs are image-like, and one on which the first model's scores fire where its graph is at hand (else the
second's). What columns mean, and which are scores, is read from the same graph.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from onnxslim_yolo.analysis.limits import Asked
from onnxslim_yolo.errors import InputError, OnnxSlimError
from onnxslim_yolo.ir.input_format import INPUT_KEY, InputFormat
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.half import in_float32, is_half
from onnxslim_yolo.runtime.ncnn_reader import stores_half
from onnxslim_yolo.runtime.ncnn_run import Arithmetic, ncnn_files
from onnxslim_yolo.runtime.onnx_run import image_like, run_onnx
from onnxslim_yolo.runtime.progress import tell
from onnxslim_yolo.verify.chain import Check
from onnxslim_yolo.verify.columns import Feeds, head_of, meanings
from onnxslim_yolo.verify.compare import TOLERANCE, Difference, sorts
from onnxslim_yolo.verify.detector import Network, open_network, require_as_many
from onnxslim_yolo.verify.feeds import firing_feed
from onnxslim_yolo.verify.input_size import FIXED, common_size
from onnxslim_yolo.verify.judge import Judge, judge_of
from onnxslim_yolo.verify.ncnn_compare import ROUNDING, half_weights
from onnxslim_yolo.verify.ruler import Ruler, noise_between, rulers_of
from onnxslim_yolo.verify.shown_logits import shown_logits
from onnxslim_yolo.verify.weights import changed_layers, changed_weights

HALF_COST = 2.0
"""A pair rounds weights after folding, the graph before: a column may be off by this many times what that costs it."""

STEPS = 4
"""What a comparison tells of its progress; a checkpoint's reading tells its own in between."""


def compare_models(
    first: Path,
    second: Path,
    *,
    size: tuple[int, int] | None = None,
    tolerance: float = TOLERANCE,
    count: int = 2,
    form: InputFormat | None = None,
    asked: Asked | None = None,
    run_on: str | None = None,
) -> Check:
    """Run both on the same inputs and compare their outputs in order, column by column.

    `form` is what both are fed for a pixel; None for what the first file shows. `asked`: as for `open_network`.
    `run_on`: where the second, an NCNN pair, is run, in fp32.

    Raises:
        InputError: a file is broken, or the models differ in input size or number of outputs.
    """
    fp32: Arithmetic | None = None if run_on is None else "fp32"

    def opened(path: Path, at: tuple[int, int] | None) -> Network:
        if path is first:
            return open_network(path, size=at, form=form, asked=asked)
        return open_network(path, size=at, form=form, asked=asked, run_on=run_on, arithmetic=fp32)

    tell(first.name, 0, STEPS)
    a = opened(first, size)
    tell(second.name, 1, STEPS)
    b = opened(second, size)
    wanted = None if size is not None else common_size([(n.size, n.sure) for n in (a, b)])
    if wanted is not None:
        a = opened(first, wanted) if a.size != wanted and a.sure != FIXED else a
        b = opened(second, wanted) if b.size != wanted and b.sure != FIXED else b
    if a.size != b.size:
        raise InputError(
            f"takes {b.size[0]}x{b.size[1]} pixels, {first.name} takes {a.size[0]}x{a.size[1]}", file=second
        )
    tell("an input on which they fire", 2, STEPS)
    graphs = {path: _graph(path, network) for path, network in ((first, a), (second, b))}
    graph = graphs[first] or graphs[second]
    if graph is not None:
        graph.metadata[INPUT_KEY] = str(a.form)
    rng = np.random.default_rng(0)
    images = [a.form.feed(image_like((1, 3, *a.size), rng)) for _ in range(count)]
    fired = None if graph is None else firing_feed(in_float32(graph) if is_half(graph) else graph)
    images += [] if fired is None else [next(iter(fired.values()))[:1]]
    tell("their outputs", 3, STEPS)
    expected, got = _outputs(a, images), _outputs(b, images)
    require_as_many(len(expected[0]), len(got[0]), first, second)
    same = [_like(g, e) for g, e in zip(got, expected, strict=True)]
    judge = _judge(a, graphs[first], graph, images, expected)
    if graphs[first] is None or graphs[second] is None:
        judge = judge.with_floor(ROUNDING)
        folder = second if graphs[second] is None else first
        if graph is not None and _stores_half(folder):
            judge = _letting_off_half(judge, graph, images)
    check = Check(f"{first.name} = {second.name}", "as installed", judge.compare(same, tolerance), tolerance)
    return replace(check, unseen=_unseen(first, second, graphs)) if check.passed else check


def _stores_half(folder: Path) -> bool:
    if not (folder.is_dir() or folder.suffix == ".param"):
        return False
    return stores_half(*ncnn_files(folder))


def _letting_off_half(judge: Judge, graph: Model, images: list[np.ndarray]) -> Judge:
    """The same for weights stored as fp16: a column may be off by a few times what rounding the graph's costs it."""
    name, dtype = graph.graph.inputs[0].name, graph.graph.inputs[0].dtype
    feeds = [{name: image.astype(np.float32 if dtype is None else np.dtype(dtype))} for image in images]
    try:
        plain, rounded = (run_onnx(model, feeds) for model in (graph, half_weights(graph)))
    except OnnxSlimError:
        return judge
    names = dict(zip(plain[0], judge.rulers, strict=True))
    found = noise_between(plain, rounded, {own: judge.rulers[name] for own, name in names.items()})
    return judge.with_noise({names[own]: HALF_COST * noise for own, noise in found.items()})


def _unseen(first: Path, second: Path, graphs: dict[Path, Model | None]) -> list[str]:
    """What differs in models that agree: weights whose share of every output lies under rounding."""
    a, b = graphs[first], graphs[second]
    if a is not None and b is not None:
        return changed_weights(a, b)
    graph, folder = (a, second) if b is None else (b, first)
    return [] if graph is None else changed_layers(graph, folder)


def _judge(
    network: Network, own: Model | None, graph: Model | None, images: list[np.ndarray], expected: list[Feeds]
) -> Judge:
    """How the first model's outputs are compared; its graph is run a second time to see what rounding costs."""
    ordered = graph is not None and sorts(graph.graph)
    if own is not None:
        name, dtype = own.graph.inputs[0].name, own.graph.inputs[0].dtype
        kind = np.float32 if dtype is None else np.dtype(dtype)
        try:
            found = judge_of(own, [{name: image.astype(kind)} for image in images])
            rulers = _renamed(found.rulers, expected[0])
            return Judge([dict(zip(rulers, e.values(), strict=True)) for e in found.expected], rulers, ordered)
        except OnnxSlimError:
            pass  # it runs as installed; without its graph there is only what that shows
    masks = {} if graph is None else shown_logits(graph).masks
    names = [] if graph is None else [tensor.name for tensor in graph.graph.outputs]
    shown = {f"output{k}": masks[name] for k, name in enumerate(names) if name in masks}
    meaning = meanings(expected, head_of(expected, network.size, dict(network.metadata)), shown)
    return Judge(expected, rulers_of(expected, meaning), ordered)


def _renamed(rulers: dict[str, Ruler], like: Feeds) -> dict[str, Ruler]:
    return dict(zip(like, rulers.values(), strict=True))


def _graph(path: Path, network: Network) -> Model | None:
    """An ONNX file's or a checkpoint's graph in canonical form at its size; None of ncnn, or where it is refused."""
    if path.is_dir() or path.suffix == ".param":
        return None
    from onnxslim_yolo.passes import Canonicalise

    try:
        proto = onnx.load(path) if network.graph is None else network.graph
        model = Model.from_onnx(proto)
        shape = list(model.graph.inputs[0].shape or [1, 3, None, None])
        model.graph.inputs[0].shape = [1 if not isinstance(shape[0], int) else shape[0], shape[1], *network.size]
        Canonicalise().run(model)
    except (OnnxSlimError, OSError, ValueError, IndexError):
        return None
    return model


def _outputs(network: Network, images: list[np.ndarray]) -> list[Feeds]:
    return [{f"output{k}": np.asarray(o) for k, o in enumerate(network.run(image))} for image in images]


def _like(got: Feeds, expected: Feeds) -> Feeds:
    """ncnn knows no batch and drops extents of 1: the same elements count as the same shape."""
    return {k: v.reshape(expected[k].shape) if v.size == expected[k].size else v for k, v in got.items()}


def worst(check: Check) -> Difference:
    """The output that differs most."""
    return max(check.differences, key=lambda d: d.worst)
