"""Which positions of a feature map matter: how much the detector's error depends on what is there.

Most of an image is background, and least squares over all positions alike serves it first. With g the cotangent of the
detector's error at a position (`heads.metric`, carried back by `analysis.adjoint`), its energy is |g|², and it counts

    w = ½ + ½ · |g|² / mean |g|²

the mean over the image's positions: so that half of what is fitted is what the detections hang on, and the rest is not
let go of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.adjoint import carry_back
from onnxslim_yolo.analysis.adjoint_nodes import Adjoint, shape_of
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.heads.metric import HeadMetric
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.ir.graph import Array, Namer
from onnxslim_yolo.ir.model import Model

SHARE = 0.5
"""Of the weight that is dealt out by energy."""

SEED = 0


@dataclass(frozen=True)
class Where:
    """Positions of a tensor: which axis is its channels', and per axis the first position and the step."""

    tensor: str
    axis: int
    picks: tuple[tuple[int, int], ...]


@dataclass
class Matter:
    """Adds energies to a graph, and makes weights of them image by image.

    Attributes:
        outputs: what the graph has to give besides, by the places they are of.
    """

    energies: dict[Where, gs.Variable]
    given: list[gs.Variable]
    head: HeadSpec
    source: Any
    feed: str
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))

    @classmethod
    def added(
        cls, model: Model, graph: gs.Graph, places: Sequence[Where], head: HeadSpec, name: Namer
    ) -> Matter | None:
        """Add the energies of these places to a copy of the model's graph; None where gradients cannot be had."""
        from onnxslim_yolo.runtime.onnx_run import session

        kept = list(graph.nodes), list(graph.inputs)
        seeds = {o.name: gs.Variable(name(f"{o.name}_seed"), np.float32, shape_of(o)) for o in graph.outputs}
        try:
            carried = carry_back(graph, seeds, [place.tensor for place in places])
        except UnsupportedError as error:
            graph.nodes, graph.inputs = kept
            model.note(f"calibration: all positions count alike, for {error.message}")
            return None
        adjoint, found = Adjoint(graph), {}
        for place in dict.fromkeys(place for place in places if place.tensor in carried):
            found[place] = _energy(adjoint, carried[place.tensor], place)
        source = session(model, optimise=True, threads=1)
        return cls(found, list(seeds.values()), head, source, model.graph.inputs[0].name)

    @property
    def outputs(self) -> list[gs.Variable]:
        """What the graph has to give besides."""
        return list(self.energies.values())

    @property
    def names(self) -> list[str]:
        """Of the outputs."""
        return [output.name for output in self.outputs]

    def seeds(self, image: Array) -> dict[str, Array]:
        """What the graph has to be fed besides an image."""
        outputs = [np.asarray(o, dtype=np.float32) for o in self.source.run(None, {self.feed: image})]
        cotangents = HeadMetric(outputs, self.head).cotangents(self.random)
        return {seed.name: value for seed, value in zip(self.given, cotangents, strict=True)}

    def weights(self, energies: Sequence[Array]) -> dict[Where, Array]:
        """Per place the weight of each of its positions, of mean 1; (positions,) each."""
        return {place: _weights(energy) for place, energy in zip(self.energies, energies, strict=True)}


def _weights(energy: Array) -> Array:
    flat = np.nan_to_num(energy.reshape(-1).astype(np.float32))
    mean = float(flat.mean())
    return (1 - SHARE) + SHARE * (flat / mean if mean > 0 else np.ones_like(flat))


def _energy(adjoint: Adjoint, cotangent: gs.Variable, place: Where) -> gs.Variable:
    """|g|² per position, thinned as the place says."""
    energy = adjoint.sum_over(adjoint.add("Mul", [cotangent, cotangent]), [place.axis])
    axes = [k for k, (_, step) in enumerate(place.picks) if step != 1]
    if not axes:
        return energy
    starts, steps = ([place.picks[k][which] for k in axes] for which in (0, 1))
    far = [np.iinfo(np.int64).max] * len(axes)
    return adjoint.add("Slice", [energy, *(np.asarray(x, dtype=np.int64) for x in (starts, far, axes, steps))])
