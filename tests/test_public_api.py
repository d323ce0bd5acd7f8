"""The public surface, what importing it costs, and the examples in the documentation."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import onnxslim_yolo as oy
from onnxslim_yolo import passes
from tests.numeric import build

PUBLIC = {
    "Model",
    "OnnxSlimError",
    "Pass",
    "PassManager",
    "Result",
    "__version__",
    "compile",
    "load",
    "load_module",
    "parse_pipeline",
}
PASSES = {
    "AbsorbConstants",
    "Canonicalise",
    "ConvBeforeResize",
    "ConvBeforeSplit",
    "FocusToConv",
    "FoldAffine",
    "FoldBatchNorm",
    "Head",
    "PadToPool",
    "PruneChannels",
    "ReparamBranches",
    "ShuffleToGather",
    "SliceChannels",
    "SnapWidths",
    "SppToSppf",
}
HEAVY = ("torch", "onnxruntime", "ncnn", "onnx", "onnx_graphsurgeon", "numpy", "rich")

TEXT = (
    '<ir_version: 8, opset_import: ["": 17]> g (float[1,3,32,32] x) => (float[1,2,a,b] y)'
    " <float[40,3,3,3] a.weight, float[40] n.gamma, float[40] n.beta, float[40] n.mean, float[40] n.var,"
    " float[2,40,1,1] z.weight, float[2] z.bias>"
    " { a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, a.weight)"
    " b = BatchNormalization(a, n.gamma, n.beta, n.mean, n.var) h = Relu(b) y = Conv(h, z.weight, z.bias) }"
)


def test_the_public_names() -> None:
    assert set(oy.__all__) == PUBLIC
    assert set(dir(oy)) == PUBLIC
    assert all(getattr(oy, name) is not None for name in PUBLIC - {"load_module"})  # that one needs torch
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = oy.nonsense  # type: ignore[attr-defined]


def test_the_passes() -> None:
    assert set(passes.__all__) >= PASSES
    assert sorted(passes.__all__) == list(passes.__all__)


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*[name for name in sys.modules if '.' not in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert loaded_after("import onnxslim_yolo").isdisjoint(HEAVY)


def test_the_core_works_without_torch_and_starts_without_onnxruntime() -> None:
    modules = loaded_after("import onnxslim_yolo.compiler, onnxslim_yolo.cli.main, onnxslim_yolo.pipeline")
    assert modules.isdisjoint({"torch", "onnxruntime", "ncnn"})


def test_doctests() -> None:
    found = doctest.testmod(oy)
    assert found.attempted > 0 and found.failed == 0


def test_the_readmes_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build(TEXT).save("best.onnx")

    result = oy.compile("best.onnx", prune=0.7, snap="pow2", emit="onnx")
    assert result.onnx is not None and result.onnx.exists()
    assert result.plan["format"] == "onnxslim-yolo/plan" and result.report["format"] == "onnxslim-yolo/report"

    from onnxslim_yolo import PassManager, load
    from onnxslim_yolo.passes import FoldBatchNorm, PruneChannels, ReparamBranches, SliceChannels, SnapWidths

    model = load("best.onnx")
    PassManager(
        [PruneChannels(ratio=0.7), SnapWidths(to="pow2"), SliceChannels(), ReparamBranches(), FoldBatchNorm()]
    ).run(model)
    model.save("best-slim.onnx")
    assert load("best-slim.onnx").graph.nodes[0].inputs[1].shape == (8, 3, 3, 3)
