"""Plain values are read without pydantic, to the same result as typer's; everything else is typer's to read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from onnxslim_yolo.cli.help import Command
from tests.command import environment


def application(plain: bool) -> tuple[typer.Typer, dict[str, Any]]:
    app, seen = typer.Typer(), {}

    @app.command(**({"cls": Command} if plain else {}))
    def run(
        source: Path,
        name: str = "it",
        share: float | None = None,
        floor: int = 1,
        upper: Annotated[int, typer.Option(max=5)] = 2,
        there: Annotated[Path | None, typer.Option(exists=True)] = None,
        keep: list[str] | None = None,
        loud: bool = False,
    ) -> None:
        seen.update({key: value for key, value in locals().items() if key != "seen"})

    return app, seen


LINES = [
    ("a",),
    ("a", "--name", "b", "--loud"),
    ("a", "--share", "0.5", "--floor", "3", "--upper", "5"),
    ("a", "--keep", "x", "--keep", "y"),
    ("a", "--there", "."),
    ("", "--name", ""),
    ("a", "--share", "half"),
    ("a", "--floor", "1.5"),
    ("a", "--upper", "9"),
    ("a", "--there", "nowhere"),
    ("a", "--no"),
    (),
]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_what_is_read_is_what_typer_reads(line: tuple[str, ...]) -> None:
    (ours, mine), (theirs, wanted) = application(True), application(False)
    got, expected = (CliRunner().invoke(app, list(line)) for app in (ours, theirs))
    assert (got.exit_code, mine) == (expected.exit_code, wanted)
    assert {name: type(value) for name, value in mine.items()} == {name: type(v) for name, v in wanted.items()}


def test_a_path_that_may_not_be_read_is_refused_by_typer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").touch()
    monkeypatch.setattr("os.access", lambda *_: False)
    assert CliRunner().invoke(application(True)[0], [str(tmp_path / "closed")]).exit_code == 2


def test_a_plain_command_line_does_without_pydantic() -> None:
    code = (
        "import sys; sys.argv = ['onnxslim-yolo', 'compile', 'none.onnx', '-o', 'out', '--prune', '0.5']\n"
        "from onnxslim_yolo.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as stop: print(stop.code, 'pydantic' in sys.modules)"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, env=environment(), check=True, timeout=120)
    assert done.stdout.split() == ["2", "False"]
