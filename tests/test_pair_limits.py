"""A small NCNN pair that asks for much is ended by the limit of the process that runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from onnxslim_yolo import compile as compile_model
from onnxslim_yolo import load
from onnxslim_yolo.analysis.effort import NODE, effort_of
from onnxslim_yolo.analysis.limits import ANY, BY_WEIGHTS
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.runtime.ncnn_effort import work_of_pair
from onnxslim_yolo.runtime.ncnn_reader import parse_param, read_ncnn
from onnxslim_yolo.runtime.ncnn_run import ncnn_files
from onnxslim_yolo.verify.detector import open_network
from tests.command import ROOT, command

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is held on Linux only")

LAYERS = {
    "Interp": "Interp up 1 1 in0 big 0=1 1={n}.0 2={n}.0",
    "Padding": "Padding up 1 1 in0 big 0={n} 1={n} 2={n} 3={n}",
    "Tile": "Tile up 1 1 in0 big 0=0 1={n}",
    "Permute": "Interp up 1 1 in0 more 0=2 1={n}.0 2={n}.0\nPermute order 1 1 more big 0=3",
}
AMOUNTS = {"Interp": (4, 400), "Padding": (16, 12_000), "Tile": (8, 150_000), "Permute": (4, 250)}


def pair(folder: Path, layer: str, amount: int) -> Path:
    """Three channels of 64 × 64, blown up, and pooled to one number each."""
    folder.mkdir()
    lines = ["Input in0 0 1 in0 0=64 1=64 2=3", LAYERS[layer].format(n=amount), "Pooling pool 1 1 big out0 0=1 4=1"]
    text = "\n".join(lines)
    blobs = text.count("\n") + 1
    (folder / "model.ncnn.param").write_text(f"7767517\n{blobs} {blobs}\n{text}\n")
    (folder / "model.ncnn.bin").write_bytes(b"")
    return folder


@pytest.mark.parametrize("layer", list(LAYERS))
def test_a_pair_is_ended_by_its_limit(layer: str, tmp_path: Path) -> None:
    few, many = AMOUNTS[layer]
    small, large = pair(tmp_path / "small", layer, few), pair(tmp_path / "large", layer, many)
    ended = command("verify", large, large, "--limit-work", "none")
    assert ended.returncode == 3 and "--limit-memory" in ended.stderr, ended.stderr
    control = command("verify", small, small)
    assert "--limit-memory" not in control.stderr, control.stderr


def test_bench_holds_its_pairs_and_the_limit_is_the_users(tmp_path: Path) -> None:
    large = pair(tmp_path / "large", "Interp", 400)
    ended = command("bench", large, "--rounds", 3, "--limit-work", "none")
    assert ended.returncode == 2 and "--limit-memory" in ended.stderr, ended.stderr
    middling = pair(tmp_path / "middling", "Interp", 110)  # 600 MB, more than what the interpreter is let have
    for limit, status in (("20MB", 3), ("none", 0)):
        words = ("--limit-memory", limit, "--limit-work", "none")
        assert command("verify", middling, middling, *words).returncode == status


def row(count: int, layer: str) -> str:
    """So many layers, each behind the one before: `TYPE PARAMETERS`."""
    kind, *words = layer.split()
    blobs = ["in0", *(f"b{k}" for k in range(1, count)), "big"]
    return "\n".join(f"{kind} r{k} 1 1 {blobs[k]} {blobs[k + 1]} {' '.join(words)}" for k in range(count))


LARGE_WORK = {
    "a pooling kernel": row(1, "Pooling 0=0 1=1999 3=999"),
    "an average": row(1, "Pooling 0=1 1=801 3=400"),
    "poolings in a row": row(30, "Pooling 0=0 1=101 3=50"),
    "many operators": row(20_000, "UnaryOp 0=9"),
    "pixels": "Interp up 1 1 in0 more 0=1 1=4.0 2=4.0\nPooling pool 1 1 more big 0=0 1=301 3=150",
}


def of_layers(folder: Path, text: str, side: int = 320) -> Path:
    """A pair without weights: an image, these layers from in0 to big, and a number of what they made."""
    folder.mkdir()
    lines = [f"Input in0 0 1 in0 0={side} 1={side} 2=3", text, "Pooling all 1 1 big out0 0=1 4=1"]
    text = "\n".join(lines)
    count = text.count("\n") + 1
    (folder / "model.ncnn.param").write_text(f"7767517\n{count} {count}\n{text}\n")
    (folder / "model.ncnn.bin").write_bytes(b"")
    return folder


@pytest.mark.parametrize("name", LARGE_WORK)
def test_work_is_judged_before_ncnn_starts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("ncnn was started")

    pair_of_much = of_layers(tmp_path / "m_ncnn_model", LARGE_WORK[name])
    monkeypatch.setattr("onnxslim_yolo.runtime.ncnn_run.NcnnSession", never)
    with pytest.raises(InputError, match="multiply-adds, more than the limit of 30G") as caught:
        open_network(pair_of_much, asked=BY_WEIGHTS)
    assert caught.value.node and caught.value.exit_status == 2
    with pytest.raises(AssertionError, match="started"):
        open_network(pair_of_much, asked=ANY)
    with pytest.raises(AssertionError, match="started"):
        open_network(of_layers(tmp_path / "less", "Pooling pool 1 1 in0 big 0=0 1=3 3=1"), asked=BY_WEIGHTS)


def test_bench_refuses_it(tmp_path: Path) -> None:
    refused = command("bench", of_layers(tmp_path / "m", LARGE_WORK["a pooling kernel"]), "--rounds", 3)
    assert refused.returncode == 2 and "r0 (Pooling)" in refused.stderr and "--limit-work" in refused.stderr


@pytest.mark.parametrize(
    ("text", "elements", "work"),
    [
        ("Convolution c 1 1 in0 out0 0=8 1=3 3=2 4=1 6=216", 8 * 32 * 32, 8 * 32 * 32 * 27),
        ("Convolution c 1 1 in0 out0 0=8 1=3 4=-233 6=216", 8 * 64 * 64, 8 * 64 * 64 * 27),
        ("ConvolutionDepthWise c 1 1 in0 out0 0=3 1=5 11=3 4=2 14=1 6=45 7=3", 3 * 64 * 64, 3 * 64 * 64 * 15),
        ("Deconvolution c 1 1 in0 out0 0=4 1=2 3=2 6=48", 4 * 128 * 128, 3 * 64 * 64 * 12),
        ("Pooling c 1 1 in0 out0 0=0 1=5 3=2", 3 * 64 * 64, 60 * 25 * 3 * 64 * 64),
        ("Interp c 1 1 in0 out0 0=1 1=2.0 2=2.0", 3 * 128 * 128, 120 * 3 * 128 * 128),
        ("Interp c 1 1 in0 out0 0=1 3=20 4=30", 3 * 20 * 30, 120 * 3 * 64 * 64),
        ("Padding c 1 1 in0 out0 0=1 1=2 2=3 3=4", 3 * 67 * 71, 120 * 3 * 67 * 71),
        ("Reshape c 1 1 in0 out0 0=-1 1=3", 3 * 64 * 64, NODE),
        ("Tile c 1 1 in0 out0 0=0 1=7", 21 * 64 * 64, 120 * 21 * 64 * 64),
    ],
)
def test_what_layers_take(text: str, elements: int, work: int) -> None:
    """With two more layers that see what was made: an absolute value of it, and of that."""
    size = (64, 64)
    more = "AbsVal a 1 1 out0 more"
    lines = ["7767517", "3 3", "Input in0 0 1 in0 0=64 1=64 2=3", text, more, ""]
    net = parse_param("\n".join(lines).encode())
    least = max(120 * 3 * 64 * 64, NODE)
    whole, _ = work_of_pair(net)
    one, layer = work_of_pair(parse_param("\n".join([*lines[:1], "2 2", *lines[2:4], ""]).encode()), size)
    assert one - least <= max(work, NODE) <= one
    assert whole - one == max(120 * elements, NODE)
    assert layer.split()[0] in ("c", "in0")


def test_an_image_of_unknown_size_counts_nothing() -> None:
    net = parse_param(b"7767517\n2 2\nInput in0 0 1 in0\nPooling c 1 1 in0 out0 0=0 1=1999 3=999\n")
    assert work_of_pair(net)[0] == 2 * NODE and work_of_pair(net, (640, 640))[0] > 10**12


@pytest.mark.parametrize("name", ["bccd-sparse", "digits-rep"])
def test_a_pair_takes_about_what_its_graph_takes(name: str, tmp_path: Path) -> None:
    """Elements count by what is in the file, and ncnn's has less of them: activations are in the convolutions."""
    result = compile_model(ROOT / f"models/{name}.onnx", out=tmp_path, verify=False)
    graph = load(result.onnx).graph
    reinfer(graph)
    assert 0.4 < work_of_pair(read_ncnn(*ncnn_files(result.ncnn)))[0] / effort_of(graph).work < 1.5
