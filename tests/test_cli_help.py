"""What helps whoever types a command: examples, completion, suggestions for what is nearly right."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from onnxslim_yolo.cli.help import EXAMPLES, REST, WORDS, choice
from onnxslim_yolo.cli.main import app
from onnxslim_yolo.cli.options import compile_options
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.options import EMITTERS, PANELS, ROWS, CompileOptions, options_from, parse_size
from tests.command import command
from tests.docs_snippets import PAGES

GROUP: Any = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)


START = "import sys; sys.argv[0] = 'onnxslim-yolo'; from onnxslim_yolo.cli.main import main; main()"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    if not environment:
        return command(*words)
    surroundings = {**os.environ, "COLUMNS": "120", **environment}
    line = [sys.executable, "-c", START, *words]
    return subprocess.run(line, capture_output=True, text=True, env=surroundings, timeout=60, check=False)


def test_every_command_has_examples():
    assert sorted(EXAMPLES) == COMMANDS
    for name in COMMANDS:
        known = {option for parameter in GROUP.commands[name].params for option in parameter.opts}
        for line in EXAMPLES[name]:
            words = shlex.split(line)
            assert words[:2] == ["onnxslim-yolo", name]
            assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("name", ["compile", "diff"])
def test_help_ends_with_the_examples_as_they_are_typed(name):
    done = run(name, "--help")
    assert done.returncode == 0
    shown = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    assert shown[-len(EXAMPLES[name]) - 1 :] == ["Examples", *EXAMPLES[name]]
    said, place = " ".join(done.stdout.split()), WORDS.rsplit(" ", 1)[1]
    assert place in said and (PAGES.parent.parent / place).is_file()


def test_the_words_that_help_names_are_explained():
    page = (PAGES / "glossary.md").read_text(encoding="utf-8")
    for word in re.findall(r"[a-z]+(?: [a-z]+)?(?=[,) ]| …)", WORDS.partition("(")[2].partition(" …")[0] + ","):
        assert re.search(rf"^\|[^|]*\b{word}\b[^|]*\|", page, re.MULTILINE), word


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("com", ["compile"]),
        ("compile --sna", ["--snap"]),
        ("compile --snap ", ["none", "pow2", "auto"]),
        ("compile --importance v", ["variance"]),
        ("compile --ncnn-weights ", ["fp16", "fp32"]),
    ],
)
def test_the_shell_completes(typed, expected):
    words = f"onnxslim-yolo {typed}"
    place = str(len(words.split(" ")) - 1)
    done = run(COMP_WORDS=words, COMP_CWORD=place, _ONNXSLIM_YOLO_COMPLETE="complete_bash")
    assert done.stdout.split() == expected


def test_capitals_stand_for_something_else():
    option = choice("none|N|R", "")
    assert option.autocompletion("") == ["none"]


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"snap": "pow"}, "did you mean 'pow2'?"),
        ({"importance": "gama"}, "did you mean 'gamma'?"),
        ({"emit": ("onx",)}, "did you mean 'onnx'?"),
        ({"target": "nothing"}, None),
    ],
)
def test_a_value_that_is_nearly_right(options, hint):
    with pytest.raises(UsageError) as caught:
        CompileOptions(**options)
    assert caught.value.hint == hint


def test_the_help_of_compile_is_in_groups():
    known = [parameter.name for parameter in GROUP.commands["compile"].params]
    assert {row.parameter for row in ROWS} <= set(known) and {row.told.panel for row in ROWS} <= {*PANELS, None}
    done = run("compile", "--help")
    titles = re.findall(r"^╭─ (.*?) ─", done.stdout, re.MULTILINE)
    assert titles == ["Arguments", *PANELS, REST]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_flag_has_no_type(name):
    shown = run(name, "--help").stdout
    assert "--debug" in shown and "<bool>" not in shown


def test_nor_has_one_before_the_command():
    shown = run("--help").stdout
    assert "--install-completion" in shown and "--version" in shown and "<bool>" not in shown


def test_what_may_be_written_is_listed():
    shown = run("compile", "--help").stdout
    assert ",".join(EMITTERS) in shown


@pytest.mark.parametrize(("text", "size"), [("320", (320, 320)), ("480x640", (480, 640)), ("480,640", (480, 640))])
def test_a_size_is_read_however_it_is_spelt(text, size, tmp_path):
    assert parse_size(text) == compile_options({"imgsz": text}).imgsz == options_from({"imgsz": text}).imgsz == size
    file = tmp_path / "onnxslim-yolo.toml"
    file.write_text(f'imgsz = "{text}"\n')
    assert f'imgsz = "{text}"' in run("compile", "--config", str(file), "--print-config").stdout
    assert "N|HxW" in run("compile", "--help").stdout


@pytest.mark.parametrize("text", ["", "x", "1x2x3", "-3", "640 px", "9" * 12])
def test_a_size_that_is_none(text):
    with pytest.raises(UsageError, match="HxW"):
        options_from({"imgsz": text})


def test_every_word_of_the_report_is_in_the_glossary():
    page = (PAGES / "glossary.md").read_text(encoding="utf-8")
    for word in ("wanted", "kept", "spread", "threshold", "masked source", "blind", "group", "control", "frozen"):
        assert re.search(rf"^\| ([^|]*, )?{word}[^|]* \|", page, re.MULTILINE), word


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("compile m.onnx --prun 0.5 --summary s.md", "m.onnx"),
        ("compile --prune x best.pt", "best.pt"),
        ("compile -q odd", "odd"),
        ("compile --prun 0.5 --summary s.md --reference r.onnx --nosuch", None),
    ],
)
def test_a_failed_command_line_tells_the_model_from_what_else_it_names(words, name, monkeypatch):
    from onnxslim_yolo.cli import failure

    monkeypatch.setattr(failure.settings, "source", None)
    monkeypatch.setattr("sys.argv", ["onnxslim-yolo", *words.split()])
    assert failure._input() == (None if name is None else Path(name))
