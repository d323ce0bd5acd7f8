"""Small graphs and what an analysis says about their tensors."""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels, analyse_channels
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.analysis.moments import Moments
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from tests.numeric import build

HEADER = '<ir_version: 8, opset_import: ["": 17]>'


def onnx_text(inputs: str, outputs: str, weights: str, body: str, opset: int = 17) -> str:
    """A graph as ONNX text; see `tests.numeric.build` for the weights."""
    return f"{HEADER.replace('17', str(opset))} g ({inputs}) => ({outputs}) <{weights}> {{ {body} }}"


class Labelled:
    """A graph with its channel analysis; `labelled["h"]` are the classes along the channels of `h`."""

    def __init__(self, text: str, values: dict[str, Array] | None = None) -> None:
        self.model: Model = build(text, values=values)
        self.channels: Channels = analyse_channels(self.model.graph)

    def descriptor(self, name: str) -> Array:
        found = self.channels.labels_of(self.model.graph.tensors()[name])
        assert found is not None
        return found

    def __getitem__(self, name: str) -> list[int]:
        return [int(cls) for cls in self.descriptor(name).reshape(-1)]

    def reasons(self, name: str) -> set[str | None]:
        """Why the channels of a tensor are frozen."""
        return {self.channels.frozen[cls] for cls in self[name] if cls != NO_CHANNEL}

    def free(self, name: str) -> bool:
        return self.reasons(name) == {None}

    def moments(self, name: str) -> Moments:
        return moments_of(self.model.graph, self.channels.shapes).of(self.model.graph.tensors()[name])

    def groups(self) -> dict[tuple[str, ...], int]:
        """Members → width of every group."""
        return {group.members: group.width for group in self.channels.groups}


def distinct(classes: list[int]) -> bool:
    return len(set(classes)) == len(classes) and NO_CHANNEL not in classes


def nearly(array: Array, *expected: float) -> bool:
    return bool(np.allclose(array.reshape(-1), expected, rtol=1e-6, atol=1e-9, equal_nan=True))
