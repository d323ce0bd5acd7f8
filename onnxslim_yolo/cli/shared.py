"""What all commands share: the application they register on, what they print with, and their common options."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from onnxslim_yolo.cli.help import Group, choice
from onnxslim_yolo.cli.options import typed
from onnxslim_yolo.errors import UsageError

if TYPE_CHECKING:
    from onnxslim_yolo.ir.input_format import InputFormat

app = typer.Typer(
    name="onnxslim-yolo",
    cls=Group,
    help="Prune, fuse and verify YOLO detectors, as ONNX and NCNN. Smaller, measurably faster, and still right.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass
class Settings:
    """What every command shares.

    Attributes:
        printed: JSON is on standard output already. summarised: so is the summary, where it belongs.
        source, summary: what is compiled, and where to sum it up, once the command line has been read.
    """

    printed: bool = False
    summarised: bool = False
    source: Path | None = None
    summary: Path | None = None
    output_format: str = "text"
    debug: bool = False
    quiet: bool = False
    verbose: bool = False


settings = Settings()
out = Console()
err = Console(stderr=True)

Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show every pass, rewrite and refusal.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]
ImageSize = Annotated[str | None, typed("imgsz")]
Pixels = Annotated[str | None, typed("input")]
Device = Annotated[str, typed("device")]
Weights = Annotated[Path | None, typed("weights")]
Trust = Annotated[bool, typed("trust")]
Calib = Annotated[Path | None, typed("calib")]
NoVerify = Annotated[bool, typed("verify")]
RunOn = Annotated[str | None, typed("run_on")]
LimitMemory = Annotated[str | None, typed("limit_memory")]
LimitWork = Annotated[str | None, typed("limit_work")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON on standard output.")]
FORMATS = ("text", "json", "github")
OutputFormat = Annotated[
    str, choice("text|json|github", "github: text, and what is wrong as annotations of a workflow.")
]


def settle(debug: bool, quiet: bool = False, verbose: bool = False) -> None:
    """Note what every command shares."""
    settings.debug, settings.quiet, settings.verbose = debug, quiet, verbose


def wants_json(as_json: bool, output_format: str) -> bool:
    """Whether JSON is asked for, by either option. Raises UsageError for a format that is none."""
    if output_format not in FORMATS:
        raise UsageError(f"--output-format takes {', '.join(FORMATS)}, not '{output_format}'")
    settings.output_format = output_format
    return as_json or output_format == "json"


def say_verdict(verdict: Mapping[str, Any], file: object) -> None:
    """A verdict that is no pass as an annotation, where those are asked for."""
    if settings.output_format == "github":
        from onnxslim_yolo.report.annotations import annotation_of

        line = annotation_of(verdict, file)
        if line is not None:
            say_annotation(line)


def say_annotation(line: str) -> None:
    """A workflow command: on standard output, unless JSON is there. Both are read."""
    stream = sys.stderr if settings.printed else sys.stdout
    stream.write(line + "\n")


def print_json(value: Any) -> None:
    """JSON on standard output, and nothing else there."""
    settings.printed = True
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def form_of(text: str | None) -> InputFormat | None:
    """What `--input` says. Raises UsageError."""
    from onnxslim_yolo.ir.input_format import parse_input

    return None if text is None else parse_input(text)
