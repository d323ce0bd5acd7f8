"""Launchers that answer with something else than our children: one clear message, never a traceback."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.measure.benchmark import benchmark
from onnxslim_yolo.runtime import launchers
from onnxslim_yolo.runtime.ncnn_run import run_ncnn
from onnxslim_yolo.runtime.replies import GarbledError, blob_size, is_like, reply_of

PAIR = "7767517\n2 2\nInput in0 0 1 in0 0=8 1=8 2=3\nPooling pool 1 1 in0 out0 0=1 4=1\n"
FACTS = {"python": "3.11.7", "cores": 4, "numpy": "2", "ncnn": "1", "byteorder": "little", "machine": "aarch64"}


def lines(*replies: object, ready: str = "3.11") -> bytes:
    each = [reply if isinstance(reply, bytes) else json.dumps(reply).encode() for reply in replies]
    return b"\n".join([b"onnxslim-yolo: ready " + ready.encode(), *each, b""])


LOADED = {"ok": True, "inputs": ["in0"], "outputs": ["out0"]}
GARBLED = {
    "a version of three numbers": lines(FACTS, ready="3.11.2"),
    "a version of words": lines(FACTS, ready="three"),
    "facts that are a list": lines([1]),
    "cores that are text": lines(FACTS | {"cores": "many"}),
    "no JSON": lines(FACTS, b"ncnn says hello"),
    "no UTF-8": lines(FACTS, b'{"round": "\xff\xb3"}'),
    "lists in lists": lines(FACTS, b"[" * 5000),
    "no verdict": lines(FACTS, {"inputs": []}),
    "failure without a message": lines(FACTS, {"ok": False}),
    "outputs that are numbers": lines(FACTS, LOADED | {"outputs": [1]}),
    "a blob beyond all memory": lines(FACTS, LOADED, {"ok": True, "outputs": [{"name": "out0", "shape": [2**40]}]}),
    "a blob of negative size": lines(FACTS, LOADED, {"ok": True, "outputs": [{"name": "out0", "shape": [-4]}]}),
    "an end": lines(FACTS, LOADED),
    "rounds that are too few": lines(
        FACTS, {"result": {"rounds": [[1.0]], "cores": [], "flushed": True, "layers": []}}
    ),
    "an error without a model": lines(FACTS, {"error": "no"}),
}


@pytest.mark.parametrize("name", list(GARBLED))
def test_one_message(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "ENDS_WITHIN", 0.01)
    param, weights, played = tmp_path / "m.param", tmp_path / "m.bin", tmp_path / "played"
    param.write_text(PAIR)
    weights.write_bytes(b"")
    played.write_bytes(GARBLED[name])
    run_on = f"sh -c {shlex.quote(f'cat {shlex.quote(str(played))}; exec >&-; cat >/dev/null')}"
    for use in (
        lambda: run_ncnn(param, weights, [{"in0": np.zeros((3, 8, 8), np.float32)}], run_on=run_on, timeout=20),
        lambda: benchmark([param], rounds=3, size=(8, 8), run_on=run_on),
    ):
        with pytest.raises(OnnxSlimError) as refused:
            use()
        assert refused.value.exit_status in (2, 3)


def test_what_is_like_what() -> None:
    assert is_like({"a": [1, 2.5], "b": None}, {"a": [float], "b": (str, None)})
    for value, like in (
        ({"a": [True]}, {"a": [float]}),
        ({}, {"a": int}),
        (1e999, float),
        (10**400, float),
        (True, int),
    ):
        assert not is_like(value, like)
    assert blob_size([3, 8, 8]) == 192 and reply_of(b'{"ok": true}', {"ok": bool}) == {"ok": True}
    for broken in (
        lambda: blob_size([2**15, 2**15]),
        lambda: reply_of("[1]"),
        lambda: reply_of('{"ok": 1}', {"ok": bool}),
    ):
        with pytest.raises(GarbledError):
            broken()
