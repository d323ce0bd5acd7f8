"""Files with lists of tensors: those that can be taken apart are compiled, others refused by name."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.load import load
from onnxslim_yolo.passes import Canonicalise
from tests.numeric import assert_same, build, ops
from tests.passes.cutting import onnx_text, run

TAKEN_APART = {
    "split": "s = SplitToSequence<axis=1>(a, parts) p = SequenceAt(s, one) y = Conv(p, w)",
    "chunk": "s = SplitToSequence<axis=1>(a, five) p = SequenceAt(s, zero) y = Conv(p, w)",
    "unbind": "s = SplitToSequence<axis=0, keepdims=0>(a) p = SequenceAt(s, zero) q = Unsqueeze(p, first) "
    "y = Conv(q, v)",
    "construct": "s = SequenceConstruct(a, x) p = SequenceAt(s, one) c = ConcatFromSequence<axis=1>(s) y = Conv(c, u)",
}
REFUSED = {
    "joined": "s = SplitToSequence<axis=1>(a, five) c = ConcatFromSequence<axis=1>(s) y = Conv(c, v)",
    "picked-by-the-image": "s = SplitToSequence<axis=1>(a, four) n = ReduceMax<keepdims=0>(x) i = Cast<to=7>(n) "
    "p = SequenceAt(s, i) y = Conv(p, t)",
    "inserted": "e = SequenceEmpty<dtype=1>() s = SequenceInsert(e, a) p = SequenceAt(s, zero) y = Conv(p, v)",
    "counted": "s = SplitToSequence<axis=1>(a, four) n = SequenceLength(s) f = Cast<to=1>(n) "
    "m = Mul(a, f) y = Conv(m, v)",
}
WEIGHTS = (
    "float[8,3,1,1] k, int64[2] parts = {3,5}, int64 five = {5}, int64 four = {4}, int64 one = {1}, int64 zero = {0}, "
    "int64[1] first = {0}, float[2,5,1,1] w, float[2,8,1,1] v, float[2,11,1,1] u, float[2,4,1,1] t"
)


def written(body: str, folder: Path) -> Path:
    model = build(onnx_text("float[1,3,4,4] x", "float[p,q,r,s] y", WEIGHTS, f"a = Conv(x, k) {body}"))
    onnx.save(model.to_onnx(), folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("name", TAKEN_APART)
def test_lists_of_constant_places_are_taken_apart(name: str, tmp_path: Path) -> None:
    model = load(written(TAKEN_APART[name], tmp_path))
    after = run(model, Canonicalise())
    assert not any("Sequence" in op for op in ops(after))
    assert_same(model, after)


@pytest.mark.parametrize("name", REFUSED)
def test_other_lists_are_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="sequences of tensors") as caught:
        load(written(REFUSED[name], tmp_path))
    assert caught.value.node
