"""A pass that spoils a tensor which no output shows is named by `--verify-each`; one that is right is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import onnxslim_yolo as oy
from onnxslim_yolo import pipeline
from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.graph import input_constant, replace_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.onnx_run import image_like_feeds
from onnxslim_yolo.verify.inner import inner_change
from tests.numeric import build

FAINT = 1e-9
TEXT = (
    '<ir_version: 8, opset_import: ["": 17]> g (float[1,3,32,32] images) => (float[1,6,16,16] y)'
    " <float[16,3,3,3] w0, float[16] b0, float[16,16,3,3] w1, float[16] b1, float[16] gamma, float[16] beta,"
    " float[16] mean, float[16] var, float[16,16,1,1] w2, float[6,16,1,1] w3> {"
    " a = Conv<pads=[1,1,1,1], strides=[2,2]>(images, w0, b0) r = Relu(a)"
    " c = Conv<pads=[1,1,1,1]>(r, w1, b1) n = BatchNormalization(c, gamma, beta, mean, var) t = Relu(n)"
    " d = Conv(t, w2) s = Add(r, d) y = Conv(s, w3) }"
)


def model(faint: str = "w2") -> Model:
    """A residual block of which one tensor makes the branch count for next to nothing."""
    made = build(TEXT)
    for node in made.graph.nodes:
        for index, tensor in enumerate(node.inputs):
            if tensor.name == faint:
                replace_constant(node, index, np.asarray(input_constant(node, index)) * np.float32(FAINT))
    return made


@dataclass(frozen=True)
class Slips:
    """Claims to be exact, and makes one tensor 1 % larger, or its first element."""

    name: ClassVar[str] = "slips"

    op: str = "Conv"
    index: int = 1
    place: int = 1
    by: float = 0.01
    first: bool = False

    def run(self, model: Model) -> int:
        node = [n for n in model.graph.nodes if n.op == self.op][self.place]
        value = np.array(input_constant(node, self.index))
        part = value.reshape(-1)[:1] if self.first else value
        part *= np.float32(1 + self.by)
        replace_constant(node, self.index, value)
        return 1


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    point = EntryPoint("slips", "tests.verify.test_inner:Slips", pipeline.ENTRY_POINT_GROUP)
    monkeypatch.setattr(pipeline, "entry_points", lambda group: [point] if group == pipeline.ENTRY_POINT_GROUP else [])
    yield


def compiled(tmp_path: Path, passes: str) -> None:
    model().save(tmp_path / "m.onnx")
    oy.compile(tmp_path / "m.onnx", out=tmp_path / "out", emit="onnx", passes=passes, verify_each=True)


@pytest.mark.parametrize(
    "passes",
    [
        "slips",
        "fold-bn,slips",
        "slips{index=2}",
        "slips{first=true by=0.2}",
        "slips{op=BatchNormalization place=0}",
        "slips{op=BatchNormalization place=0 index=2}",
        "prune{ratio=0.25},slips,slice,fold-bn",
        "prune{ratio=0.25},slice,fold-bn,slips,fold-affine",
        "prune{ratio=0.25},absorb,slips{by=-0.01},slice",
    ],
)
def test_what_no_output_shows_is_named(passes: str, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"pass 'slips' changed the inner tensor '[cn]'") as caught:
        compiled(tmp_path, passes)
    assert caught.value.exit_status == 3 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("passes", ["slips{by=0}", "fold-bn,slips{by=1e-8}", "prune{ratio=0.25},absorb,slice,fold-bn"])
def test_what_changes_nothing_is_not(passes: str, tmp_path: Path) -> None:
    compiled(tmp_path, passes)


def test_an_output_that_shows_it_is_named_first(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="pass 'slips' changed output 'y'"):
        compiled(tmp_path, "slips{place=3}")


SCALED = (
    '<ir_version: 8, opset_import: ["": 17]> g (float[1,3,16,16] images) => (float[1,4,16,16] y)'
    " <float[8,3,3,3] w0, float[8,1,1] s0, float[8,1,1] t0, float[4,8,3,3] w1, float[1] half = {0.5},"
    " float[1] k = {7}> {"
    " m = Sub(images, half) d = Div(m, k) a = Conv<pads=[1,1,1,1]>(d, w0) b = Mul(a, s0) c = Add(b, t0)"
    " r = Relu(a) e = Add(r, c) y = Conv<pads=[1,1,1,1]>(e, w1) }"
)


@pytest.mark.parametrize("kind", ["dead", "scaled"])
def test_what_no_output_depends_on_and_what_bears_another_name_may_change(kind: str, tmp_path: Path) -> None:
    """`drop-dead` clears rows that nobody needs; a shift that is left of a scale and a shift is another tensor."""
    source = Path(oy.__file__).parent / "models" / "digits-sparse.onnx"
    if kind == "scaled":
        build(SCALED).save(source := tmp_path / "scaled.onnx")
    result = oy.compile(source, out=tmp_path / "out", emit="onnx", verify_each=True)
    assert all(check["passed"] for check in result.report["verification"]["checks"])


def test_tensors_that_no_output_depends_on_are_not_compared() -> None:
    """A map of which no channel is of use any more: the BatchNormalization behind it gives constants."""
    before = model()
    norm = next(node for node in before.graph.nodes if node.op == "BatchNormalization")
    replace_constant(norm, 1, np.zeros(16, np.float32))
    after = before.copy()
    conv = [node for node in after.graph.nodes if node.op == "Conv"][1]
    replace_constant(conv, 1, np.zeros((16, 16, 3, 3), np.float32))
    feed = {"images": np.random.default_rng(0).uniform(0, 1, (1, 3, 32, 32)).astype(np.float32)}
    assert inner_change(before, after, feed) is None
    replace_constant(norm, 1, np.ones(16, np.float32))
    assert inner_change(before, after, feed) is not None, "the control: it is of use"


def test_a_factor_moved_to_the_layer_behind_is_no_mistake(tmp_path: Path) -> None:
    """`c` holds something else, which the normalisation behind it undoes."""
    before, after = model(), model()
    conv = [n for n in after.graph.nodes if n.op == "Conv"][1]
    norm = next(n for n in after.graph.nodes if n.op == "BatchNormalization")
    for node, index, factor in ((conv, 1, 2), (conv, 2, 2), (norm, 1, 0.5), (norm, 3, 2)):
        replace_constant(node, index, np.asarray(input_constant(node, index)) * np.float32(factor))
    (feed,) = image_like_feeds(before, 1)
    assert inner_change(before, after, feed) is None
    replace_constant(norm, 1, np.asarray(input_constant(norm, 1)) * np.float32(1.01))
    found = inner_change(before, after, feed)
    assert found is not None and found.tensor in ("c", "n")


def test_the_last_tensor_of_a_branch_that_counts_for_nothing() -> None:
    before, after = model(), model()
    conv = [n for n in after.graph.nodes if n.op == "Conv"][2]
    replace_constant(conv, 1, np.asarray(input_constant(conv, 1)) * np.float32(1.01))
    found = inner_change(before, after, image_like_feeds(before, 1)[0])
    assert found is not None and found.tensor == "d"
