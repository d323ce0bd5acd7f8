"""What all commands share: the application they register on, what they print with, and their common options."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(
    name="onnxslim-yolo",
    help="Prune, fuse and verify YOLO detectors, as ONNX and NCNN. Smaller, measurably faster, and still right.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass
class Settings:
    """What every command shares. `printed`: JSON is on standard output already."""

    printed: bool = False
    debug: bool = False
    quiet: bool = False
    verbose: bool = False


settings = Settings()
out = Console()
err = Console(stderr=True)

Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show every pass, rewrite and refusal.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]
Pixels = Annotated[
    str | None,
    typer.Option("--input", metavar="0..1|0..255|mean=…,std=…", help="What the network is fed for a pixel."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON on standard output.")]


def settle(debug: bool, quiet: bool = False, verbose: bool = False) -> None:
    """Note what every command shares."""
    settings.debug, settings.quiet, settings.verbose = debug, quiet, verbose


def print_json(value: Any) -> None:
    """JSON on standard output, and nothing else there."""
    settings.printed = True
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


@contextmanager
def stages(silent: bool) -> Iterator[Callable[[str], None]]:
    """A spinner on standard error with the stage's name, when that is a terminal; warnings are printed in any case."""

    def tell(stage: str) -> None:
        if stage.startswith("WARNING: "):
            err.print(stage, style="yellow", markup=False, highlight=False, soft_wrap=True)
        elif status is not None:
            status.update(stage)

    status = None
    if silent:
        yield lambda stage: None
    elif not err.is_terminal:
        yield tell
    else:
        with err.status("starting") as status:
            yield tell
