"""Text that editors on Windows write: a byte order mark in front, CRLF, comments in the local encoding."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from PIL import Image

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.toml import read_toml
from onnxslim_yolo.files.yaml import read_yaml
from onnxslim_yolo.load.darknet_cfg import read_sections
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.runtime.images import list_images
from onnxslim_yolo.training.apply_plan import read_plan

CFG = "[net]\r\nwidth=32\r\nheight=32\r\n# 颜色\r\n[convolutional]\r\nfilters=4\r\n"


def marked(file: Path, text: str, encoding: str = "utf-8") -> Path:
    file.write_bytes(codecs.BOM_UTF8 + text.encode(encoding))
    return file


def image(folder: Path, name: str = "a.png") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path


def test_configurations(tmp_path: Path) -> None:
    assert read_toml(marked(tmp_path / "a.toml", 'prune = "dead"\r\n')) == {"prune": "dead"}
    assert read_yaml(marked(tmp_path / "a.yaml", "names: [a]\r\n"), "data.yaml", "names") == {"names": ["a"]}
    assert read_plan(marked(tmp_path / "a.plan.json", json.dumps({"version": 2}))) == {"version": 2}


@pytest.mark.parametrize("encoding", ["utf-8", "gbk"])
def test_darknet_configurations_with_comments_of_any_encoding(encoding: str, tmp_path: Path) -> None:
    sections = read_sections(marked(tmp_path / "net.cfg", CFG, encoding))
    assert [(s.name, s.line) for s in sections] == [("net", 1), ("convolutional", 5)]
    assert sections[0].options == {"width": "32", "height": "32"} and sections[1].options == {"filters": "4"}


def test_lists_of_images_and_labels(tmp_path: Path) -> None:
    picture = image(tmp_path, "images/a.png")
    listed = marked(tmp_path / "images.txt", "images/a.png\r\n")
    assert list_images(listed) == (picture,)
    (tmp_path / "labels").mkdir()
    marked(tmp_path / "labels" / "a.txt", "0 0.5 0.5 0.2 0.2\r\n")
    dataset = read_dataset(marked(tmp_path / "data.yaml", "val: images.txt\r\nnames: [a]\r\n"))
    assert dataset.labels(picture)[0].tolist() == [0]


def test_utf16_is_no_text_here(tmp_path: Path) -> None:
    """As PowerShell's `>` writes it."""
    for name, read in (("net.cfg", read_sections), ("list.txt", list_images)):
        (tmp_path / name).write_text("[net]\r\n", encoding="utf-16")
        with pytest.raises(InputError) as caught:
            read(tmp_path / name)
        assert "UTF-8" in str(caught.value)
