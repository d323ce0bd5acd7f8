"""The table of options: whoever sets one, by whatever way, it is read the same; what it does not take is refused."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any, Literal

import pytest

from onnxslim_yolo.cli.config import read_config
from onnxslim_yolo.cli.defaults import NOT_IN_A_FILE, options_of
from onnxslim_yolo.cli.main import compile_command
from onnxslim_yolo.cli.options import compile_options
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.files.values import read_value, spell_value
from onnxslim_yolo.options import PANELS, ROWS, CompileOptions, Row, options_from

OWN = {
    "imgsz": ("480x640", (480, 640)),
    "input": ("0..255", "0..255"),
    "prune": ("0.25", 0.25),
    "target_latency": ("0.5x", "0.5x"),
    "target_macs": ("0.5x", 0.5),
    "target_params": ("0.5", 0.5),
    "keep": ("model.1", ("model.1",)),
    "emit": ("ncnn,torch", ("ncnn", "torch")),
    "limit_memory": ("3GB", 3e9),
    "limit_work": ("none", float("inf")),
    "snap": ("16", 16),
}
"""Text → value of the options with a spelling of their own."""
NEEDED = {"data": "d.yaml", "calib": "images"}


def example(row: Row) -> tuple[str, Any]:
    """A text that is not the default, and what it means."""
    if row.name in OWN:
        return OWN[row.name]
    parts = typing.get_args(row.hint) or (row.hint,)
    words = [word for word in typing.get_args(row.hint) if isinstance(word, str)]
    if words:
        word = next(word for word in words if word != row.default)
        return word, word
    if bool in parts:
        return str(not row.default).lower(), not row.default
    return next(
        (text, kind(text)) for kind, text in ((Path, "a/b"), (int, "4"), (float, "1.5"), (str, "x")) if kind in parts
    )  # type: ignore[operator]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_option_means_the_same_however_it_is_given(row: Row, tmp_path: Path) -> None:
    text, value = example(row)
    needed = {name: given for name, given in NEEDED.items() if name != row.name}
    needed |= {"target_latency": "0.7x"} if row.name == "size" else {}
    from_python = options_from({**needed, row.name: text})
    assert getattr(from_python, row.name) == value != row.default
    assert getattr(options_from({**needed, row.name: value}), row.name) == value
    words: Any = (
        [text] if row.told.repeated else (text == "false" if row.told.off else value if row.kind is bool else text)
    )
    typed = compile_options({**needed, row.parameter: words})
    assert typed == from_python
    key = row.flag.removeprefix("--")
    if key not in NOT_IN_A_FILE:
        file = tmp_path / "onnxslim-yolo.toml"
        plain = row.kind in (bool,) and ("true" if words is True else "false")
        file.write_text(f"{key} = {plain or (text if row.kind in (int, float, float | None) else repr(text))}\n")
        config = read_config(file, options_of(compile_command), lambda given: compile_options({**needed, **given}))
        read = compile_options({**needed, **config.values})
        found = getattr(read, row.name)
        assert found == (tmp_path / value if isinstance(value, Path) else value)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_an_option_does_not_take_is_refused(row: Row) -> None:
    with pytest.raises(UsageError, match=r"\S"):
        options_from({**NEEDED, row.name: [object()]})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_help_tells_every_option(row: Row) -> None:
    assert row.told.help.endswith(".") and row.told.panel in (*PANELS, None)
    assert (CompileOptions.__doc__ or "").count(row.name)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("none", str | None, None),
        ("none", Literal["none", "all"] | None, None),
        ("3", int | str, 3),
        ("3.5", int | float, 3.5),
        (3, float, 3.0),
        ("a, b", tuple[str, ...], ("a", "b")),
        (["1", 2], tuple[int, ...], (1, 2)),
        ("1,2", tuple[int, int], (1, 2)),
        ("Yes", bool, True),
    ],
)
def test_values(value: object, hint: Any, expected: object) -> None:
    found = read_value(value, hint, "x")
    assert found == expected and type(found) is type(expected)
    assert read_value(spell_value(found), hint, "x") == expected


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (True, int, "'True' is no int"),
        (1.5, int, "'1.5' is no int"),
        ("1,2,3", tuple[int, int], "2 values, not '1,2,3'"),
        (3, str, "'3' is no str"),
        (3, tuple[str, ...], "'3' is no list"),
        ("maybe", bool | None, "'maybe' is no bool"),
        ("pow", Literal["none", "pow2"] | int, "'pow' is no int, and none of none, pow2\n.*'pow2'"),
    ],
)
def test_values_of_another_type(value: object, hint: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"x: {message}"):
        read_value(value, hint, "x")
