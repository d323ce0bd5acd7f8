"""What the channel analysis reads of a graph before it begins, its shapes; and what it says of it as a whole."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels, analyse_channels, concrete_shapes
from onnxslim_yolo.ir.model import Model
from tests.analysis.graphs import onnx_text
from tests.numeric import build

WEIGHTS = """float[4,3,1,1] a.weight, float[2,4,1,1] b.weight, float[2,8,1,1] d.weight, int64 zero = {0},
    int64 one = {1}, int64[1] two = {2}, int64[1] first = {0}, int64[1] unit = {1}, int64[1] minus = {-1},
    float[1] half = {0.5}, float[4] twice = {1, 1, 2, 2}, float[8] roi"""


def model_of(body: str, *, batch: str = "1", opset: int = 17, outputs: str = "") -> Model:
    return build(onnx_text(f"float[{batch},3,8,8] x", f"float y{outputs}", WEIGHTS, body, opset))


def shapes_of(model: Model, batch: int = 1, **given: tuple[int, ...]) -> dict[str, tuple[int, ...] | None]:
    """By name; what the graph itself says stays as it was."""
    before = [t.shape for t in model.graph.tensors().values()]
    found = concrete_shapes(model.graph, batch, given or None)
    assert [t.shape for t in model.graph.tensors().values()] == before
    return {name: found[id(tensor)] for name, tensor in model.graph.tensors().items()}


class TestShapes:
    def test_are_those_of_the_graph_where_it_says_all(self) -> None:
        found = shapes_of(model_of("h = Conv(x, a.weight) y = Relu(h)"))
        assert (found["x"], found["h"], found["y"], found["a.weight"]) == (
            (1, 3, 8, 8), (1, 4, 8, 8), (1, 4, 8, 8), (4, 3, 1, 1))  # fmt: skip

    def test_an_open_batch_is_one_or_what_is_asked_for(self) -> None:
        model = model_of("h = Conv(x, a.weight) y = Relu(h)", batch="n")
        assert shapes_of(model)["h"] == (1, 4, 8, 8) and shapes_of(model, 5)["h"] == (5, 4, 8, 8)
        assert concrete_shapes(model.graph)[id(model.graph.inputs[0])] == (1, 3, 8, 8)
        model.graph.inputs[0].shape = ["n", 3, "h", 8]
        assert shapes_of(model)["h"] is None and shapes_of(model)["a.weight"] == (4, 3, 1, 1)

    def test_what_stands_nowhere_is_inferred(self) -> None:
        model = model_of("h = Conv(x, a.weight) y = Relu(h)")
        model.graph.tensors()["h"].shape = None
        assert shapes_of(model)["h"] == (1, 4, 8, 8)

    def test_what_is_given_is_believed(self) -> None:
        """A size that the image says; and no elements are a size as well."""
        model = model_of("h = Conv(x, a.weight) f = NonZero(h) c = Cast<to=1>(f) y = Transpose(c)")
        assert shapes_of(model)["y"] is None
        assert shapes_of(model, f=(4, 7))["y"] == (7, 4)
        assert shapes_of(model, f=(4, 0))["y"] == (0, 4)

    @pytest.mark.parametrize("opset", [11, 12, 17])
    def test_sizes_are_followed_through_arithmetic(self, opset: int) -> None:
        """Below opset 13 onnx does not, and divisions never: half of the channels, laid out by a size that follows."""
        row = "Unsqueeze(n, first)" if opset > 12 else "Unsqueeze<axes=[0]>(n)"
        body = f"""h = Conv(x, a.weight) s = Shape(h) c = Gather(s, one) m = Div(c, two) p = Slice(h, first, m, unit)
            q = Shape(p) n = Gather(q, zero) r = {row} t = Concat<axis=0>(r, minus) y = Reshape(p, t)"""
        found = shapes_of(model_of(body, batch="n", opset=opset))
        assert (found["p"], found["y"]) == ((1, 2, 8, 8), (1, 128))

    @pytest.mark.parametrize("opset", [11, 12, 17])
    def test_factors_are_no_sizes(self, opset: int) -> None:
        """A Resize by computed factors has an open size, which is not taken from them."""
        body = 'e = Add(twice, half) f = Sub(e, half) h = Conv(x, a.weight) y = Resize<mode="nearest">(h, roi, f)'
        assert shapes_of(model_of(body, batch="n", opset=opset))["y"] in (None, (1, 4, 16, 16))


def channels_of(body: str, outputs: str = "") -> tuple[Channels, dict[str, gs.Tensor]]:
    graph = model_of(body, outputs=outputs).graph
    return analyse_channels(graph), graph.tensors()


def test_sections_are_what_may_not_become_empty() -> None:
    found, tensors = channels_of("h = Conv(x, a.weight) r = Relu(h) c = Concat<axis=1>(r, h) y = Conv(c, d.weight)")
    own = found.labels_of(tensors["h"])
    last = found.labels_of(tensors["y"])
    assert own is not None and last is not None
    h, y = own.reshape(-1).tolist(), last.reshape(-1).tolist()
    assert [section.tolist() for section in found.sections] == [h, h + h, y]


def test_what_has_no_channels_has_no_section() -> None:
    found, _ = channels_of("h = Relu(x) y = Sigmoid(h)")
    assert found.count == 0 and found.sections == []
    parted, tensors = channels_of("h = Conv(x, a.weight) c = Concat<axis=1>(h, x) y = Relu(c)")
    own = parted.labels_of(tensors["h"])
    assert own is not None
    h = own.reshape(-1).tolist()
    assert [section.tolist() for section in parted.sections] == [h, [*h, *[NO_CHANNEL] * 3]]


def test_who_returns_a_size_returns_what_it_is_the_size_of() -> None:
    """Else a caller that reads it would be told another one after pruning."""
    body = "h = Conv(x, a.weight) y = Conv(h, b.weight)"
    free, tensors = channels_of(body)
    labels = free.labels_of(tensors["h"])
    assert labels is not None and {free.frozen[cls] for cls in labels.reshape(-1)} == {None}
    told, tensors = channels_of(f"{body} s = Shape(h)", ", int64[4] s")
    labels = told.labels_of(tensors["h"])
    assert labels is not None and {told.frozen[cls] for cls in labels.reshape(-1)} == {"reaches the output 's'"}


def test_prunable_is_what_nothing_holds() -> None:
    found, tensors = channels_of("h = Conv(x, a.weight) y = Conv(h, b.weight)")
    last = found.labels_of(tensors["y"])
    assert last is not None
    assert np.flatnonzero(~found.prunable).tolist() == sorted(last.reshape(-1).tolist())
    assert found.labels_of(gs.Variable("nobody")) is None
