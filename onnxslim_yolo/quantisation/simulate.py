"""An exact simulation of a quantised model in plain float arithmetic, for checking whoever computes on codes.

It knows nothing of QuantizeLinear. Every tensor with codes is cut: what is computed up to it goes out as v = x / s + z,
not rounded yet, and everything behind it reads codes that are fed, those that the runtime itself has come to. So each
layer is checked by itself, no rounding decided otherwise travels on, and a code c is right if it is v rounded:

    |c − clip(v, 0, 255)| ≤ ½ + ε        ε for the arithmetic of v alone

The outputs are computed from the last codes, and have to agree as outputs of the same float graph do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Tensor,
    consumers,
    input_constant,
    is_graph_output,
    replace_input,
    revalue,
    tensors,
    toposort,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.quantisation.plan import CODES, Quantisation, Range
from onnxslim_yolo.quantisation.qdq import CODES_OF, with_rounded_weights
from onnxslim_yolo.runtime.onnx_run import Feeds, bytes_of, session

REAL = "__real"
AT_ONCE = 32


@dataclass(frozen=True)
class Simulation:
    """A quantised model, cut at its codes and run in float.

    Attributes:
        tensors: names of the tensors with codes. outputs: of the model.
    """

    tensors: tuple[str, ...]
    outputs: tuple[str, ...]
    data: bytes

    @classmethod
    def of(cls, model: Model, plan: Quantisation, spoiled_by: float = 0.0) -> Simulation:
        """Build it; with `spoiled_by`, every quantised weight off by this share, up or down at random: a control."""
        cut = with_rounded_weights(model, plan)
        if spoiled_by:
            _spoil(cut, plan, spoiled_by)
        graph = cut.graph
        outputs = tuple(tensor.name for tensor in graph.outputs)
        found = [tensor for tensor in tensors(graph) if tensor.name in plan.ranges]
        name = Namer(graph)
        for tensor in found:
            _cut_at(graph, tensor, plan.ranges[tensor.name], name)
        graph.nodes = toposort(graph)
        return cls(tuple(tensor.name.removesuffix("__cut") for tensor in found), outputs, bytes_of(cut))

    def runner(self, *, optimise: bool = False) -> Runner:
        """Ready to be run more than once."""
        return Runner(self, session(self.data, optimise=optimise, threads=1))


@dataclass(frozen=True)
class Runner:
    """A session of a simulation."""

    simulation: Simulation
    session: object

    def real(self, feed: Feeds, codes: Feeds) -> Iterator[tuple[str, Array]]:
        """Per tensor with codes what it is before it is rounded, in codes; some at a time."""
        names = self.simulation.tensors
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            yield from zip(part, self._run([f"{name}{REAL}" for name in part], feed, codes), strict=True)

    def outputs(self, feed: Feeds, codes: Feeds) -> Feeds:
        """The model's outputs, from these codes."""
        names = self.simulation.outputs
        return dict(zip(names, self._run(names, feed, codes), strict=True))

    def _run(self, names: Sequence[str], feed: Feeds, codes: Feeds) -> list[Array]:
        import onnxruntime as ort

        options = ort.RunOptions()
        options.only_execute_path_to_fetches = True
        given = {f"{name}{CODES_OF}": codes[name] for name in self.simulation.tensors}
        found: list[Array] = self.session.run(list(names), feed | given, options)  # type: ignore[attr-defined]
        return found


def off_by(codes: Array, real: Array) -> Array:
    """By how much codes are more than half a code away from what they are roundings of."""
    return np.asarray(np.abs(codes.astype(np.float64) - np.clip(real.astype(np.float64), 0, CODES)) - 0.5)


def _spoil(model: Model, plan: Quantisation, share: float) -> None:
    rng = np.random.default_rng(0)
    for node in model.graph.nodes:
        weight = input_constant(node, 1) if node.name in plan.layers else None
        if weight is not None:
            revalue(node, 1, (weight * (1 + rng.choice([-share, share], size=weight.shape))).astype(np.float32))


def _cut_at(graph: gs.Graph, tensor: Tensor, its: Range, name: Namer) -> None:
    """Let everything behind a tensor read fed codes, and give out what it is in codes."""
    label = tensor.name
    codes = gs.Variable(f"{label}{CODES_OF}", np.uint8, tensor.shape)
    real = gs.Variable(f"{label}{REAL}", np.float32, None)
    again = gs.Variable(name(f"{label}__again"), np.float32, tensor.shape)
    step, zero = (
        gs.Constant(name(f"{label}__{end}"), np.asarray(value, np.float32))
        for end, value in (("step", its.step), ("zero", its.zero))
    )
    for node in consumers(tensor):
        replace_input(node, tensor, again)
    if is_graph_output(graph, tensor):
        graph.outputs = [again if each is tensor else each for each in graph.outputs]
        tensor.name, again.name = f"{label}__cut", label
    casted, moved, scaled = (gs.Variable(name(f"{label}__{end}"), np.float32) for end in ("cast", "moved", "scaled"))

    def put(op: str, inputs: list[Tensor], output: Tensor, **attributes: int) -> None:
        graph.nodes.append(gs.Node(op, name(f"{label}__{op}"), attributes, inputs, [output]))

    put("Cast", [codes], casted, to=1)
    put("Sub", [casted, zero], moved)
    put("Mul", [moved, step], again)
    put("Div", [tensor, step], scaled)
    put("Add", [scaled, zero], real)
    graph.inputs.append(codes)
    graph.outputs.append(real)
