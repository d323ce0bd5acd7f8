"""The pass manager: pipelines as text, passes of third parties, invariants that name the pass, dumps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo import pipeline
from onnxslim_yolo.errors import PassError, UsageError
from onnxslim_yolo.files.spelling import options_of, spell
from onnxslim_yolo.ir.graph import replace_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes.protocol import Pass, effect_of
from onnxslim_yolo.pipeline import PASSES, available_passes, parse_pipeline
from tests.numeric import build

TEXT = (
    '<ir_version: 8, opset_import: ["": 17]> g (float[1,3,8,8] x) => (float[1,2,8,8] y)'
    " <float[8,3,1,1] a.weight, float[2,8,1,1] z.weight>"
    " { a = Conv(x, a.weight) h = Relu(a) y = Conv(h, z.weight) }"
)


@dataclass(frozen=True)
class Everything:
    """A pass with an option of every kind."""

    name: ClassVar[str] = "everything"

    count: int = 1
    share: float | Literal["dead"] = 0.5
    kind: Literal["a", "b-c"] = "a"
    flag: bool = False
    words: tuple[str, ...] = ()
    numbers: tuple[int, ...] = (1, 2)
    width: Literal["none", "pow2"] | int = "none"
    limit: float | None = None
    where: Path = Path("x")
    two_words: str = "x"
    listed: tuple[str, ...] = field(default_factory=tuple)

    def run(self, model: Model) -> int:
        return 0


REGISTRY: dict[str, type[Pass]] = {**{cls.name: cls for cls in PASSES}, "everything": Everything}

ROUND_TRIPS: list[Pass] = [
    Everything(),
    Everything(count=-3, share=0.25, kind="b-c", flag=True, words=("model.0", "a*"), numbers=(7,)),
    Everything(share="dead", width="pow2", limit=1e-3, where=Path("a/b.c"), two_words="y"),
    Everything(width=16, limit=None, share=0.0, listed=("p",)),
    *(cls() for cls in PASSES),
]


@pytest.mark.parametrize("step", ROUND_TRIPS, ids=spell)
def test_text_and_back(step: Pass) -> None:
    (again,) = parse_pipeline(spell(step), REGISTRY)
    assert again == step and type(again) is type(step)


def test_a_whole_pipeline_and_back() -> None:
    text = ",".join(spell(step) for step in ROUND_TRIPS)
    assert parse_pipeline(text, REGISTRY) == ROUND_TRIPS


def test_only_what_differs_from_the_default_is_spelt() -> None:
    assert spell(Everything()) == "everything"
    assert spell(Everything(flag=True, words=("a", "b"))) == "everything{flag=true words=a|b}"


@pytest.mark.parametrize(
    "text",
    [
        "prune{ratio=0.7},snap{to=pow2},slice",
        " prune { ratio=0.7 } , snap{ to=pow2 },slice ",
        "prune{ratio=0.7;scope=all},snap{to=pow2;},slice,",
    ],
)
def test_spaces_and_semicolons(text: str) -> None:
    assert [spell(step) for step in parse_pipeline(text)] == ["prune{ratio=0.7}", "snap{to=pow2}", "slice"]


def test_dashes_for_underscores() -> None:
    (step,) = parse_pipeline("everything{two-words=y}", REGISTRY)
    assert step == Everything(two_words="y")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prun", "unknown pass 'prun'\n.*did you mean 'prune'"),
        ("slicer", "unknown pass 'slicer'\n.*'slice'"),
        ("qqqqqq", "unknown pass 'qqqqqq'\n.*known: "),
        ("prune{ratoi=0.5}", "'prune' has no option 'ratoi=0.5'\n.*did you mean 'ratio'"),
        ("prune{ratio}", "'prune' has no option 'ratio'"),
        ("prune{ratio=lots}", "prune{ratio}: 'lots' is no .*float"),
        ("prune{ratio=1.5}", r"not in \[0, 1\)"),
        ("prune{scope=some}", "'some' is none of all, no-residual"),
        ("prune{floor=2.5}", "'2.5' is no int"),
        ("prune{normalise=maybe}", "'maybe' is no bool"),
        ("prune{ratio=0.5", "cannot read the pipeline"),
        ("prune}", "cannot read the pipeline"),
        ("prune{{ratio=0.5}}", "cannot read the pipeline"),
        ("", "the pipeline is empty"),
        ("  ", "the pipeline is empty"),
        (",", "empty|cannot read"),
    ],
)
def test_what_is_spelt_wrong(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_pipeline(text)
    assert caught.value.exit_status == 2


def test_options_are_listed_as_they_are_spelt() -> None:
    rows = {name: (kind, default) for name, kind, default in options_of(Everything)}
    assert rows["share"] == ("float|dead", "0.5")
    assert rows["kind"] == ("a|b-c", "a")
    assert rows["words"] == ("list of str", "")
    assert rows["limit"] == ("float|none", "none")
    assert rows["flag"] == ("bool", "false")


def test_every_pass_is_a_documented_frozen_dataclass() -> None:
    for cls in PASSES:
        assert isinstance(cls(), Pass) and (cls.__doc__ or "").strip()
        assert effect_of(cls()) in ("exact", "plan", "slice", "blocks", "approximate", "head")
        for option in cls.__dataclass_fields__:  # type: ignore[attr-defined]
            with pytest.raises(AttributeError):
                setattr(cls(), option, None)
    assert len({cls.name for cls in PASSES}) == len(PASSES)


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Entry points that a third party's package would declare."""
    found: list[Any] = []
    monkeypatch.setattr(pipeline, "entry_points", lambda group: found if group == pipeline.ENTRY_POINT_GROUP else [])
    yield found


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, pipeline.ENTRY_POINT_GROUP)


def test_a_pass_of_a_third_party(points: list[Any]) -> None:
    points.append(point("everything", "tests.test_manager:Everything"))
    assert available_passes()["everything"] is Everything
    assert parse_pipeline("slice,everything{count=3}")[1] == Everything(count=3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tests.no_such_module:Everything", "cannot be loaded"),
        ("tests.test_manager:Missing", "cannot be loaded"),
        ("tests.test_manager:TEXT", "is no pass"),
        ("tests.test_manager:Impostor", "a pass named 'prune' exists already"),
    ],
)
def test_third_parties_that_are_broken(points: list[Any], value: str, message: str) -> None:
    points.append(point("extra", value))
    with pytest.raises(UsageError, match=message) as caught:
        available_passes()
    assert value in str(caught.value)


@dataclass(frozen=True)
class Impostor:
    """Takes another pass's name."""

    name: ClassVar[str] = "prune"

    def run(self, model: Model) -> int:
        return 0


@dataclass(frozen=True)
class Breaks:
    """Breaks one invariant."""

    name: ClassVar[str] = "breaks"

    how: str = "names"

    def run(self, model: Model) -> int:
        graph, (first, relu, last) = model.graph, model.graph.nodes
        if self.how == "tensor names":
            first.outputs[0].name = relu.outputs[0].name
        elif self.how == "node names":
            first.name = last.name
        elif self.how == "two producers":
            graph.nodes.append(gs.Node("Neg", "extra", {}, [first.outputs[0]], [relu.outputs[0]]))
        elif self.how == "no producer":
            relu.inputs = [gs.Variable("nowhere", np.float32)]
        elif self.how == "output":
            graph.outputs = [gs.Variable("nowhere", np.float32)]
        elif self.how == "cycle":
            relu.inputs = [last.outputs[0]]
        elif self.how == "shape":
            relu.outputs[0].shape = [1, 5, 8, 8]
        elif self.how == "width":
            replace_constant(last, 1, np.zeros((2, 5, 1, 1), np.float32))
        elif self.how == "raises":
            raise KeyError("oops")
        return 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("tensor names", "two tensors are called 'h'"),
        ("node names", "two nodes are called"),
        ("two producers", "'h' has two producers"),
        ("no producer", "reads 'nowhere' before anything computes it"),
        ("output", "nothing computes the graph's output 'nowhere'"),
        ("cycle", "cycle"),
        ("shape", "shape inference failed"),
        ("width", "has weights for 5 channels, but its input 'h' has 8"),
        ("raises", "KeyError: 'oops'"),
    ],
)
def test_a_broken_pass_is_named(how: str, message: str) -> None:
    with pytest.raises(PassError, match=message) as caught:
        PassManager([Everything(), Breaks(how)]).run(build(TEXT))
    assert caught.value.pass_name == "breaks" and caught.value.exit_status == 3
    assert "pass 'breaks'" in str(caught.value) and "before it: everything" in str(caught.value)


def test_a_pass_that_claims_to_have_done_nothing_is_not_checked_again() -> None:
    (record,) = PassManager([Everything(count=2)]).run(build(TEXT))
    assert (record.name, record.spec, record.rewrites, record.nodes) == ("everything", "everything{count=2}", 0, 3)
    assert record.seconds >= 0


def test_graphs_are_dumped_after_every_pass(tmp_path: Path) -> None:
    PassManager([Everything(), Everything()], dump_to=tmp_path / "dumps", first_index=3).run(build(TEXT))
    assert sorted(p.name for p in (tmp_path / "dumps").iterdir()) == ["03-everything.onnx", "04-everything.onnx"]
    for file in (tmp_path / "dumps").iterdir():
        onnx.checker.check_model(onnx.load(file))


@dataclass(frozen=True)
class Doubles:
    """Doubles a weight."""

    name: ClassVar[str] = "doubles"

    def run(self, model: Model) -> int:
        replace_constant(model.graph.nodes[0], 1, 2 * model.graph.nodes[0].inputs[1].values)  # type: ignore[attr-defined]
        return 1


def test_observers_see_before_and_after() -> None:
    seen: list[tuple[str, float]] = []

    def observe(step: Pass, before: Model, after: Model) -> None:
        first, second = (m.graph.nodes[0].inputs[1].values.sum() for m in (before, after))  # type: ignore[attr-defined]
        seen.append((step.name, float(second / first)))

    PassManager([Everything(), Doubles()], observe=observe).run(build(TEXT))
    assert seen == [("doubles", pytest.approx(2.0))]


def test_replacing_options() -> None:
    assert replace(Everything(), count=5).count == 5
