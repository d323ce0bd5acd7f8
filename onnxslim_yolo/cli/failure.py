"""A command that failed, told wherever somebody looks: standard error, `--json`, GitHub's annotations, `--summary`.

What went wrong may be the command line itself. What it asks for is therefore read from the words as they were typed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from onnxslim_yolo.cli.shared import err, print_json, say_annotation, settings
from onnxslim_yolo.cli.streams import flush_output, give_up_output
from onnxslim_yolo.errors import OnnxSlimError


def fail(error: OnnxSlimError) -> int:
    """Print an error; returns the exit status."""
    if settings.debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    err.print("[bold red]error[/]: ", end="", markup=True)
    err.print(str(error), markup=False, highlight=False, soft_wrap=True)
    return say_failed(error)


def say_failed(error: OnnxSlimError) -> int:
    """Tell everybody but standard error, unless a report is there already; returns the exit status."""
    words = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    if "--json" in words or _last(words, "--output-format") == "json":
        with _as_far_as_it_goes():
            _as_json(error)
    if "github" in (settings.output_format, _last(words, "--output-format")):
        from onnxslim_yolo.report.annotations import annotation

        with _as_far_as_it_goes():
            say_annotation(annotation("error", _line(error.message, error.hint), error.file or _input()))
    summary = settings.summary or _last(words, "--summary")
    if summary and words[:1] == ["compile"] and not settings.summarised:
        _as_summary(Path(summary), error)
    return error.exit_status


@contextlib.contextmanager
def _as_far_as_it_goes() -> Iterator[None]:
    """Standard output may be full or closed: the error is on standard error already, and its status counts."""
    try:
        yield
        flush_output()
    except OSError:
        give_up_output()


def _as_json(error: OnnxSlimError) -> None:
    if settings.printed:
        return
    found = {"message": error.message, "file": error.file, "node": error.node, "help": error.hint}
    print_json({"error": {"kind": type(error).__name__} | found, "exit": error.exit_status})


def _as_summary(path: Path, error: OnnxSlimError) -> None:
    from onnxslim_yolo.ci.job import append
    from onnxslim_yolo.report.markdown import markdown_failure

    text, _, way_out = str(error).partition("\n  help: ")
    try:
        append(path, markdown_failure((_input() or Path("the model")).name, text, error.exit_status, way_out))
    except OnnxSlimError as other:  # the first error is the one that counts
        if str(other) == str(error):
            return
        err.print(f"error: {other}", markup=False, highlight=False, soft_wrap=True)


def _input() -> Path | None:
    """The file that was to be compiled: as read, else the word that names a model, else the last word."""
    if settings.source is not None or len(sys.argv) < 3:
        return settings.source
    follows = zip(sys.argv[1:], sys.argv[2:], strict=False)
    named = [word for before, word in follows if before == "--" or not before.startswith("-")]
    models = [word for word in named if Path(word).suffix.lower() in _MODELS]
    last = sys.argv[-1]
    return Path(models[-1]) if models else None if last.startswith("-") else Path(last)


_MODELS = frozenset({".onnx", ".pt", ".pth", ".cfg", ".safetensors"})


def _last(words: list[str], option: str) -> str | None:
    """An option's value as typed; the last one counts."""
    found = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == option:
            found = following
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def _line(message: str, hint: str | None) -> str:
    return f"{message} (help: {hint})" if hint else message
