"""The container of the YOLO ecosystem: a Sequential of layers that say themselves where their input comes from.

Every layer carries `i`, its index, and `f`, where its input comes from: -1 (the layer before), an index, or a list
of indices. state_dict keys are `model.<i>.…`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from onnxslim_yolo.models.blocks_common import Concat
from onnxslim_yolo.models.heads import AnchorDetect
from onnxslim_yolo.models.registry import Block, allow, register_block

From: TypeAlias = int | Sequence[int]


@register_block(
    "Model",
    "DetectionModel",
    "SegmentationModel",
    "PoseModel",
    "OBBModel",
    "ClassificationModel",
    "YOLOv10DetectionModel",
    "LayeredModel",
)
class LayeredModel(Block):
    """Walks `model` by its layers' `f`: (b, 3, H, W) → whatever the last layer returns.

    `save` lists the indices whose outputs later layers ask for. It is recomputed from the layers, so a stale one
    does no harm.
    """

    MEMBERS = ("model",)
    ATTRIBUTES = allow(save=())
    model: nn.Sequential
    save: Sequence[int]

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)
        self.settle()

    def settle(self) -> None:
        """Recompute `save`, and which layers the output depends on."""
        wanted: set[int] = set()
        for index, layer in enumerate(self.model):
            wanted.update(_absolute(source, index) for source in sources_of(layer))
        self.save = tuple(sorted(wanted))
        self._running = self._needed(running_sources)

    def _needed(self, read: Callable[[nn.Module], tuple[int, ...]]) -> frozenset[int]:
        """The layers that the last one depends on, if a layer reads what `read` says."""
        last = len(self.model) - 1
        found, stack = {-1}, [last]
        while stack:
            index = stack.pop()
            if index in found or not 0 <= index <= last:
                continue
            found.add(index)
            stack += [_absolute(source, index) for source in read(self.model[index])]
        return frozenset(found)

    def idle(self) -> tuple[str, ...]:
        """Layers of which only outputs that serve training depend: those in front of auxiliary heads."""
        return tuple(f"model.{index}" for index in sorted(self._needed(sources_of) - self._running))

    def forward(self, x: Tensor) -> Any:
        """(b, 3, H, W) → the last layer's output."""
        outputs: dict[int, Any] = {-1: x}
        y: Any = x
        for index, layer in enumerate(self.model):
            if index not in self._running:
                continue
            inputs = [outputs[_absolute(source, index)] for source in running_sources(layer)]
            y = layer(inputs if isinstance(getattr(layer, "f", -1), Sequence) else inputs[0])
            if index in self.save:
                outputs[index] = y
        return y


def sources_of(layer: nn.Module) -> tuple[int, ...]:
    """Where a layer's inputs come from: negative counts back from the layer, otherwise an index."""
    f = getattr(layer, "f", -1)
    return tuple(f) if isinstance(f, Sequence) else (int(f),)


def running_sources(layer: nn.Module) -> tuple[int, ...]:
    """Those of a layer's inputs that it reads when it is not trained: IAuxDetect's auxiliary levels come last."""
    sources = sources_of(layer)
    return sources[: layer.nl] if isinstance(layer, AnchorDetect) else sources


def _absolute(source: int, index: int) -> int:
    return index + source if source < 0 else source


class Assembler:
    """Builds a `LayeredModel` layer by layer and keeps track of channels.

    Args:
        c: channels of the input image.
        width: function from a nominal channel count to the built one.
        depth: factor on repeats larger than one.
    """

    def __init__(self, width: Callable[[int], int], depth: float = 1.0, c: int = 3) -> None:
        self.layers: list[nn.Module] = []
        self.channels: list[int] = []
        self.input = c
        self.width = width
        self.depth = depth

    def c(self, source: int = -1) -> int:
        """Channels of layer `source`'s output; negative counts back from the next layer."""
        index = len(self.layers) + source if source < 0 else source
        return self.channels[index] if index >= 0 else self.input

    def repeats(self, n: int) -> int:
        """How often to repeat a block that nominally stands `n` times."""
        return max(round(n * self.depth), 1) if n > 1 else n

    def add(self, layer: nn.Module, channels: int | None = None, f: From = -1) -> None:
        """Append a layer with `channels` outputs (None: as many as the layer before)."""
        self.channels.append(self.c() if channels is None else channels)
        for name, value in (("i", len(self.layers)), ("f", f)):
            setattr(layer, name, value)
        self.layers.append(layer)

    def block(self, make: Callable[..., nn.Module], c2: int, *args: Any, f: int = -1, **kw: Any) -> None:
        """Append `make(c1, width(c2), *args, **kw)`."""
        wide = self.width(c2)
        self.add(make(self.c(f), wide, *args, **kw), wide, f)

    def concat(self, *sources: int) -> None:
        """Append a Concat along channels."""
        self.add(Concat(1), sum(self.c(source) for source in sources), list(sources))

    def upsample(self, scale: float = 2.0) -> None:
        """Append a nearest-neighbour upsampling."""
        self.add(nn.Upsample(scale_factor=scale, mode="nearest"))

    def finish(self) -> LayeredModel:
        """The model."""
        return LayeredModel(self.layers)
