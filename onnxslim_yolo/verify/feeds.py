"""The inputs that every check shares: image-like ones, given photographs, and one on which scores fire.

On noise a trained detector sees nothing: its scores lie where a probability's last digit is all that moves. So one
input is made that raises them, by a few steps along the sign of the gradient (Goodfellow et al. 2015, §4) of every
score's logit in the cell where it is highest already. All columns are raised at once, each at a place of its own, in
patches of `PATCH` pixels where the network takes any size, which are then laid side by side over the whole input.
How many steps are made follows from the network's multiply-accumulates alone, so a second run makes the same input.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.adjoint import carry_back
from onnxslim_yolo.analysis.adjoint_nodes import shape_of
from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.heads.decode_region import is_learned
from onnxslim_yolo.heads.spec import HEAD_KEY, HeadSpec
from onnxslim_yolo.ir.graph import (
    Array,
    Tensor,
    copy_graph,
    is_constant,
    is_empty,
    producer,
    static_shape,
    sweep,
    toposort,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.ops.linear import is_matmul
from onnxslim_yolo.ops.movement import tells_sizes
from onnxslim_yolo.runtime.half import in_float32, is_half
from onnxslim_yolo.runtime.onnx_run import Feeds, as_fed, image_like, image_like_feeds, session
from onnxslim_yolo.verify.shown_logits import shown_logits

PATCH = 128
"""Pixels a side of the patches in which scores are raised; inputs below twice that are taken whole."""

COLUMNS = 24
"""So many channels of score maps are raised in one patch; `PATCHES` patches at most."""

PATCHES = 4

BUDGET = 6e9
"""Multiply-accumulates that raising scores may take; a step takes those of three runs."""

STEPS = 5

STRIDE = 0.15
"""Of the input's range, a step."""


def shared_feeds(model: Model, calib: Path | None = None, count: int = 2) -> list[Feeds]:
    """Inputs for all checks of one compilation.

    Args:
        model: the source in canonical form, of known input size.
        calib: photographs, as `--calib` takes them; up to `count` of them stand in for image-like inputs.
        count: inputs besides the one on which scores fire.
    """
    feeds = [*photographs(model, calib, count), *image_like_feeds(model, count)][:count]
    half = is_half(model)
    fired = firing_feed(in_float32(model) if half else model)
    if fired is not None and half:
        fired = {name: value.astype(feeds[0][name].dtype) for name, value in fired.items()}
    return feeds if fired is None else [*feeds, fired]


def photographs(model: Model, calib: Path | None, count: int) -> list[Feeds]:
    """Up to `count` calibration images as inputs; none where the model does not take one image."""
    if calib is None or len(model.graph.inputs) != 1 or model.graph.inputs[0].dtype not in (None, np.float32):
        return []
    from onnxslim_yolo.pruning.calibration_images import CalibrationImages

    images: list[Array] = []
    try:
        found = CalibrationImages(calib, model)
    except OnnxSlimError as error:
        model.note(f"checked on made inputs alone, since --calib gives no image: {error.message}")
        return []
    for index in range(len(found)):
        if len(images) == count:
            break
        try:
            images.append(found[index])
        except OnnxSlimError as error:
            name = "an image of --calib" if error.file is None else Path(error.file).name
            model.note(f"{name} is left out of the checks' inputs: {error.message}")
    return [{model.graph.inputs[0].name: image} for image in images]


def batch_of(tensor: Tensor) -> int:
    """The batch that an input is fixed to, else 1."""
    first = tensor.shape[0] if tensor.shape else 1
    return int(first) if isinstance(first, (int, np.integer)) and first > 0 else 1


def firing_feed(model: Model) -> Feeds | None:
    """An input that raises every score, as far as a few steps go; None where the graph shows none, or no gradient.

    Args:
        model: a float32 graph with one image (b, c, h, w) of known size as its input. Not edited.
    """
    inputs = model.graph.inputs
    if len(inputs) != 1 or (inputs[0].dtype is not None and np.dtype(inputs[0].dtype) != np.float32):
        return None
    shape = list(inputs[0].shape or [])
    if len(shape) != 4 or any(not isinstance(d, (int, np.integer)) or d <= 0 for d in shape[1:]):
        return None
    maps = score_maps(model)
    if not maps:
        return None
    size = (batch_of(inputs[0]), *map(int, shape[1:]))
    small = min(size[2:]) >= 2 * PATCH
    names = [tensor.name for tensor in maps]
    # A network may be bound to its input's size, or to a batch of one.
    for extent in ((PATCH, PATCH), size[2:]) if small else (size[2:],):
        for most in (PATCHES, 1) if size[0] == 1 else (size[0],):
            try:
                patches = _raised(model, names, (size[1], *extent), size[0], most)
            except OnnxSlimError:
                continue
            return None if patches is None else {inputs[0].name: _laid_out(model, patches, size)}
    return None


def score_maps(model: Model) -> list[Tensor]:
    """The learned maps (b, c, h, w) whose channels are scores' logits, possibly among others."""
    starts = list(shown_logits(model).logits)
    if not starts and HEAD_KEY in model.metadata:
        head = HeadSpec.from_json(model.metadata[HEAD_KEY])
        first = head.levels if head.kind == "v8-raw" and not head.joint else 0
        starts = list(model.graph.outputs[first : head.levels + first]) if head.kind.endswith("-raw") else []
    found: dict[int, Tensor] = {}
    seen: set[int] = set()
    while starts:
        tensor = starts.pop()
        node = producer(tensor)
        if id(tensor) in seen or node is None or is_constant(tensor) or is_empty(tensor):
            continue
        seen.add(id(tensor))
        if is_learned(node) or is_matmul(node):
            found[id(tensor)] = tensor
        elif not tells_sizes(node):
            starts += node.inputs
    return list(found.values())


def _raised(model: Model, maps: Sequence[str], image: tuple[int, ...], batch: int, most: int) -> Array | None:
    """At most so many patches (n, c, h, w) on which the maps' channels are high; None where the budget has no step.

    Raises:
        OnnxSlimError: the network does not take this size, or its gradient is not known.
    """
    graph = copy_graph(model.graph)
    by_name = {tensor.name: tensor for node in graph.nodes for tensor in node.outputs if not is_empty(tensor)}
    targets = [by_name[name] for name in maps]
    graph.outputs = targets
    sweep(graph)
    graph.nodes = toposort(graph)
    graph.inputs[0].shape = [1, *image]
    reinfer(graph)
    shapes = [shape_of(tensor) for tensor in targets]
    macs = max(cost_of(graph).macs, 1)
    wanted = min(most, -(-sum(_channels(shape) for shape in shapes) // COLUMNS))
    count = min(wanted, max(int(BUDGET / (3 * 2 * macs)), 1)) if batch == 1 else batch
    steps = min(STEPS, int(BUDGET / (3 * macs * count)))
    if steps < 1:
        return None
    if count > 1:
        graph.inputs[0].shape = [count, *image]
        reinfer(graph)
    return _climb(model, graph, targets, count, steps)


def _channels(shape: Sequence[int]) -> int:
    return shape[1] if len(shape) == 4 else shape[-1]


def _climb(model: Model, graph: gs.Graph, targets: Sequence[Tensor], count: int, steps: int) -> Array:
    shapes = [shape_of(tensor) for tensor in targets]
    names = [tensor.name for tensor in targets]
    seeds = {name: gs.Variable(f"{name}__seed", np.float32, shape) for name, shape in zip(names, shapes, strict=True)}
    name = graph.inputs[0].name
    gradient = carry_back(graph, seeds, [name]).of.get(name)
    if gradient is None:
        raise _NoGradientError("no score depends on the input")
    gradient.shape = static_shape(graph.inputs[0])
    graph.outputs = [*targets, gradient]
    runner = session(Model(graph=graph), optimise=False, threads=1)
    needed = _only_what_is_needed()
    given = [seed.name for seed in seeds.values()]
    whole = static_shape(graph.inputs[0])
    x = as_fed(model, image_like(whole, np.random.default_rng(1)))
    low, high = (as_fed(model, np.full(whole or (), value, np.float32)) for value in (0.0, 1.0))
    zeros = [np.zeros(shape, np.float32) for shape in shapes]
    seeded = zeros
    for step in range(steps + 1):
        # The first run tells where the maps are highest; its gradient is that of nothing.
        wanted = names if step == 0 else [*names, gradient.name]
        try:
            values = runner.run(wanted, {name: x, **dict(zip(given, seeded, strict=True))}, needed)
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise _NoGradientError("the network cannot be run in patches") from error
        if step:
            x = np.clip(x + STRIDE * (high - low) * np.sign(values.pop()), low, high).astype(np.float32)
        seeded = _seeds([_columns_last(value, count) for value in values], shapes, count)
    return x


def _only_what_is_needed() -> object:
    """Run options with which nothing is computed beyond the outputs that are asked for."""
    import onnxruntime as ort

    options = ort.RunOptions()
    options.only_execute_path_to_fetches = True
    return options


class _NoGradientError(OnnxSlimError):
    """Nothing to climb."""


def _columns_last(value: Array, count: int) -> Array:
    """(n, c, h, w) → (n, cells, c); rows and columns of a table as they are."""
    if value.ndim == 4:
        return np.moveaxis(value.reshape(*value.shape[:2], -1), 1, 2)
    return value.reshape(count, -1, value.shape[-1])


def _seeds(values: Sequence[Array], shapes: Sequence[Sequence[int]], count: int) -> list[Array]:
    """What is to rise: of every channel the cell where it is highest, no cell twice while there are others.

    Channels are dealt to the patches in turn; what is high already weighs little.
    """
    found: list[Array] = []
    number = 0
    for value, shape in zip(values, shapes, strict=True):
        seed = np.zeros(value.shape, np.float32)
        taken = np.zeros(value.shape[:2], dtype=bool)
        for column in range(value.shape[2]):
            patch, number = number % count, number + 1
            if taken[patch].all():
                taken[patch] = False
            cell = int(np.where(taken[patch], -np.inf, value[patch, :, column]).argmax())
            taken[patch, cell] = True
            seed[patch, cell, column] = 1 / (1 + np.exp(min(float(value[patch, cell, column]), 30.0)))
        back = np.moveaxis(seed, 2, 1) if len(shape) == 4 else seed
        found.append(np.ascontiguousarray(back.reshape(shape)))
    return found


def _laid_out(model: Model, patches: Array, size: tuple[int, ...]) -> Array:
    """Patches side by side over an input (b, c, h, w), whole ones only; image-like elsewhere."""
    if patches.shape == tuple(size):
        return patches
    image = as_fed(model, image_like(size, np.random.default_rng(2)))
    height, width = patches.shape[2:]
    number = 0
    for top in range(0, size[2] - height + 1, height):
        for left in range(0, size[3] - width + 1, width):
            for b in range(size[0]):
                image[b, :, top : top + height, left : left + width] = patches[number % len(patches)]
                number += 1
    return image
