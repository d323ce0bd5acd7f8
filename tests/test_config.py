"""The configuration file: where it is looked for, what it may say, and that the command line wins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer

from onnxslim_yolo.cli.config import ONLY_BY_HAND, Option, as_toml, find_config, read_config
from onnxslim_yolo.cli.defaults import NOT_IN_A_FILE, options_of
from onnxslim_yolo.cli.main import app, compile_command
from onnxslim_yolo.errors import InputError
from tests.command import command, environment
from tests.test_bad_input import good, write

OPTIONS = options_of(compile_command)


def read(folder: Path, text: str) -> dict[str, object]:
    path = folder / "onnxslim-yolo.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path, OPTIONS, check).values


def find(folder: Path, text: str, name: str = "onnxslim-yolo.toml") -> dict[str, object]:
    """Read as a file that nobody named."""
    (folder / name).write_text(text, encoding="utf-8")
    return read_config(folder / name, OPTIONS, check, found=True).values


def check(given: dict[str, object]) -> None:
    from onnxslim_yolo.cli.defaults import _check

    _check(given)


def test_every_option_of_the_command_is_a_key() -> None:
    flags = {
        flag.removeprefix("--")
        for parameter in typer.main.get_command(app).commands["compile"].params  # type: ignore[attr-defined]
        for flag in parameter.opts
        if flag.startswith("--")
    }
    assert set(OPTIONS) == flags - set(NOT_IN_A_FILE) - {"ignore", "isa", "help"}
    assert OPTIONS["keep"] == Option("keep", "keep", list) and OPTIONS["out"] == Option("out", "out", Path)
    assert OPTIONS["json"].kind is bool and OPTIONS["floor"].kind is int and OPTIONS["max-drop"].kind is float


def test_values_become_what_the_command_line_would_give(tmp_path: Path) -> None:
    text = """
        prune = 0.5
        snap = 8
        imgsz = [320, 640]
        emit = ["onnx", "ncnn"]
        keep = "model.22"
        floor = 4
        max-drop = 1
        budget = "ci/budget.toml"
        no_verify = true
    """
    assert read(tmp_path, text) == {
        "prune": "0.5",
        "snap": "8",
        "imgsz": "320,640",
        "emit": "onnx,ncnn",
        "keep": ["model.22"],
        "floor": 4,
        "max_drop": 1.0,
        "budget": str(tmp_path / "ci" / "budget.toml"),
        "no_verify": True,
    }


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("prunee = 0.5", "unknown key 'prunee'", "did you mean 'prune'?"),
        ("xyzzy = 1", "unknown key 'xyzzy'", "known: .*budget.*snap"),
        ("targetmacs = '0.5x'", "unknown key 'targetmacs'", "'target-macs'"),
        ("floor = 'two'", r"'floor' is 'two' \(str\), expected a whole number", "--no-config"),
        ("floor = true", r"'floor' is True \(bool\), expected a whole number", ""),
        ("floor = 1.5", r"'floor' is 1.5 \(float\), expected a whole number", ""),
        ("measure = 'yes'", r"'measure' is 'yes' \(str\), expected true or false", ""),
        ("max-drop = nan", r"'max-drop' is nan \(float\), expected a number", ""),
        ("keep = [1]", r"'keep' is \[1\] \(list\), expected a list of texts", ""),
        ("out = 5", r"'out' is 5 \(int\), expected a path", ""),
        ("scope = ['all']", "'scope' is .* expected text", ""),
        ("[prune]\nratio = 0.5", r"'prune' is \{'ratio': 0.5\} \(dict\), expected text", ""),
        ("prune = 1.5", r"'prune': the pruning ratio 1.5 is not in \[0, 1\)", "0.5 removes half"),
        ("prune = 'some'", "'prune': --prune takes a ratio", ""),
        ("snap = 0", "'snap': cannot snap to multiples of 0", ""),
        ("target = 'tensorrt'", "'target': target: 'tensorrt' is none of ncnn, onnxruntime", ""),
        ("emit = ['tflite']", "'emit': emit: 'tflite' is none of", ""),
        ("trust = true", "'trust' runs code from the model file", "by hand"),
        ("config = 'x'", "unknown key 'config'", ""),
        ("prune = ", "is no TOML", "--no-config"),
        ("a = " + "[" * 5000, "nested too deeply|is no TOML", ""),
        ("a = 1" + "0" * 5000, "is no TOML|unknown key", ""),
        ("#" * (1 << 20) + "\n", "larger than 1 MiB", ""),
    ],
)
def test_refusals_name_the_key(text: str, message: str, hint: str, tmp_path: Path) -> None:
    import re

    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, text)
    assert re.search(hint, caught.value.hint or ""), caught.value.hint
    assert caught.value.file == str(tmp_path / "onnxslim-yolo.toml") and caught.value.exit_status == 2


def test_the_nearest_file_counts(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[tool.onnxslim-yolo]\nprune = 0.1\n")
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert find_config(inner) == tmp_path / "pyproject.toml"
    (tmp_path / "a" / "onnxslim-yolo.toml").write_text("prune = 0.2\n")
    assert find_config(inner) == tmp_path / "a" / "onnxslim-yolo.toml"
    (inner / "pyproject.toml").write_text("[tool\n")
    with pytest.raises(InputError, match="is no TOML"):
        find_config(inner)
    with pytest.raises(InputError, match=r"has no table \[tool.onnxslim-yolo\]"):
        read_config(tmp_path / "a" / "pyproject.toml", OPTIONS, check)


def test_a_file_of_our_own_under_the_heading_of_a_pyproject(tmp_path: Path) -> None:
    """Its heading is copied with its lines. That neither opens what a found file may not set nor hides slips."""
    assert read(tmp_path, "[tool.onnxslim-yolo]\nprune = 0.5\n") == read(tmp_path, "prune = 0.5\n")
    for text in ("[tool.other]\nx = 1\n", "snap = 8\n[tool.onnxslim-yolo]\nprune = 0.5\n"):
        with pytest.raises(InputError, match="unknown key 'tool'"):
            read(tmp_path, text)
    with pytest.raises(InputError, match="unknown key 'kep'"):
        read(tmp_path, "[tool.onnxslim-yolo]\nkep = 1\n")
    with pytest.raises(InputError, match="'summary' cannot be set"):
        find(tmp_path, "[tool.onnxslim-yolo]\nsummary = 's.md'\n")


def test_the_command_line_wins(tmp_path: Path) -> None:
    """Merged, printed, and read again: the printed file says the same."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.onnxslim-yolo]\nprune = 0.5\nsnap = "pow2"\nkeep = ["a.b", "c\\"d"]\nquiet = true\n'
    )
    (tmp_path / "sub").mkdir()
    done = command("compile", "--print-config", "--prune", "0.25", cwd=tmp_path / "sub")
    assert done.returncode == 0, done.stderr
    rows = dict(line.split(" = ", 1) for line in done.stdout.splitlines() if " = " in line)
    assert rows["prune"].split("#")[0].strip() == '"0.25"' and "command line" in rows["prune"]
    assert rows["snap"].startswith('"pow2"') and "pyproject.toml" in rows["snap"]
    assert rows["target"] == '"ncnn"', "a default names no origin"
    again = read(tmp_path / "sub", done.stdout)
    assert again["prune"] == "0.25" and again["keep"] == ["a.b", 'c"d'] and again["quiet"] is True
    done = command("compile", "--print-config", "--json", "--no-config", cwd=tmp_path)
    assert '"file": null' in done.stdout and '"snap": "auto"' in done.stdout


def test_a_compilation_by_file(tmp_path: Path) -> None:
    write(good(), tmp_path / "m.onnx")
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "mine.toml").write_text('emit = "onnx"\nout = "../o"\nprune = 0.5\nquiet = true\n')
    done = command("compile", "m.onnx", "--config", "settings/mine.toml", "--no-verify", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (tmp_path / "o" / "m.onnx").exists() and not (tmp_path / "o" / "m_ncnn_model").exists()
    done = command("compile", "m.onnx", "--config", "settings/mine.toml", "--no-config", cwd=tmp_path)
    assert done.returncode == 2 and "contradict" in done.stderr
    done = command("compile", "m.onnx", "--config", "none.toml", cwd=tmp_path)
    assert done.returncode == 2 and "none.toml: cannot be read" in done.stderr
    done = command("compile", "--no-config", cwd=tmp_path)
    assert done.returncode == 2 and "no input" in done.stderr


@pytest.mark.parametrize("text", ['a"b\\c\n\x1b\x7f', "ü→\U0001f600", ""])
def test_printed_text_reads_back(text: str, tmp_path: Path) -> None:
    if not text:
        assert as_toml({"name": None}, {}) == "# name =\n"
        return
    assert read(tmp_path, as_toml({"keep": [text]}, {"keep": "x"}))["keep"] == [text]


def test_options_are_found_as_python_3_10_spells_them() -> None:
    """There a parameter `x: Annotated[T | None, …] = None` has the hint Optional[Annotated[T | None, …]]."""
    from onnxslim_yolo.cli.defaults import _annotated

    hint = Annotated[Path | None, "note"]
    assert _annotated(hint | None) == hint == _annotated(hint)
    assert _annotated(int) is int and _annotated(int | None) == (int | None)


PATHS = sorted(key for key, option in OPTIONS.items() if option.kind is Path)
OUTSIDE = ["/tmp/x", "../x", "sub/../../x", "link/x", "link", "sub/deep/x"]


@pytest.mark.parametrize("key", PATHS)
def test_a_file_that_was_found_names_no_path_outside_its_folder(key: str, tmp_path: Path) -> None:
    home, foreign = tmp_path / "home", tmp_path / "foreign"
    (home / "sub").mkdir(parents=True)
    foreign.mkdir()
    (home / "link").symlink_to(foreign)
    (home / "sub" / "deep").symlink_to("../../foreign")
    (home / "inner").symlink_to("sub")
    for value in OUTSIDE:
        with pytest.raises(
            InputError, match=f"'{key}' (leads out of the file's folder|cannot be set by a file)"
        ) as caught:
            find(home, f'{key} = "{value}"')
        assert caught.value.exit_status == 2 and "--config onnxslim-yolo.toml" in (caught.value.hint or "")
    if key in ONLY_BY_HAND:
        with pytest.raises(InputError, match=f"'{key}' cannot be set by a file that was found"):
            find(home, f'{key} = "x"')
        assert read(home, f'{key} = "x"')
        return
    for value in ("x", "sub/x", "inner/x", "./x"):
        assert find(home, f'{key} = "{value}"')[OPTIONS[key].parameter] == str(home / value)
    assert read(home, f'{key} = "/tmp/x"'), "whoever names the file may"


def test_nor_in_its_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for spec in ("prune{calib=/etc}", "prune{ratio=0.5},reconstruct{calib=../x}", "snap{table=/x}"):
        with pytest.raises(InputError, match="'passes' leads out"):
            find(tmp_path, f'passes = "{spec}"')
    assert find(tmp_path, 'passes = "prune{calib=images}"')
    assert find(tmp_path, 'passes = "prune{ratio=0.5},slice"')


def test_trust_is_in_no_file(tmp_path: Path) -> None:
    for reader in (read, find):
        with pytest.raises(InputError, match="'trust' runs code"):
            reader(tmp_path, "trust = true")


def test_a_planted_file_writes_nothing_elsewhere(tmp_path: Path) -> None:
    """The command in a stranger's folder: refused, and what the file names stays as it was."""
    work, bashrc = tmp_path / "work", tmp_path / ".bashrc"
    work.mkdir()
    bashrc.write_text("# mine\n")
    write(good(), work / "m.onnx")
    for text in (f'summary = "{bashrc}"', 'summary = "../.bashrc"', 'out = "../o"', f'cache = "{tmp_path}/c"'):
        (work / "onnxslim-yolo.toml").write_text(text)
        done = command("compile", "m.onnx", "--no-verify", cwd=work)
        assert done.returncode == 2 and "onnxslim-yolo.toml" in done.stderr, done.stderr
        assert bashrc.read_text() == "# mine\n" and {p.name for p in tmp_path.iterdir()} == {"work", ".bashrc"}
    done = command("compile", "m.onnx", "--no-verify", "--no-config", "-q", cwd=work)
    assert done.returncode == 0, done.stderr


def test_what_a_found_file_sets_is_said_and_can_be_forbidden(tmp_path: Path) -> None:
    write(good(), tmp_path / "m.onnx")
    (tmp_path / "onnxslim-yolo.toml").write_text('emit = "onnx"\nno-verify = true\n')
    done = command("compile", "m.onnx", cwd=tmp_path)
    assert done.returncode == 0 and f"options from {tmp_path / 'onnxslim-yolo.toml'}: emit, no-verify" in done.stderr
    shown = command("compile", "--print-config", cwd=tmp_path).stdout
    assert shown.startswith(f"# options from {tmp_path / 'onnxslim-yolo.toml'}\n")
    forbidden = {**environment(), "ONNXSLIM_YOLO_NO_CONFIG": "1"}
    shown = command("compile", "--print-config", cwd=tmp_path, env=forbidden).stdout
    assert shown.startswith("# no configuration file\n") and 'emit = "onnx,ncnn"' in shown
    shown = command("compile", "--print-config", "--config", "onnxslim-yolo.toml", cwd=tmp_path, env=forbidden).stdout
    assert 'emit = "onnx" ' in shown
