"""compile, end to end: files, formats, exit codes, determinism, and what a failed verification leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxslim_yolo as oy
from onnxslim_yolo import pipeline
from onnxslim_yolo.errors import BudgetError, VerificationError
from onnxslim_yolo.files.atomic import sha256_of
from onnxslim_yolo.ir.graph import replace_constant
from onnxslim_yolo.ir.model import Model
from tests.command import command
from tests.numeric import build, differences, random_feeds, run_onnx

TEXT = (
    '<ir_version: 8, opset_import: ["": 17]> g (float[1,3,32,32] images) => (float[1,6,16,16] y)'
    " <float[40,3,3,3] stem.conv.weight, float[40] stem.bn.gamma, float[40] stem.bn.beta, float[40] stem.bn.mean,"
    " float[40] stem.bn.var, float[24,40,1,1] neck.weight, float[24] neck.bias, float[6,24,1,1] head.weight>"
    " { a = Conv<pads=[1,1,1,1], strides=[2,2]>(images, stem.conv.weight)"
    " b = BatchNormalization(a, stem.bn.gamma, stem.bn.beta, stem.bn.mean, stem.bn.var) s = Sigmoid(b) h = Mul(b, s)"
    " n = Conv(h, neck.weight, neck.bias) r = Relu(n) y = Conv(r, head.weight) }"
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    proto = build(TEXT).to_onnx()
    helper.set_model_props(proto, {"stride": "32", "names": "{0: 'cat'}"})
    path = tmp_path / "best.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def weights(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_every_file_of_the_contract(source: Path, tmp_path: Path) -> None:
    result = oy.compile(source, out=tmp_path / "out", prune=0.5, snap="pow2")
    assert set(contents(result.folder)) >= {
        "best.onnx",
        "best_ncnn_model/model.ncnn.param",
        "best_ncnn_model/model.ncnn.bin",
        "best_ncnn_model/metadata.yaml",
        "best.plan.json",
        "best.report.json",
        "best.report.html",
    }
    assert result.onnx == tmp_path / "out" / "best.onnx" and result.ncnn == tmp_path / "out" / "best_ncnn_model"
    assert {p.name for p in tmp_path.iterdir()} == {"best.onnx", "out"}, "something is left beside the folder"
    proto = onnx.load(result.onnx)
    onnx.checker.check_model(proto, full_check=True)
    metadata = {p.key: p.value for p in proto.metadata_props}
    assert (metadata["stride"], metadata["names"]) == ("32", "{0: 'cat'}")
    assert [i.name for i in proto.graph.input] == ["images"] and [o.name for o in proto.graph.output] == ["y"]
    assert json.loads((result.folder / "best.report.json").read_text()) == result.report
    assert json.loads((result.folder / "best.plan.json").read_text()) == result.plan


def test_the_plan_in_the_sources_terms(source: Path, tmp_path: Path) -> None:
    """Whoever applies the plan to the source's weights gets the widths of the result."""
    result = oy.compile(source, out=tmp_path / "out", emit="onnx", passes="prune{ratio=0.5},snap{to=pow2},slice")
    plan = result.plan
    assert (plan["format"], plan["version"]) == ("onnxslim-yolo/plan", 2)
    assert plan["source"] == {"file": "best.onnx", "sha256": sha256_of(source)}
    before, after = weights(source), weights(tmp_path / "out" / "best.onnx")
    cut = {name for name in before if before[name].shape != after[name].shape}
    assert set(plan["keep"]) == cut
    for name, axes in plan["keep"].items():
        values = before[name]
        for axis, kept in axes.items():
            assert kept == sorted(set(kept)) and len(kept) < values.shape[int(axis)]
            values = values.take(kept, axis=int(axis))
        np.testing.assert_array_equal(values, after[name])
    groups = {tuple(group["members"]): group for group in plan["groups"]}
    assert [group["id"] for group in plan["groups"]] == list(range(len(plan["groups"])))
    stem, head = groups[("stem.conv",)], groups[("head",)]
    assert (stem["width"], stem["kept"]) == (40, after["stem.conv.weight"].shape[0]) and stem["frozen"] is None
    assert stem["kept"] in (8, 16, 32, 40)
    assert (head["width"], head["wanted"], head["kept"]) == (6, 6, 6) and "reaches the output 'y'" in head["frozen"]


def test_the_report(source: Path, tmp_path: Path) -> None:
    report = oy.compile(source, out=tmp_path / "out", emit="onnx", prune=0.5, importance="gamma").report
    assert report["after"]["parameters"] < report["before"]["parameters"]
    assert report["after"]["macs"] < report["before"]["macs"]
    assert report["options"]["prune"] == 0.5
    assert report["pruning"]["removed"] > 0 and report["pruning"]["importance"] == "gamma"
    assert [p["name"] for p in report["passes"]][:2] == ["canonicalise", "shuffle-to-gather"]
    checks = report["verification"]["checks"]
    assert len(checks) >= 3 and all(check["passed"] for check in checks)
    assert {"onnxruntime", "onnxruntime, optimised"} <= {check["runtime"] for check in checks}
    assert report["verification"]["control"]["noticed"]
    assert report["verification"]["control"]["worst"] > 10 * max(check["worst"] for check in checks)
    assert report["frozen"][0]["channels"] == 6
    assert report["files"]["best.onnx"] == (tmp_path / "out" / "best.onnx").stat().st_size


def test_the_same_bytes_twice(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (
        oy.compile(source, out="out", prune=0.5, snap="auto", isa="avx2").folder.resolve().rename(tmp_path / name)
        for name in ("a", "b")
    )
    one, two = contents(first), contents(second)
    assert set(one) == set(two)
    for name in one:
        assert one[name] == two[name], name


def test_dead_by_default_is_exact(tmp_path: Path) -> None:
    gamma, beta = np.linspace(0.5, 1, 40), np.linspace(-1, 1, 40)
    gamma[::3], beta[::3] = 0, 0
    path = build(TEXT, values={"stem.bn.gamma": gamma, "stem.bn.beta": beta}).save(tmp_path / "best.onnx")
    result = oy.compile(path, out=tmp_path / "out", emit="onnx", snap="none")
    assert result.report["pruning"]["lossless"] and result.report["pruning"]["removed"] == 14
    assert result.onnx is not None
    before, after = onnx.load(path), onnx.load(result.onnx)
    found = differences(run_onnx(before, random_feeds(before)), run_onnx(after, random_feeds(before)))
    assert max(found.values()) < 2e-5
    assert weights(result.onnx)["stem.conv.weight"].shape[0] == 26


def test_targets_instead_of_a_ratio(source: Path, tmp_path: Path) -> None:
    for option in ("target_macs", "target_params"):
        report = oy.compile(source, out=tmp_path / option, emit="onnx", snap=4, **{option: 0.6}).report
        kind = "macs" if option == "target_macs" else "parameters"
        share = report["after"][kind] / report["before"][kind]
        assert 0.4 < share <= 0.61


def test_nothing_to_do_is_the_source(source: Path, tmp_path: Path) -> None:
    result = oy.compile(source, out=tmp_path / "out", emit="onnx", prune=0, passes="canonicalise")
    assert result.onnx is not None
    before, after = weights(source), weights(result.onnx)
    assert set(before) == set(after)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


@dataclass(frozen=True)
class Wrong:
    """Claims to be exact, and makes one weight twice as large."""

    name: ClassVar[str] = "wrong"

    layer: int = 0

    def run(self, model: Model) -> int:
        node = [n for n in model.graph.nodes if n.op == "Conv"][self.layer]
        values = np.array(node.inputs[1].values)  # type: ignore[attr-defined]
        replace_constant(node, 1, values * (1 + np.arange(len(values)) % 2).reshape(-1, 1, 1, 1).astype(np.float32))
        return 1


@pytest.fixture
def wrong_pass(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    point = EntryPoint("wrong", "tests.test_compile:Wrong", pipeline.ENTRY_POINT_GROUP)
    monkeypatch.setattr(pipeline, "entry_points", lambda group: [point] if group == pipeline.ENTRY_POINT_GROUP else [])
    yield


@pytest.mark.parametrize(
    "pipeline",
    [
        "wrong",
        "prune{ratio=0.5},slice,wrong,fold-bn",
        "prune{ratio=0.5},wrong{layer=2},absorb,slice",
        "fold-bn,wrong{layer=1},prune{ratio=0.25},absorb,slice",
    ],
)
@pytest.mark.parametrize("each", [False, True])
def test_a_wrong_pass_is_caught_and_named(
    pipeline: str, each: bool, source: Path, tmp_path: Path, wrong_pass: None
) -> None:
    out = tmp_path / "out"
    oy.compile(source, out=out, prune=0.25, emit="onnx")
    before = contents(out)
    with pytest.raises(VerificationError, match="pass 'wrong' changed output 'y'") as caught:
        oy.compile(source, out=out, emit="onnx", passes=pipeline, verify_each=each)
    assert caught.value.exit_status == 3
    assert contents(out) == before, "files changed although the check failed"
    assert {p.name for p in tmp_path.iterdir()} == {"best.onnx", "out"}


def test_no_verify_writes_even_what_is_wrong(source: Path, tmp_path: Path, wrong_pass: None) -> None:
    result = oy.compile(source, out=tmp_path / "out", emit="onnx", passes="wrong", verify=False)
    assert result.onnx is not None and result.onnx.exists() and result.report["verification"] is None


def test_graphs_after_every_pass(source: Path, tmp_path: Path) -> None:
    oy.compile(source, out=tmp_path / "out", emit="onnx", passes="prune{ratio=0.5},slice", dump_to=tmp_path / "dumps")
    names = sorted(p.name for p in (tmp_path / "dumps").iterdir())
    assert names[-2:] == ["03-prune.onnx", "04-slice.onnx"]


def test_the_command(source: Path, tmp_path: Path) -> None:
    done = command("compile", "best.onnx", "--prune", "0.5", "--snap", "pow2", "--emit", "onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(contents(tmp_path / "best-slim")) >= {"best.onnx", "best.plan.json", "best.report.json"}
    assert "best-slim" in done.stdout
    done = command("compile", source, "-o", tmp_path / "b", "--emit", "onnx", "--prune", "0.5", "--json", "--no-verify")
    assert done.returncode == 0 and json.loads(done.stdout)["format"] == "onnxslim-yolo/report"
    assert done.stderr == ""
    done = command("compile", source, "-o", tmp_path / "c", "--emit", "onnx", "-q", "--no-verify")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--prune", "1.0"], 2, "not in [0, 1)"),
        (["--prune", "some"], 2, "--prune takes"),
        (["--no-such-option"], 2, "No such option"),
        (["--imgsz", "big"], 2, "--imgsz takes N or HxW"),
        (["--passes", "prune{ratio=0.5},fold_bn", "--no-verify"], 2, "did you mean 'fold-bn'"),
        (["--keep", "nowhere", "--prune", "0.5"], 2, "'nowhere' matches no layer"),
        (["--target-params", "0.001x"], 2, "cannot come down"),
    ],
)
def test_usage_errors(arguments: list[str], status: int, message: str, source: Path, tmp_path: Path) -> None:
    done = command("compile", source, "-o", tmp_path / "out", "--emit", "onnx", *arguments)
    assert done.returncode == status
    assert message in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_a_traceback_only_with_debug(source: Path, tmp_path: Path) -> None:
    done = command("compile", tmp_path / "none.onnx", "--debug")
    assert done.returncode == 2 and "Traceback" in done.stderr and "no such file" in done.stderr


def test_verification_failures_exit_with_3(source: Path, tmp_path: Path) -> None:
    """The same through the command, with the wrong pass registered before it starts."""
    code = (
        "import sys; from onnxslim_yolo import pipeline; from importlib.metadata import EntryPoint;"
        "point = EntryPoint('wrong', 'tests.test_compile:Wrong', pipeline.ENTRY_POINT_GROUP);"
        "pipeline.entry_points = lambda group: [point];"
        "from onnxslim_yolo.cli.main import main; sys.argv[0] = 'onnxslim-yolo'; main()"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, "compile", source, "-o", tmp_path / "out", "--emit", "onnx", "--passes", "wrong"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=root,
    )
    assert done.returncode == 3, done.stderr
    assert "pass 'wrong' changed output 'y'" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_the_passes_are_listed() -> None:
    done = command("passes", "--json")
    rows = json.loads(done.stdout)
    assert {"name": "ratio", "type": "float|dead", "default": "dead"} in rows["prune"]
    assert set(rows) >= {"canonicalise", "prune", "snap", "absorb", "slice", "reparam", "fold-bn"}


def test_budget_errors_have_their_own_status() -> None:
    assert BudgetError("x").exit_status == 4
