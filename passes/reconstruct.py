"""reconstruct: let the weights of kept channels take over what removed channels contribute, from calibration images.

Three steps, all without labels and without training:

1. *refit* (see `pruning.refit`): where whole blocks went, what of them is linear in what bridges them goes into their
   readers' weights and biases.
2. *fold* (see `pruning.fold_removed`): at every contraction, removed channels are predicted linearly from kept ones,
   and that prediction goes into the kept channels' weights and the bias.
3. *match* (see `pruning.match`): every layer's outputs get back the mean and the variance they had.

Only what stays is edited; the removed channels' weights are cut by `slice`, and the result is the masked model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from onnxslim_yolo.analysis.contraction import Contraction, contractions
from onnxslim_yolo.analysis.dead import along
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.analysis.moments import MomentAnalysis
from onnxslim_yolo.analysis.views import views_for
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.ir.graph import Array, Namer, Node, input_constant, revalue
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import LinearLayer, is_matmul
from onnxslim_yolo.ops.norms import is_batch_norm
from onnxslim_yolo.passes.absorb import AbsorbConstants
from onnxslim_yolo.passes.protocol import Effect
from onnxslim_yolo.pruning.calibration import Images, Statistics, collect
from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.pruning.fold_removed import fold
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.pruning.match import Correction, Moments, corrections, matchable, of_what_is_left, output_moments
from onnxslim_yolo.pruning.plan import Plan, open_plan, reopen_plan
from onnxslim_yolo.pruning.refit import refit_readers
from onnxslim_yolo.pruning.shift import shift_outputs


@dataclass(frozen=True)
class Reconstruct:
    """Fold removed channels into kept ones by calibration statistics, then match moments.

    Args:
        calib: unlabelled images: a folder, a list, or a data.yaml.
        images: use so many of them at most, evenly picked; 0 for all.
        ridge: λ, relative to the mean variance of the kept channels.
        window: predict from all kernel positions of a convolution together, where that is affordable.
        match: restore means and variances after folding.
        views: inputs made of each image for folding (see `CalibrationImages`); 0 for as many as few images need.
    """

    name: ClassVar[str] = "reconstruct"
    effect: ClassVar[Effect] = "approximate"

    calib: Path | None = None
    images: int = 0
    ridge: float = 1e-2
    window: bool = True
    match: bool = True
    views: int = 0

    def __post_init__(self) -> None:
        if self.ridge < 0:
            raise UsageError(f"the ridge {self.ridge} is negative")

    def run(self, model: Model) -> int:
        """Edit weights and biases in place; return the number of layers edited.

        Raises:
            UsageError: there are channels to remove but no `calib`.
        """
        if model.plan is None:
            return 0
        plan = open_plan(model)
        if plan.absorbed or (plan.keep.all() and not model.carried.blocks):
            return 0
        if (
            plan.dead_only and not model.carried.blocks
        ):  # nothing is lost that weights could make up for; constants go into biases, exactly
            return AbsorbConstants(scope="exact").run(model)
        if self.calib is None:
            raise UsageError("reconstruct needs calibration images", hint="give them with --calib DIR")
        images = CalibrationImages(self.calib, model, self.images, "fit")
        views = self.views or views_for(len(images))
        # Matching keeps every image's activations at a time: two views of each are what memory allows.
        edited = reconstruct(model, plan, images.seen(min(views, 2)), self, images.seen(views))
        reopen_plan(model)
        return edited


def reconstruct(
    model: Model,
    plan: Plan,
    images: Images,
    options: Reconstruct,
    views: Images | None = None,
    source: tuple[Model, Moments] | None = None,
) -> int:
    """Fold and match a planned model in place; returns the number of layers edited.

    Weights are other constants then: before anything is cut, the plan has to be opened again.

    Args:
        images: what moments are matched on. views: what is folded by; None for the images.
        source: the network that the model was planned from, and its moments, where they are known.
    """
    # Blocks that went shift what comes after them: moments are those of the network with them.
    came = model.carried.came
    whole = Model(graph=came) if model.carried.blocks and came is not None else model
    whole, wanted = source or (whole, moments_to_match(whole, images) if options.match else {})
    wanted = wanted if whole is model else of_what_is_left(wanted, whole, model)
    fitted = refit_readers(model, images, options.ridge)
    places = cut_places(plan)
    statistics = collect(model, places, images if views is None else views, window=options.window)
    shifts = fold_places(model, plan, places, statistics, options.ridge)
    shifts |= {node: shift + shifts.get(node, 0.0) for node, shift in fitted.items()}
    matched = []
    if options.match:
        matched = corrections(masked(model, plan), _as_layers_yield(model, wanted, shifts), images)
        _apply_all(model, matched)
    model.plan = replace(plan, absorbed=True)
    return len({*shifts, *(correction.node for correction in matched)})


def moments_to_match(model: Model, images: Images) -> Moments:
    """What the outputs of a network's layers are like, over images."""
    return output_moments(model, matchable(model), images)


def _as_layers_yield(model: Model, wanted: Moments, shifts: dict[str, Array]) -> Moments:
    """A MatMul's shift stands behind it, in an Add: it has to yield that much less."""
    outside = {node.name for node in model.graph.nodes if is_matmul(node)} & set(shifts)
    return {n: (mean - shifts[n] if n in outside else mean, variance) for n, (mean, variance) in wanted.items()}


def cut_places(plan: Plan) -> list[Contraction]:
    """The contractions with a constant weight that lose channels."""
    return [
        place
        for place in contractions(plan.channels)
        if place.weighted and ((place.classes >= 0) & ~plan.keep[np.maximum(place.classes, 0)]).any()
    ]


def fold_places(
    model: Model, plan: Plan, places: list[Contraction], statistics: list[Statistics], ridge: float
) -> dict[str, Array]:
    """Fold at these contractions; returns by the edited layer's name what its outputs were shifted by.

    The model's nodes are found by name.
    """
    moments = moments_of(model.graph, plan.channels.shapes) if _any_unknown(statistics) else None
    by_name = {node.name: node for node in model.graph.nodes}
    name = Namer(model.graph)
    edited: dict[str, Array] = {}
    for place, known in zip(places, statistics, strict=True):
        node = by_name[place.node.name]
        weight = input_constant(node, 1)
        if weight is None:
            continue
        expected = _expected(place, moments)
        folded = fold(place, weight, plan.keep, known, ridge, expected)
        if folded is None:
            continue
        revalue(node, 1, folded.weight.astype(weight.dtype))
        shift_outputs(model, node, folded.shift, name)
        edited[node.name] = folded.shift
    return edited


def _any_unknown(statistics: list[Statistics]) -> bool:
    return any(not (np.isfinite(s.mean).all() and np.isfinite(s.covariance).all()) for s in statistics)


def _expected(place: Contraction, moments: MomentAnalysis | None) -> Array:
    if moments is None:
        return np.zeros(len(place.classes))
    return along(moments.of(place.node.inputs[place.index]).mean, place.axis, len(place.classes))


def _apply_all(model: Model, found: list[Correction]) -> None:
    by_name = {node.name: node for node in model.graph.nodes}
    name = Namer(model.graph)
    for correction in found:
        apply_correction(model, by_name[correction.node], correction, name)


def apply_correction(model: Model, node: Node, correction: Correction, name: Namer) -> None:
    """Scale and shift what a layer or a BatchNormalization yields per output channel."""
    weight = input_constant(node, 1)
    if weight is None:
        raise ValueError(f"'{node.name}' has no constant weight")
    scale = correction.scale
    if is_batch_norm(node):
        revalue(node, 1, (weight * scale).astype(weight.dtype))
        beta = np.asarray(input_constant(node, 2))
        revalue(node, 2, (beta * scale + correction.shift).astype(beta.dtype))
        return
    layer = LinearLayer.with_weight(node, weight)
    scaled = layer.stored(layer.blocks * layer.per_output(scale))
    revalue(node, 1, scaled.astype(weight.dtype))
    bias = input_constant(node, 2) if len(node.inputs) > 2 else None
    if bias is not None:
        revalue(node, 2, (bias * scale).astype(bias.dtype))
    # The layer's own outputs are shifted: what Gemm multiplies the shift by is divided out again.
    shift_outputs(model, node, correction.shift / layer.factors[0], name)
