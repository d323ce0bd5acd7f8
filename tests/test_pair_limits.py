"""A small NCNN pair that asks for much is ended by the limit of the process that runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.command import command

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
    ended = command("verify", large, large)
    assert ended.returncode == 3 and "--limit-memory" in ended.stderr, ended.stderr
    control = command("verify", small, small)
    assert "--limit-memory" not in control.stderr, control.stderr


def test_bench_holds_its_pairs_and_the_limit_is_the_users(tmp_path: Path) -> None:
    large = pair(tmp_path / "large", "Interp", 400)
    ended = command("bench", large, "--rounds", 3)
    assert ended.returncode == 2 and "--limit-memory" in ended.stderr, ended.stderr
    middling = pair(tmp_path / "middling", "Interp", 110)  # 600 MB, more than what the interpreter is let have
    for limit, status in (("20MB", 3), ("none", 0)):
        assert command("verify", middling, middling, "--limit-memory", limit).returncode == status
