"""Which ranges, and which layers: by the detector's error on calibration images.

Every way to choose ranges is tried on the whole network, and the one with the least error is kept; then, with it, every
way to make channels equally large. Where a budget of
error is set and broken, layers become float again: each is tried as the only one that is int8, and those whose error
is largest leave, until what is left keeps within the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.ir.graph import Array, Node
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.movement import reorders
from onnxslim_yolo.pruning.head_error import HeadError
from onnxslim_yolo.quantisation.equalise import WAYS, equalise, links_of
from onnxslim_yolo.quantisation.places import Places, places_of
from onnxslim_yolo.quantisation.plan import Link, Quantisation, Range, reasons
from onnxslim_yolo.quantisation.qdq import quantised_graph
from onnxslim_yolo.quantisation.ranges import METHODS, Method, Seen, known_ranges, observe
from onnxslim_yolo.quantisation.weights import WHOLE, quantised_layer
from onnxslim_yolo.runtime.progress import counted

JUDGED = 8
"""Images that the error is measured on."""

BUDGET = 0.15
"""Of error that `auto` allows (see `pruning.head_error`): in nats an object."""

CONFIDENCE = 0.25
"""Of a detection: images in which there is none are no images of what the network is for."""

WORTH = 0.95
"""Channels are made equally large where that leaves less of the error than this: it is measured on few images."""

SHUFFLED = 4
"""With a shuffle to every so many layers, nothing is gained by int8: FastestDet takes 1.07 of float's time in
onnxruntime, whose int8 convolutions have another layout than shuffles, and 1.23 in ncnn (bench/results/int8.md)."""

COSTLY = "it would cost too much of the detector's accuracy"

Wanted = Callable[[Node], str | None]


@dataclass(frozen=True)
class Search:
    """A network, what its tensors hold, and how its error is measured.

    Attributes:
        links: by what its weights were scaled, and the way.
    """

    model: Model
    seen: dict[str, Seen]
    head: HeadError
    largest: int
    images: int
    links: tuple[Link, ...] = ()
    way: str = ""

    @classmethod
    def of(cls, model: Model, places: Places, images: Sequence[Array], head: HeadError, largest: int) -> Search:
        """Look at the network's tensors on images."""
        names = [*places.roots, *(node.inputs[0].name for node in places.layers)]
        return cls(model, observe(model, names, images), head, largest, len(images))

    def tried(self, wanted: Wanted, method: str) -> Tried:
        """All that is wanted in whole numbers, with ranges of this method."""
        ranges = self.ranges(METHODS[method])
        plan = self.plan(places_of(self.model.graph, wanted), ranges, method)
        return Tried(self, plan, ranges, self.error(plan))

    def plan(self, places: Places, ranges: dict[str, Range], chosen: str = "") -> Quantisation:
        """These places in whole numbers, with these ranges."""
        of = {name: ranges[root] for name, root in places.shares.items()}
        layers = {
            node.name: quantised_layer(
                node,
                places.writes[node.name],
                of[node.inputs[0].name],
                self.seen[node.inputs[0].name].average,
                self.largest,
            )
            for node in places.layers
        }
        return Quantisation(layers, of, places.left, chosen, images=self.images)

    def ranges(self, method: Method) -> dict[str, Range]:
        """Of every tensor looked at."""
        known = known_ranges(self.model)
        return {name: known.get(name) or method(seen) for name, seen in self.seen.items()}

    def error(self, plan: Quantisation) -> float:
        """What the detector loses by a plan."""
        return self.head.error(quantised_graph(self.model, plan))


@dataclass(frozen=True)
class Tried:
    """A plan, what it was made of, and what it costs."""

    search: Search
    plan: Quantisation
    ranges: dict[str, Range]
    error: float


def quantise(
    model: Model,
    images: Sequence[Array],
    wanted: Wanted = lambda node: None,
    *,
    budget: float | None = None,
    largest: int = WHOLE,
    judged: bool = False,
) -> Quantisation:
    """Choose what is int8 of a float model, and its numbers.

    Args:
        images: inputs of the model. wanted: why a layer is to stay float, None where it is not.
        budget: of the detector's error; None: whatever it is. largest: weight.
        judged: whether a latency table has told what int8 gains.

    Raises:
        UnsupportedError: no layer can be int8. InputError: weights or activations are no numbers; or with a budget, the
            network detects nothing on the images.
    """
    places = places_of(model.graph, wanted)
    if not places.layers:
        raise UnsupportedError(_nothing(places), file=model.source.file, hint="leave --quantize out")
    if not judged and _shuffles(model) * SHUFFLED > len(places.layers):
        model.note(
            "int8: channels are shuffled between many small layers: int8 gained nothing on such networks where it was "
            "measured, in neither runtime (bench/results/int8.md); --measure tells"
        )
    search = Search.of(model, places, images, _head(model, images, judged=budget is not None), largest)
    tried = [search.tried(wanted, name) for name in counted("ranges", list(METHODS), len(METHODS))]
    plain = found = min(tried, key=lambda each: each.error)
    for other in _equalised(plain, places, images):
        again = other.tried(wanted, plain.plan.chosen)
        if again.error < min(WORTH * plain.error, found.error):
            found = again
    error, plan = found.error, found.plan
    if budget is not None and not error <= budget:
        error, plan = _within(found, wanted, budget)
    return replace(plan, error=error, budget=budget, links=found.search.links, equalised=found.search.way)


def _equalised(found: Tried, places: Places, images: Sequence[Array]) -> Iterator[Search]:
    """The same network with its channels made equally large, in every way that changes anything."""
    search = found.search
    largest = {name: seen.largest for name, seen in search.seen.items()}
    for way in counted("equalised", list(WAYS), len(WAYS)):
        links = links_of(search.model, largest, way)
        if links:
            model = search.model.copy()
            equalise(model, links)
            again = places_of(model.graph, lambda node: None if node.name in places.writes else "as before")
            yield replace(Search.of(model, again, images, search.head, search.largest), links=links, way=way)


def _shuffles(model: Model) -> int:
    """How often channels are picked or put in another order."""
    return sum(reorders(node) for node in model.graph.nodes)


def _nothing(places: Places) -> str:
    why = next(iter(reasons(places.left.values())), "it has no layer with weights")
    return f"no layer can be int8: {why}"


def _head(model: Model, images: Sequence[Array], *, judged: bool) -> HeadError:
    """How the error is measured. Raises InputError where it is to be `judged`, and nothing is there to lose."""
    head = HeadError.of(model, list(images))
    if not head.detects(CONFIDENCE):
        what = f"the network detects nothing in the {len(images)} calibration images, at a confidence of {CONFIDENCE}"
        if judged:
            raise InputError(
                f"int8: {what}: what it costs cannot be told, and ranges may be wrong for other images",
                file=model.source.file,
                hint="give images like those that it will see, with objects in them; --quantize all does it anyway",
            )
        model.note(f"int8: {what}: ranges may be wrong for other images")
    return head.subset(JUDGED)


def _within(found: Tried, wanted: Wanted, budget: float) -> tuple[float, Quantisation]:
    """The error and the plan with the fewest layers left float that keeps within the budget; none int8 if it must be.

    Raises:
        InputError: not one layer can be int8 within it.
    """
    search, plan, ranges = found.search, found.plan, found.ranges
    share: dict[str, float] = {}
    for name in counted("layers", list(plan.layers), len(plan.layers)):
        alone = search.plan(places_of(search.model.graph, _only(wanted, {name})), ranges)
        share[name] = search.error(alone)
    order = sorted(share, key=lambda name: -share[name])

    def without(count: int) -> tuple[float, Quantisation]:
        kept = set(order[count:])
        fewer = search.plan(places_of(search.model.graph, _only(wanted, kept)), ranges, plan.chosen)
        return search.error(fewer), fewer

    low, high, best = 1, len(order) - 1, None
    while low <= high:
        middle = (low + high) // 2
        tried = without(middle)
        if tried[0] <= budget:
            best, high = tried, middle - 1
        else:
            low = middle + 1
    if best is None:
        hint = "--quantize all does it anyway; more --calib images, or images like those it will see, may help"
        raise InputError(
            f"not one layer can be int8 within the error allowed ({budget:g})", file=search.model.source.file, hint=hint
        )
    return best


def _only(wanted: Wanted, kept: set[str]) -> Wanted:
    return lambda node: wanted(node) or (None if node.name in kept else COSTLY)
