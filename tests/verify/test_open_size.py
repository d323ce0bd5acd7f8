"""An open height and width stay open in what is written, or a note says which is fixed and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxslim_yolo
from onnxslim_yolo.errors import UsageError, VerificationError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.measure.benchmark import _at_one_size
from onnxslim_yolo.result import Result
from onnxslim_yolo.rewrites.size_probes import Probes
from onnxslim_yolo.verify import open_size
from onnxslim_yolo.verify.detector import open_network
from onnxslim_yolo.verify.pair import compare_models
from tests.numeric import TIGHT, build, differences, run_onnx
from tests.passes.cutting import onnx_text

WEIGHTS = (
    "float[8,3,3,3] a.weight, float[8] a.bias, float[8,8,3,3] b.weight, float[8] b.bias, float[6,8,1,1] c.weight, "
    "float[6] c.bias, float[14,8,1,1] d.weight, float[14] d.bias, float[8,8,1,1] q.weight, float[8] q.bias, "
    "float[192,5] fc.weight, float[5] fc.bias, int64[1] n0 = {0}, int64[1] n1 = {1}, int64[1] n2 = {2}, "
    "int64[1] n3 = {3}, int64[1] n4 = {4}, int64[1] n7 = {7}, int64[1] n8 = {8}, int64[1] rest = {-1}, "
    "int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64 three = {3}, int64[2] ones = {1,1}, "
    "float half = {0.5}, float eight = {8}, int64[4] square = {1,1,16,16}, "
    "float[1,2,16,16] baked, float[1,8,16,16] positions, int64[3] tokens = {0,8,-1}, int64[2] flat = {0,-1}"
)
STEM = (
    "a0 = Conv<strides=[2,2], pads=[1,1,1,1]>(x, a.weight, a.bias) a = Relu(a0) "
    "b0 = Conv<pads=[1,1,1,1]>(a, b.weight, b.bias) b = Relu(b0)"
)
HW = "sh = Shape(c) h = Gather(sh, two) w = Gather(sh, three) uh = Unsqueeze(h, n0) uw = Unsqueeze(w, n0)"
GRID = (
    f"c = Conv(b, c.weight, c.bias) {HW} hw = Concat<axis=0>(uh, uw) ry = Range(zero, h, one) rx = Range(zero, w, one) "
    "fy = Cast<to=1>(ry) fx = Cast<to=1>(rx) yy = Unsqueeze(fy, n1) ey = Expand(yy, hw) ex = Expand(fx, hw) "
    "gy = Unsqueeze(ey, n0) gx = Unsqueeze(ex, n0) g0 = Concat<axis=0>(gx, gy) g = Unsqueeze(g0, n0) "
    "box, cls = Split<axis=1, num_outputs=2>(c)"
)

OPEN = {
    "convolutions": "y = Conv(b, c.weight, c.bias)",
    "pool": "m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(b) y = Conv(m, c.weight, c.bias)",
    "resize-by-scales": "float[4] twice = {1,1,2,2}|e = Resize(b, , twice) y = Conv(e, c.weight, c.bias)",
    "resize-by-sizes": "m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b) sb = Shape(b) st = Slice(sb, n2, n4, n0) "
    "sm = Shape(m) sc = Slice(sm, n0, n2, n0) t = Concat<axis=0>(sc, st) e = Resize(m, , , t) f = Add(e, b) "
    "y = Conv(f, c.weight, c.bias)",
    "view": f"c = Conv(b, d.weight, d.bias) {HW} n = Gather(sh, zero) un = Unsqueeze(n, n0) "
    "t = Concat<axis=0>(un, n2, n7, uh, uw) v = Reshape(c, t) p = Transpose<perm=[0,1,3,4,2]>(v) "
    "r = Mul(uh, uw) r2 = Mul(r, n2) u = Concat<axis=0>(un, r2, n7) y0 = Reshape(p, u) y = Sigmoid(y0)",
    "grid": f"{GRID} g1 = Slice(g, n0, n1, n1) k1, k2, k3 = Split<axis=1>(c, three_parts) k = Add(k1, g) "
    "y = Concat<axis=1>(k, k2, k3)",
    "attention": "k = Conv(b, q.weight, q.bias) m = MaxPool<kernel_shape=[4,4], strides=[4,4]>(k) sh = Shape(m) "
    "h = Gather(sh, two) w = Gather(sh, three) hw = Mul(h, w) n = Gather(sh, zero) un = Unsqueeze(n, n0) "
    "uhw = Unsqueeze(hw, n0) t = Concat<axis=0>(un, n8, uhw) v = Reshape(m, t) vt = Transpose<perm=[0,2,1]>(v) "
    "s = MatMul(vt, v) p = Softmax<axis=-1>(s) o = MatMul(v, p) back = Reshape(o, sh) "
    "y = Conv(back, c.weight, c.bias)",
    "crop-to-half": "sh = Shape(b) h = Gather(sh, two) uh = Unsqueeze(h, n0) half_h = Div(uh, n2) "
    "f = Slice(b, n0, half_h, n2) y = Conv(f, c.weight, c.bias)",
    "mean": "m = ReduceMean<axes=[2,3]>(b) f = Mul(b, m) y = Conv(f, c.weight, c.bias)",
    "own-padding": f"c = Conv(b, c.weight, c.bias) {HW} ph = Mod(uh, n8) pw = Mod(uw, n8) "
    "pads = Concat<axis=0>(n0, n0, n1, n1, n0, n0, ph, pw) y = Pad(c, pads)",
}
FIXED = {
    "gemm": ("f = Flatten(m) y = Gemm(f, fc.weight, fc.bias)", "as it was read it runs at no other size"),
    "baked": ("c = Conv(b, c.weight, c.bias) p, r = Split<axis=1>(c, parts) q = Add(p, baked) "
              "y = Concat<axis=1>(q, r)", "as it was read it runs at no other size"),
    "positions": ("f = Add(b, positions) y = Conv(f, c.weight, c.bias)", "as it was read it runs at no other size"),
    # The pad does nothing at 32 pixels, and has gone by then.
    "padding": (f"c = Conv(b, c.weight, c.bias) {HW} r0 = Mod(uh, n8) r1 = Mod(uw, n8) d0 = Sub(n8, r0) "
                "d1 = Sub(n8, r1) ph = Mod(d0, n8) pw = Mod(d1, n8) pads = Concat<axis=0>(n0, n0, n0, n0, n0, n0, "
                "ph, pw) y = Pad(c, pads)", "at 135x173 output 'y' would differ"),
}  # fmt: skip


def source(body: str, dims: str = "N,3,H,W") -> Model:
    weights, _, nodes = body.rpartition("|")
    text = onnx_text(
        f"float[{dims}] x",
        "float[p,q,r,s] y" if "Gemm" not in body and "r2" not in body else "float y",
        f"{WEIGHTS}, int64[3] three_parts = {{2,2,2}}, int64[2] parts = {{2,4}}{weights and ', ' + weights}",
        f"{STEM} {nodes}",
        opset=18 if "num_outputs" in body else 17,
    )
    return build(text.replace("float y)", "float[u,v] y)" if "Gemm" in body else "float[u,v,z] y)"))


def compiled(tmp_path: Path, body: str, *, dims: str = "N,3,H,W", **options: object) -> tuple[onnx.ModelProto, Result]:
    path = source(body, dims).save(tmp_path / "s.onnx")
    given = {"imgsz": (32, 32), "emit": "onnx", "out": tmp_path / "o", "will_train": True, **options}
    result = onnxslim_yolo.compile(path, **given)
    assert result.onnx is not None
    return onnx.load(result.onnx), result


def dims_of(proto: onnx.ModelProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]


def said(result: Result) -> str:
    return next(note for note in result.model.notes if "the ONNX file takes" in note)


@pytest.mark.parametrize("case", OPEN)
def test_a_size_stays_open(case: str, tmp_path: Path) -> None:
    """Beyond the sizes that compiling checks: two others, at batch 2."""
    written, result = compiled(tmp_path, OPEN[case])
    assert dims_of(written) == ["N", 3, "H", "W"], said(result)
    original = source(OPEN[case])
    for height, width in ((40, 72), (88, 48)):
        feeds = {"x": np.random.default_rng(height).random((2, 3, height, width), dtype=np.float32)}
        assert max(differences(run_onnx(original, feeds), run_onnx(written, feeds)).values()) < TIGHT
    checks = result.report["verification"]["checks"]
    assert sum("with its size open" in check["label"] and check["passed"] for check in checks) == 3


@pytest.mark.parametrize("case", ["view", "attention", "resize-by-sizes"])
def test_a_size_stays_open_where_channels_go(case: str, tmp_path: Path) -> None:
    written, result = compiled(tmp_path, OPEN[case], prune=0.3)
    assert dims_of(written) == ["N", 3, "H", "W"], said(result)
    assert result.report["after"]["parameters"] < result.report["before"]["parameters"]
    labels = [check["label"] for check in result.report["verification"]["checks"]]
    assert any(label.startswith("source = ONNX with its size open") for label in labels)
    assert any(label.startswith("masked source = ONNX with its size open") for label in labels)


@pytest.mark.parametrize("case", FIXED)
def test_a_note_says_why_a_size_is_fixed(case: str, tmp_path: Path) -> None:
    body, why = FIXED[case]
    stem = "m = MaxPool<kernel_shape=[4,4], strides=[4,4], pads=[0,0,0,0]>(b) " if case == "gemm" else ""
    size = (48, 32) if case == "gemm" else (32, 32)
    written, result = compiled(tmp_path, stem + body, imgsz=size)
    assert dims_of(written) == ["N", 3, *size]
    assert why in said(result), said(result)


@pytest.mark.parametrize(("dims", "kept"), [("1,3,H,64", [1, 3, "H", 64]), ("N,3,S,S", ["N", 3, "S", "S"])])
def test_only_what_was_open_is(dims: str, kept: list[object], tmp_path: Path) -> None:
    written, result = compiled(tmp_path, OPEN["grid"], dims=dims, imgsz=(64, 64))
    assert dims_of(written) == kept, said(result)


def test_the_size_that_was_compiled_at_is_the_one_taken_where_none_is_said(tmp_path: Path) -> None:
    _, result = compiled(tmp_path, OPEN["view"], imgsz=(64, 96))
    assert result.onnx is not None
    assert open_network(result.onnx).size == (64, 96)
    original = tmp_path / "s.onnx"
    assert compare_models(original, result.onnx).passed and compare_models(result.onnx, original).passed
    assert compare_models(original, result.onnx, size=(32, 96)).passed
    sizes = [entry["size"] for entry in _at_one_size([original, result.onnx], None, None, None)]
    assert sizes == [[64, 96], [64, 96]]
    again = onnxslim_yolo.compile(result.onnx, emit="onnx", out=tmp_path / "again")
    assert again.onnx is not None
    assert dims_of(onnx.load(again.onnx)) == ["N", 3, "H", "W"]


def test_a_side_that_is_fixed_is_taken(tmp_path: Path) -> None:
    path = source(OPEN["view"], "1,3,H,64").save(tmp_path / "s.onnx")
    network = open_network(path)
    assert network.size == (640, 64) and "640x64 is taken" in network.notes[-1]
    with pytest.raises(UsageError, match=r"fixed to \?x64"):
        open_network(path, size=(64, 96))


def test_what_is_not_checked_is_not_open(tmp_path: Path) -> None:
    written, result = compiled(tmp_path, OPEN["convolutions"], verify=False)
    assert dims_of(written) == ["N", 3, 32, 32]
    assert "--no-verify" in said(result)


def test_a_wrong_reopening_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: arithmetic that is right at the compiled size alone, and arithmetic that is wrong at that, too."""
    real = open_size.reopened

    def halved(model: Model, source: Model, probes: Probes) -> Model:
        copy = real(model, source, probes)
        split = next(node for node in copy.graph.nodes if node.op == "Range")
        split.op = "Identity"
        return copy

    def spoiled(model: Model, source: Model, probes: Probes) -> Model:
        copy = real(model, source, probes)
        weight = copy.graph.nodes[0].inputs[1]
        weight.values = weight.values * np.float32(1.01)
        return copy

    for wrong in (halved, spoiled):
        monkeypatch.setattr(open_size, "reopened", wrong)
        written, result = compiled(tmp_path, OPEN["grid"])
        assert dims_of(written) == ["N", 3, 32, 32], said(result)
    # One that only fails at the compiled size: the file is written again.
    monkeypatch.setattr(open_size, "reopened", spoiled)
    monkeypatch.setattr(open_size, "_compared", lambda pairs, probes: [])
    written, result = compiled(tmp_path, OPEN["grid"])
    assert dims_of(written) == ["N", 3, 32, 32]
    assert "open it fails" in said(result)
    with pytest.raises(VerificationError):
        open_size._require(open_size.Check("a = b", "onnxruntime", [_off()]), (8, 8))


def _off() -> object:
    from onnxslim_yolo.verify.compare import Difference

    return Difference("y", 1.0, 1.0, 1.0)
