"""Space-to-depth in all its spellings: what is told is what the graph does to an image of distinct numbers."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.phases import UNBOUNDED, Phases, phases_of
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from tests.analysis.graphs import onnx_text
from tests.numeric import build, run_onnx

IMAGE = np.arange(2 * 4 * 6, dtype=np.float32).reshape(1, 2, 4, 6)
NUMBERS = ", ".join(f"int64[1] n{k} = {{{k}}}" for k in (0, 1, 2, 3, 4, 5, 6))
WEIGHTS = f"{NUMBERS}, int64[1] m1 = {{-1}}, int64[1] m2 = {{-2}}, int64[1] end = {{{UNBOUNDED}}}"
EVEN = f"{WEIGHTS}, int64[2] hw = {{2, 3}}, int64[2] ends = {{{UNBOUNDED}, {UNBOUNDED}}}, int64[2] twos = {{2, 2}}"
CORNERS = ", ".join(f"int64[2] s{a}{b} = {{{a}, {b}}}" for a in range(2) for b in range(2))
ALL = f"{EVEN}, {CORNERS}, int64[6] split = {{1, 2, 2, 2, 3, 2}}, int64[4] joined = {{1, 8, 2, 3}}"


def model_of(body: str, image: str = "1, 2, 4, 6") -> Model:
    return build(onnx_text(f"float[{image}] x", "float[a, b, c, d] y", ALL, body))


def phases_in(body: str, image: str = "1, 2, 4, 6") -> Phases | None:
    model = model_of(body, image)
    return phases_of(model.graph, model.graph.tensors()["y"])


def shown(phases: Phases) -> Array:
    """What the taps say that the image becomes."""
    (b1, b2), taps = phases.block, phases.taps.tolist()
    return np.stack([IMAGE[:, c, r1::b1, r2::b2] for c, r1, r2 in taps], axis=1)


def corner(k: int, name: str, of: str = "x") -> str:
    """Every second pixel both ways, from the offsets' corner k on, by one Slice."""
    return f"{name} = Slice ({of}, s{k // 2}{k % 2}, ends, hw, twos)"


FOCUS = " ".join(corner(k, f"t{k}") for k in range(4))
TWICE = """r0 = Slice (x, n0, end, n2, n2) r1 = Slice (x, n1, end, n2, n2) t0 = Slice (r0, n0, end, n3, n2)
    t1 = Slice (r0, n1, end, n3, n2) t2 = Slice (r1, n0, end, n3, n2) t3 = Slice (r1, n1, end, n3, n2)"""
SAID = TWICE.replace("end", "n6")
FROM_BEHIND = TWICE.replace("n3, n2)", "m1, n2)").replace("end, n2, n2)", "end, m2, n2)")
JOIN = "y = Concat <axis = 1> (t0, t1, t2, t3)"


def unshuffled(order: str) -> str:
    return f"r = Reshape (x, split) t = Transpose <perm = [0, {order}, 2, 4]> (r) y = Reshape (t, joined)"


@pytest.mark.parametrize(
    "body, block, complete",
    [
        ("y = SpaceToDepth <blocksize = 2> (x)", (2, 2), True),
        (f"{FOCUS} {JOIN}", (2, 2), True),
        (f"{FOCUS} y = Concat <axis = -3> (t3, t1, t0, t2)", (2, 2), True),
        (f"{FOCUS} y = Concat <axis = 1> (t0, t2)", (2, 2), False),
        (f"{FOCUS} y = Concat <axis = 1> (t0, t1, t1, t3)", (2, 2), False),
        (f"{TWICE} {JOIN}", (2, 2), True),
        (f"{SAID} {JOIN}", (2, 2), True),
        (f"{FROM_BEHIND} {JOIN}", (2, 2), True),
        (
            "p = Slice (x, n1, end, n3) q = Slice (p, n0, end, n3, n2) r = Slice (x, n0, end, n3, n2)"
            " y = Concat <axis = 1> (r, q)",
            (1, 2),
            True,
        ),
        (
            "p = Slice (x, n0, end, n3, n2) q = Slice (p, n1, end, n3, n3) r = Slice (x, n0, end, n3, n6)"
            " y = Concat <axis = 1> (r, q)",
            (1, 6),
            False,
        ),
        ("p = Slice (x, n0, end, n2, n2) q = Slice (x, n1, end, n2, n2) y = Concat <axis = 1> (p, q)", (2, 1), True),
        (unshuffled("1, 3, 5"), (2, 2), True),
        (unshuffled("3, 5, 1"), (2, 2), True),
        (unshuffled("5, 1, 3"), (2, 2), True),
    ],
)
def test_what_is_told_is_what_is_computed(body: str, block: tuple[int, int], complete: bool) -> None:
    model = model_of(body)
    found = phases_of(model.graph, model.graph.tensors()["y"])
    assert found is not None
    computed = run_onnx(model, {"x": IMAGE})["y"]
    assert found.base.name == "x" and found.block == block and found.is_complete is complete
    assert np.array_equal(shown(found), computed)


@pytest.mark.parametrize("name", ["x", "r"])
def test_the_nearest_common_base(name: str) -> None:
    found = phases_in(f"r = Slice (x, n1, end, n3, n3) y = Concat <axis = 1> ({name}, {name})")
    assert found is not None and not found.is_complete
    assert (found.base.name, found.block, found.taps.tolist()) == (name, (1, 1), [[0, 0, 0], [1, 0, 0]] * 2)


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu (x)",
        f"{FOCUS} y = Concat <axis = 2> (t0, t1)",
        f"{FOCUS} u = Relu (x) {corner(3, 'v', 'u')} y = Concat <axis = 1> (t0, v)",
        "p = Slice (x, n0, end, n3, n2) q = Slice (x, n0, n3, n3) y = Concat <axis = 1> (p, q)",
        "p = Slice (x, n0, n4, n3) q = Slice (x, n2, end, n3) y = Concat <axis = 1> (p, q)",
        "p = Slice (x, n2, end, n3, n2) q = Slice (x, n1, n5, n3, n2) y = Concat <axis = 1> (p, q)",
        "p = Slice (x, m1, end, n3) q = Slice (x, n0, n1, n3) y = Concat <axis = 1> (p, q)",
        "p = Slice (x, n0, n1, n1) q = Slice (x, n1, n2, n1) y = Concat <axis = 1> (p, q)",
        "r = Reshape (x, split) t = Transpose <perm = [0, 1, 3, 4, 2, 5]> (r) k = Reshape (t, joined) y = Relu (k)",
        "r = Reshape (x, split) y = Reshape (r, joined)",
        unshuffled("1, 3, 5").replace("0, 1, 3, 5, 2, 4", "0, 1, 3, 5, 4, 2"),
        unshuffled("1, 3, 5").replace("0, 1, 3, 5, 2, 4", "0, 1, 2, 3, 4, 5"),
        unshuffled("1, 3, 5").replace("(x, split)", "(u, split)").replace("r =", "u = Relu (x) r =") + " z = Relu (r)",
    ],
)
def test_what_is_none(body: str) -> None:
    assert phases_in(body) is None


@pytest.mark.parametrize("name", ["r", "t"])
def test_reshapes_that_others_read_stay(name: str) -> None:
    model = build(
        onnx_text(
            "float[1, 2, 4, 6] x", f"float[a, b, c, d] y, float[k, l, m, n, o, p] {name}", ALL, unshuffled("1, 3, 5")
        )
    )
    assert phases_of(model.graph, model.graph.tensors()["y"]) is None


class TestSizes:
    """A size that is not known is a multiple of the block only if its last phase is as long as its first."""

    def test_open_and_all_phases(self) -> None:
        found = phases_in(f"{FOCUS} {JOIN}", "1, 2, H, W")
        assert found is not None and found.is_complete and found.block == (2, 2)

    def test_open_and_some_phases(self) -> None:
        assert phases_in(f"{FOCUS} y = Concat <axis = 1> (t0, t1)", "1, 2, H, 6") is None
        assert phases_in(f"{FOCUS} y = Concat <axis = 1> (t2, t3)", "1, 2, H, 6") is None
        assert phases_in(f"{FOCUS} y = Concat <axis = 1> (t0, t3)", "1, 2, H, W") is not None
        assert phases_in(f"{FOCUS} y = Concat <axis = 1> (t0, t2)", "1, 2, H, 6") is not None
        assert phases_in(f"{FOCUS} y = Concat <axis = 1> (t0, t2)", "1, 2, H, W") is None

    def test_known(self) -> None:
        body = f"{FOCUS} {corner(0, 'again')} y = Concat <axis = 1> (t0, again)"
        assert phases_in(body, "1, 2, 4, 6") is not None
        assert phases_in(body, "1, 2, 5, 6") is None
        assert phases_in(body, "1, 2, 4, 7") is None

    def test_an_end_is_far_enough_where_the_size_is_open(self) -> None:
        for end, known in (("end", True), ("n6", False)):
            body = f"p = Slice (x, n0, {end}, n3, n2) q = Slice (x, n1, {end}, n3, n2) y = Concat <axis = 1> (p, q)"
            found = phases_in(body, "1, 2, 4, W")
            assert (found is not None and found.base.name == "x") is known

    def test_channels_that_are_not_known(self) -> None:
        assert phases_in("y = SpaceToDepth <blocksize = 2> (x)", "1, C, 4, 6") is None
        found = phases_in(f"{FOCUS} {JOIN}", "1, C, 4, 6")
        assert found is None


def test_incomplete_of_unknown_channels() -> None:
    found = phases_in("y = SpaceToDepth <blocksize = 2> (x)")
    assert found is not None and found.is_complete
    found.base.shape = None
    assert not found.is_complete
