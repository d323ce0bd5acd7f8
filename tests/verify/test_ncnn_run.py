"""The child process: results, error codes, crashes and time limits, and the bisect that names the first wrong layer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.emit.ncnn.emitter import NcnnModel, emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_ncnn, write_pair
from onnxslim_yolo.errors import InputError, VerificationError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime import ncnn_run
from onnxslim_yolo.runtime.ncnn_run import NcnnRunner, NcnnSession, ncnn_files, run_ncnn
from onnxslim_yolo.verify.ncnn_compare import first_difference, verify_ncnn
from tests.emit.ncnn_cases import MAP, graph
from tests.numeric import build, random_feeds, run_onnx

TEXT = graph(
    f"{MAP} x",
    "float[1,4,7,8] y, float[1,4,1,1] z",
    "a = Conv(x, w1) b = Relu(a) c = Conv(b, w2) s = Sigmoid(c) y = Mul(c, s) z = GlobalAveragePool(y)",
    "float[8,6,3,3] w1, float[4,8,1,1] w2",
)


@pytest.fixture
def model() -> Model:
    return build(TEXT)


@pytest.fixture
def converted(model: Model) -> NcnnModel:
    return emit_ncnn(model, weights="fp32")


def test_several_inputs_in_one_child(model: Model, converted: NcnnModel, tmp_path: Path) -> None:
    pair = write_pair(converted, tmp_path)
    feeds = [random_feeds(model, seed) for seed in range(3)]
    results = run_ncnn(*pair, [{"in0": feed["x"][0]} for feed in feeds], outputs=["out0", "out1", "b"])
    for feed, result in zip(feeds, results, strict=True):
        wanted = run_onnx(model, feed)
        assert result["b"].shape == (8, 7, 8) and (result["b"] >= 0).all()
        np.testing.assert_allclose(result["out0"], wanted["y"][0], atol=1e-4)
        np.testing.assert_allclose(result["out1"], wanted["z"][0], atol=1e-4)


def test_non_contiguous_and_double_inputs_are_converted(model: Model, converted: NcnnModel, tmp_path: Path) -> None:
    pair = write_pair(converted, tmp_path)
    image = random_feeds(model)["x"][0]
    awkward = np.asfortranarray(image.astype(np.float64))
    straight, twisted = run_ncnn(*pair, [{"in0": image}, {"in0": awkward}])
    np.testing.assert_array_equal(straight["out0"], twisted["out0"])


def test_runner_opens_a_folder(model: Model, converted: NcnnModel, tmp_path: Path) -> None:
    folder = write_ncnn(converted, tmp_path / "m_ncnn_model")
    feed = random_feeds(model)
    for path in (folder, folder / "model.ncnn.param"):
        runner = NcnnRunner(path)
        y, z = runner(feed["x"])
        assert (y.shape, z.shape) == ((1, 4, 7, 8), (1, 4, 1, 1))
        runner.close()


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected one"):
        ncnn_files(tmp_path)
    (tmp_path / "a.param").write_text("")
    with pytest.raises(InputError, match="no such file"):
        ncnn_files(tmp_path)


def test_unknown_blobs_are_errors_of_ncnn(converted: NcnnModel, tmp_path: Path) -> None:
    pair = write_pair(converted, tmp_path)
    image = np.zeros((6, 9, 10), np.float32)
    with pytest.raises(VerificationError, match="feeding 'nope' failed"):
        run_ncnn(*pair, [{"nope": image}])
    with pytest.raises(VerificationError, match="extracting 'nope' failed"):
        run_ncnn(*pair, [{"in0": image}], outputs=["nope"])


def test_crash_is_an_error_not_our_end(converted: NcnnModel, tmp_path: Path) -> None:
    """Behind the validator's back: an empty .bin, which ncnn refuses or crashes on."""
    param, weights = write_pair(converted, tmp_path)
    weights.write_bytes(b"")
    with pytest.raises(VerificationError, match="ncnn"):
        NcnnSession(param, weights).close()


def test_child_that_dies_says_how(converted: NcnnModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "child.py"
    script.write_text("import os, sys\nsys.stderr.write('boom')\nsys.stderr.flush()\nos.kill(os.getpid(), 11)\n")
    monkeypatch.setattr(ncnn_run, "CHILD", script)
    with pytest.raises(VerificationError, match=r"crashed while loading \(signal SIGSEGV\); it said: boom"):
        NcnnSession(*write_pair(converted, tmp_path))


def test_time_limit(converted: NcnnModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "child.py"
    script.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(ncnn_run, "CHILD", script)
    with pytest.raises(VerificationError, match=r"did not finish loading within 0\.5 s"):
        NcnnSession(*write_pair(converted, tmp_path), timeout=0.5)


def test_verify_and_bisect(model: Model, converted: NcnnModel) -> None:
    feed = random_feeds(model)
    assert max(each.relative for each in verify_ncnn(model, converted, [feed])) < 1e-4
    assert first_difference(model, converted, feed, 1e-3) is None
    spoiled = bytearray(converted.bin)
    second = 4 + 8 * 6 * 9 * 4 + 4  # the first weight of the second convolution, behind two tags
    spoiled[second : second + 4] = np.float32(3.0).tobytes()
    wrong = dataclasses.replace(converted, bin=bytes(spoiled))
    culprit = first_difference(model, wrong, feed, 1e-3)
    assert culprit is not None and culprit.name == "c"
    with pytest.raises(VerificationError, match=r"'y' differs.*first layer that differs makes 'c'"):
        verify_ncnn(model, wrong, [feed])


def test_one_percent_is_noticed(model: Model, converted: NcnnModel) -> None:
    weights = np.frombuffer(converted.bin[4 : 4 + 8 * 6 * 9 * 4], np.float32).copy()
    weights[int(np.abs(weights).argmax())] *= 1.01
    wrong = dataclasses.replace(
        converted, bin=converted.bin[:4] + weights.tobytes() + converted.bin[4 + weights.nbytes :]
    )
    with pytest.raises(VerificationError, match="disagrees"):
        verify_ncnn(model, wrong, [random_feeds(model)])
