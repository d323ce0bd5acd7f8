"""Files of other formats are named for what they are, whatever reader they were given to."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.load.onnx import load_onnx
from onnxslim_yolo.load.torch_archive import open_archive

FILES = {
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "a web page": (b"<!DOCTYPE html><html>", "download failed"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "unpack it first"),
    "a zip archive": (b"PK\x03\x04\x14\x00\x00\x00", "named .pt"),
    "a pickle": (b"\x80\x02}q\x00.", "named .pt"),
    "Keras": (b"\x89HDF\r\n\x1a\n", "export the network to ONNX"),
    "TensorFlow Lite": (b"\x1c\x00\x00\x00TFL3\x14\x00\x20\x00", "export the network to ONNX"),
    "ncnn": (b"7767517\n3 3\nInput in0 0 1 in0\n", "converted from"),
    "JSON": (b'{"format": "onnxslim-yolo/plan"}', "JSON"),
    "a Darknet cfg": (b"[net]\nwidth=32\n", ".cfg"),
}


@pytest.mark.parametrize("name", ["m.onnx", "m.engine"])
@pytest.mark.parametrize("kind", FILES)
def test_no_onnx(kind: str, name: str, tmp_path: Path) -> None:
    data, words = FILES[kind]
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(InputError) as caught:
        load_onnx(file)
    assert words in caught.value.message and "complete" not in str(caught.value)
    assert ("what is read" in str(caught.value)) == name.endswith("engine")


def test_an_onnx_file_that_is_cut_short_is_one(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(b"\x08\x08\x3a\xff\x7f")
    with pytest.raises(InputError, match=r"truncated(.|\n)*complete"):
        load_onnx(file)


@pytest.mark.parametrize(("name", "words"), [("m.onnx", "expected a checkpoint"), ("m.pt", "name it .onnx")])
def test_onnx_where_a_checkpoint_is_expected(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x08\x08\x3a\x00")
    with pytest.raises(InputError, match=words):
        open_archive(tmp_path / name)
