"""YAML of strangers: refused with one message, whatever PyYAML makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.yaml import LARGEST, MOST_VALUES, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def read(folder: Path, text: str | bytes) -> dict[str, object]:
    file = folder / "m.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(file, "data.yaml", "a mapping with names")


def test_what_is_read(tmp_path: Path) -> None:
    text = "names: &n {0: cat, 1: dog}\nagain: *n\nday: 2026-11-22\n"
    assert read(tmp_path, text)["again"] == {0: "cat", 1: "dog"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "cannot be read as yaml"),
        ("a: 2001-13-45", "cannot be read as yaml .month must be in 1"),
        ("a: !!timestamp x", "cannot be read as yaml"),
        ("a: !!int x", "cannot be read as yaml"),
        ("a: !!bool x", "cannot be read as yaml"),
        ("a: " + "9" * 5000, "cannot be read as yaml"),
        ("a: !!python/object/apply:os.system [true]", "cannot be read as yaml"),
        (b"a: \xff", "cannot be read as yaml"),
        ("[" * 5000, "nested too deeply"),
        ("- a", "is no data.yaml: expected a mapping with names"),
        ("", "is no data.yaml"),
        (f"a: {'x' * LARGEST}", "larger than 256 KiB"),
        (BOMB, f"unfolds to more than {MOST_VALUES} values"),
        ("a: &a [*a]", f"unfolds to more than {MOST_VALUES} values"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path, text)
    assert "m.yaml" in str(caught.value) and len(str(caught.value)) < 500


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        read_yaml(tmp_path / "none.yaml", "data.yaml", "a mapping with names")
    assert caught.value.hint == "give a data.yaml, a mapping with names"
