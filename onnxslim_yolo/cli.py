"""argv → options; prints. No logic of its own.

Exit status: 0 done · 2 bad input or usage · 3 a verification failed · 4 a budget was not met.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from onnxslim_yolo._version import __version__
from onnxslim_yolo.errors import OnnxSlimError, UsageError

app = typer.Typer(
    name="onnxslim-yolo",
    help="Prune, fuse and verify YOLO detectors, as ONNX and NCNN. Smaller, measurably faster, and still right.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass
class _Settings:
    """What every command shares."""

    debug: bool = False
    quiet: bool = False
    verbose: bool = False


settings = _Settings()
out = Console()
err = Console(stderr=True)

Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show every pass, rewrite and refusal.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON on standard output.")]


def main() -> None:
    """Entry point of the `onnxslim-yolo` command."""
    try:
        app()  # typer exits by itself, with 2 for a usage error
    except OnnxSlimError as error:
        sys.exit(_fail(error))
    except Exception as error:
        if settings.debug:
            raise
        err.print(f"error: internal: {type(error).__name__}: {error}", markup=False, highlight=False, soft_wrap=True)
        err.print("  help: this is a bug; run again with --debug and report the traceback")
        sys.exit(1)


def _fail(error: OnnxSlimError) -> int:
    if settings.debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    text = str(error)
    err.print("[bold red]error[/]: ", end="", markup=True)
    err.print(text, markup=False, highlight=False, soft_wrap=True)
    return error.exit_status


def _version(value: bool) -> None:
    if value:
        out.print(f"onnxslim-yolo {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Prune, fuse and verify YOLO detectors, as ONNX and NCNN."""


@app.command("compile")
def compile_command(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An .onnx, .pt, or Darknet .cfg file.")],
    output: Annotated[Path | None, typer.Option("-o", "--out", help="Folder to write to (default: NAME-slim).")] = None,
    name: Annotated[str | None, typer.Option(help="Stem of the written files (default: the input's).")] = None,
    imgsz: Annotated[
        str | None, typer.Option(metavar="N|H,W", help="Input size where the file leaves it open.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Darknet weights, or the yaml of a state_dict.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Open archives whose loading runs code.")] = False,
    prune: Annotated[
        str, typer.Option(metavar="R|dead", help="Share of prunable channels to remove, or 'dead'.")
    ] = "dead",
    target_macs: Annotated[
        str | None, typer.Option(metavar="0.7x", help="Come down to this share of the MACs.")
    ] = None,
    target_params: Annotated[str | None, typer.Option(metavar="0.5x", help="The same for parameters.")] = None,
    scope: Annotated[str, typer.Option(metavar="all|no-residual", help="What may be pruned.")] = "all",
    importance: Annotated[str, typer.Option(metavar="auto|gamma|weight", help="How channels are ranked.")] = "auto",
    keep: Annotated[
        list[str] | None, typer.Option("--keep", "--ignore", metavar="PATTERN", help="Layers not to touch; repeatable.")
    ] = None,
    floor: Annotated[int, typer.Option(help="The least channels any tensor keeps.")] = 1,
    normalise: Annotated[bool, typer.Option("--normalise", help="Rank channels relative to their layer.")] = False,
    snap: Annotated[str, typer.Option(metavar="none|pow2|N|auto", help="Grid for widths.")] = "auto",
    isa: Annotated[str, typer.Option(metavar="host|avx512|avx2|neon-fp16|neon", help="What 'auto' is for.")] = "host",
    target: Annotated[str, typer.Option(metavar="ncnn|onnxruntime", help="The runtime to be fast on.")] = "ncnn",
    compensate: Annotated[str, typer.Option(metavar="none|constant", help="What to do about the loss.")] = "constant",
    emit: Annotated[str, typer.Option(metavar="onnx,ncnn", help="What to write.")] = "onnx,ncnn",
    ncnn_weights: Annotated[str, typer.Option(metavar="fp16|fp32", help="How ncnn's weights are stored.")] = "fp16",
    head: Annotated[str, typer.Option(metavar="keep|raw|decoded", help="Where the network ends.")] = "keep",
    data: Annotated[
        Path | None, typer.Option(metavar="YAML", help="Labelled images, for mAP before and after.")
    ] = None,
    budget: Annotated[Path | None, typer.Option(metavar="TOML", help="Limits that must hold, else exit 4.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Largest loss of mAP50; needs --data.")] = None,
    require_speedup: Annotated[float | None, typer.Option(metavar="1.2", help="Measured against the source.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Time the result against its source.")] = False,
    passes: Annotated[
        str | None, typer.Option(metavar="SPEC", help="A textual pipeline instead of the default.")
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not run what is written.")] = False,
    verify_each: Annotated[bool, typer.Option("--verify-each", help="Compare after every pass.")] = False,
    print_after_all: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Dump the graph after every pass.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Compile a detector: prune, snap, fuse, emit, verify.

    Examples:

      onnxslim-yolo compile yolov8n.onnx --prune 0.5

      onnxslim-yolo compile best.pt --prune 0.7 --snap pow2 -o out

      onnxslim-yolo compile yolov4-tiny.cfg --emit ncnn --head raw
    """
    settle(debug, quiet, verbose)
    from onnxslim_yolo.compiler import compile_with
    from onnxslim_yolo.options import CompileOptions

    options = CompileOptions(
        out=output,
        name=name,
        imgsz=parse_size(imgsz),
        weights=weights,
        trust=trust,
        prune=_ratio(prune),
        target_macs=_share("--target-macs", target_macs),
        target_params=_share("--target-params", target_params),
        scope=_word(scope),
        importance=_word(importance),
        keep=tuple(keep or ()),
        floor=floor,
        normalise=normalise,
        snap=_snap(snap),
        isa=_word(isa),
        target=_word(target),
        compensate=_word(compensate),
        emit=tuple(part.strip() for part in emit.split(",") if part.strip()),
        ncnn_weights=_word(ncnn_weights),
        head=_word(head),
        data=data,
        budget=budget,
        max_drop=max_drop,
        require_speedup=require_speedup,
        measure=measure,
        passes=passes,
        verify=not no_verify,
        verify_each=verify_each,
        dump_to=print_after_all,
    )
    with _progress(quiet or as_json) as progress:
        result = compile_with(source, options, progress)
    if as_json:
        print_json(result.report)
    elif not quiet:
        from onnxslim_yolo.report.terminal import show_report

        show_report(result.report, out, verbose=verbose)
        out.print(f"written to {result.folder}", highlight=False, soft_wrap=True)


@app.command()
def passes(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the passes with their options, as `--passes` spells them."""
    settle(debug)
    from onnxslim_yolo.manager import available_passes, options_of

    known = available_passes()
    if as_json:
        rows = {n: [{"name": o, "type": t, "default": d} for o, t, d in options_of(cls)] for n, cls in known.items()}
        return print_json(rows)
    from rich.table import Table

    table = Table("pass", "option", "type", "default", box=None, pad_edge=False)
    for pass_name, cls in known.items():
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        table.add_row(f"[bold]{pass_name}[/]", f"[dim]{summary}[/]")
        for option, kind, default in options_of(cls):
            table.add_row("", option, kind, default)
    return out.print(table)


def settle(debug: bool, quiet: bool = False, verbose: bool = False) -> None:
    """Note what every command shares."""
    settings.debug, settings.quiet, settings.verbose = debug, quiet, verbose


def print_json(value: Any) -> None:
    """JSON on standard output, and nothing else there."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


@contextmanager
def _progress(silent: bool) -> Iterator[Callable[[str], None]]:
    """A spinner on standard error with the stage's name; nothing when not a terminal."""
    if silent or not err.is_terminal:
        yield lambda stage: None
        return
    with err.status("starting") as status:
        yield lambda stage: status.update(stage)


def _word(text: str) -> Any:
    """A choice, as typed: `CompileOptions` knows which exist and says so."""
    return text


def _ratio(text: str) -> float | Literal["dead"]:
    if text == "dead":
        return "dead"
    return _number("--prune", text, "a ratio in [0, 1) or 'dead'")


def _share(option: str, text: str | None) -> float | None:
    return None if text is None else _number(option, text.removesuffix("x"), "a share like 0.7x")


def _number(option: str, text: str, expected: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{option} takes {expected}, not '{text}'") from error


def _snap(text: str) -> Any:
    return int(text) if text.lstrip("-").isdigit() else text


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) from `N` or `H,W`. Raises UsageError."""
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if not 1 <= len(parts) <= 2 or not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--imgsz takes N or H,W in pixels, not '{text}'")
    sides = [int(part) for part in parts]
    return sides[0], sides[-1]


# The other commands register themselves on `app`.
from onnxslim_yolo import cli_models as _commands  # noqa: E402, F401
