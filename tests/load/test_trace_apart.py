"""A checkpoint traced in a process of its own gives what it gives in this one, errors included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from forks import Bottleneck, Conv, model_of, save  # noqa: E402

from onnxslim_yolo.errors import InputError, VerificationError  # noqa: E402
from onnxslim_yolo.load import trace_apart as apart  # noqa: E402
from onnxslim_yolo.load.trace_apart import is_apart, trace_apart  # noqa: E402
from onnxslim_yolo.load.trace_checkpoint import STEPS, trace_checkpoint  # noqa: E402
from onnxslim_yolo.runtime.progress import listening  # noqa: E402

SIZE = (64, 64)


def test_graph_and_notes_are_the_same(tmp_path: Path) -> None:
    path = save(tmp_path / "häuser 1.pt", model_of(Bottleneck(16)))
    told: list[tuple[str, int, int]] = []
    with listening(lambda *one: told.append(one)):
        proto, notes = trace_apart(path, imgsz=SIZE)
    assert [done for _, done, total in told if total == STEPS] == list(range(STEPS))
    here, here_notes = trace_checkpoint(path, imgsz=SIZE)
    assert proto.SerializeToString(deterministic=True) == here.SerializeToString(deterministic=True)
    assert notes == here_notes


def test_errors_name_the_file_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = Bottleneck(16)
    block.cv3 = Conv(16, 16)
    save(tmp_path / "m.pt", model_of(block))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        trace_apart(Path("m.pt"), imgsz=SIZE)
    assert caught.value.file == "m.pt" and "model.3.cv3" in caught.value.message and caught.value.hint
    assert "Traceback" in str(caught.value.__cause__)
    with pytest.raises(InputError, match="multiple of the largest stride"):
        trace_checkpoint(Path("m.pt"), imgsz=(60, 64))


def test_the_graph_is_checked_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "m.pt", model_of(Bottleneck(16)))
    spoilt = apart._proof

    def one_percent_off(file: Path) -> object:
        images, outputs = spoilt(file)
        return images, [output * 1.01 for output in outputs]

    monkeypatch.setattr(apart, "_proof", one_percent_off)
    with pytest.raises(VerificationError, match="differ by"):
        trace_apart(path, imgsz=SIZE)


def test_a_process_that_ends_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "dies.py"
    script.write_text("import os; os._exit(9)")
    monkeypatch.setattr(apart, "CHILD", script)
    path = save(tmp_path / "m.pt", model_of())
    with pytest.raises(InputError, match="ended without an answer"):
        trace_apart(path, imgsz=SIZE)


def test_a_saved_module_of_our_own(tmp_path: Path) -> None:
    from onnxslim_yolo.emit.torch import save_module, to_torch
    from onnxslim_yolo.load import load

    source = save(tmp_path / "m.pt", model_of(Bottleneck(16)))
    save_module(to_torch(load(source, imgsz=64)), tmp_path / "slim.pt")
    assert trace_apart(tmp_path / "slim.pt")[0].graph.output


def test_reading_a_checkpoint_leaves_torch_outside(tmp_path: Path) -> None:
    path = save(tmp_path / "m.pt", model_of(Bottleneck(16)))
    code = (
        "import sys; from onnxslim_yolo import load; m = load(sys.argv[1], imgsz=64); "
        "assert m.graph.nodes and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert not is_apart()  # torch is imported here, and with it perhaps a class that a user registered
