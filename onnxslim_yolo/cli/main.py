"""argv → options; prints. No logic of its own.

Exit status: 0 done · 2 bad input or usage · 3 a verification failed · 4 a budget was not met · 5 no longer detects.
"""

from __future__ import annotations

import gc
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from onnxslim_yolo._version import __version__
from onnxslim_yolo.cli.defaults import merged, merged_as_toml, told, use_config, use_no_config
from onnxslim_yolo.cli.failure import fail, say_failed
from onnxslim_yolo.cli.help import Command, choice, examples
from onnxslim_yolo.cli.options import compile_options
from onnxslim_yolo.cli.progress import stages
from onnxslim_yolo.cli.shared import (
    AsJson,
    Debug,
    ImageSize,
    LimitMemory,
    LimitWork,
    OutputFormat,
    Pixels,
    Quiet,
    RunOn,
    Verbose,
    app,
    err,
    out,
    print_json,
    say_verdict,
    settings,
    settle,
    wants_json,
)
from onnxslim_yolo.cli.streams import ending_on_signals, flush_output, give_up_output, prepare_streams, system_error
from onnxslim_yolo.errors import InputError, OnnxSlimError, UsageError
from onnxslim_yolo.latency.devices import SHOWN
from onnxslim_yolo.options import EMITTERS


def main() -> None:
    """Entry point of the `onnxslim-yolo` command."""
    warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, on NaN weights: the report has a note on them
    # A graph is many small objects that live to the end: looking for garbage among them is a quarter of the time.
    gc.set_threshold(100_000, 50, 50)
    prepare_streams()
    try:
        with ending_on_signals():
            _run()
    except OnnxSlimError as error:
        sys.exit(fail(error))
    except OSError as error:
        give_up_output()
        settings.printed = True  # nothing more, the error as JSON included
        sys.exit(fail(system_error(error)))
    except MemoryError as error:
        sys.exit(fail(InputError(f"there is not enough memory for this: {error}".rstrip(": "))))
    except Exception as error:
        if settings.debug:
            raise
        err.print(f"error: internal: {type(error).__name__}: {error}", markup=False, highlight=False, soft_wrap=True)
        err.print("  help: this is a bug; run again with --debug and report the traceback")
        sys.exit(1)


def _run() -> None:
    """The command; then what is left in the buffers, while an error can still be told."""
    try:
        app()  # typer exits by itself, with 2 for a usage error
    except SystemExit as stop:
        if stop.code == UsageError.exit_status and stop.__context__ is not None:  # what typer has told already
            say_failed(UsageError(str(stop.__context__)))
        raise
    finally:
        flush_output()


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


@app.command("compile", cls=Command, epilog=examples("compile"))
def compile_command(
    context: typer.Context,
    source: Annotated[
        Path | None, typer.Argument(metavar="INPUT", help="An .onnx, .pt, or Darknet .cfg file.", show_default=False)
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--out", help="Folder to write to (default: NAME-slim).")] = None,
    name: Annotated[str | None, typer.Option(help="Stem of the written files (default: the input's).")] = None,
    imgsz: ImageSize = None,
    pixels: Pixels = None,
    weights: Annotated[Path | None, typer.Option(help="Darknet weights, or the yaml of a state_dict.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Open archives whose loading runs code.")] = False,
    reference: Annotated[
        Path | None, typer.Option(metavar="ONNX", help="The author's export of the same weights, to compare with.")
    ] = None,
    prune: Annotated[str, choice("R|dead", "Share of prunable channels to remove, or 'dead'.")] = "dead",
    target_latency: Annotated[
        str | None, typer.Option(metavar="0.6x|12ms", help="Come down to this predicted latency on --target.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Latencies made by `profile`, instead of the shipped ones.")
    ] = None,
    target_macs: Annotated[
        str | None, typer.Option(metavar="0.7x", help="Come down to this share of the MACs.")
    ] = None,
    target_params: Annotated[str | None, typer.Option(metavar="0.5x", help="The same for parameters.")] = None,
    depth: Annotated[str, choice("auto|none|only", "Whole blocks as candidates.")] = "auto",
    scope: Annotated[str, choice("all|no-residual", "What may be pruned.")] = "all",
    importance: Annotated[str, choice("auto|gamma|weight|variance|output", "How channels are ranked.")] = "auto",
    keep: Annotated[
        list[str] | None, typer.Option("--keep", "--ignore", metavar="PATTERN", help="Layers not to touch; repeatable.")
    ] = None,
    floor: Annotated[int, typer.Option(help="The least channels any tensor keeps.")] = 1,
    normalise: Annotated[bool, typer.Option("--normalise", help="Rank channels relative to their layer.")] = False,
    snap: Annotated[str, choice("none|pow2|N|auto", "Widths that channels are rounded to.")] = "auto",
    device: Annotated[str, choice(SHOWN, "The machine that the result is for.", "--for", "--isa")] = "host",
    target: Annotated[str, choice("ncnn|onnxruntime", "The runtime to be fast on.")] = "ncnn",
    allocate: Annotated[str, choice("global|curves", "How widths are chosen.")] = "global",
    compensate: Annotated[
        str, choice("none|constant|reconstruct", "How what is left makes up for what went.")
    ] = "constant",
    calib: Annotated[Path | None, typer.Option(metavar="DIR|FILE", help="Unlabelled images to calibrate on.")] = None,
    emit: Annotated[
        str, typer.Option(metavar=",".join(EMITTERS), help="What to write, of these; the last two: to train.")
    ] = "onnx,ncnn",
    ncnn_weights: Annotated[str, choice("fp16|fp32", "How ncnn's weights are stored.")] = "fp16",
    head: Annotated[str, choice("keep|raw|decoded", "Where the network ends.")] = "keep",
    data: Annotated[
        Path | None, typer.Option(metavar="YAML", help="Labelled images, for mAP before and after.")
    ] = None,
    budget: Annotated[Path | None, typer.Option(metavar="TOML", help="Limits that must hold, else exit 4.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Largest loss of mAP50; needs --data.")] = None,
    require_speedup: Annotated[float | None, typer.Option(metavar="1.2", help="Measured against the source.")] = None,
    will_train: Annotated[
        bool, typer.Option("--will-train", help="A result that no longer detects is expected (else exit 5).")
    ] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Time the result against its source.")] = False,
    passes: Annotated[
        str | None, typer.Option(metavar="SPEC", help="A textual pipeline instead of the default.")
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not run what is written.")] = False,
    run_on: RunOn = None,
    verify_each: Annotated[bool, typer.Option("--verify-each", help="Compare after every pass.")] = False,
    print_after_all: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Dump the graph after every pass.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep results here; the same input and options return at once.")
    ] = None,
    summary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append a Markdown summary, as for $GITHUB_STEP_SUMMARY.")
    ] = None,
    limit_memory: LimitMemory = None,
    limit_work: LimitWork = None,
    no_config: Annotated[
        bool, typer.Option("--no-config", callback=use_no_config, is_eager=True, help="Ignore configuration files.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", callback=use_config, is_eager=True, help="Read the options' defaults from here."),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print what the file and the command line come to, and stop.")
    ] = False,
    output_format: OutputFormat = "text",
    as_json: AsJson = False,
    debug: Debug = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Compile a detector: prune, snap, fuse, emit, verify."""
    given = locals()
    settle(debug, quiet, verbose)
    settings.source, settings.summary = source, summary
    as_json = wants_json(as_json, output_format)
    if print_config:
        facts = merged(context, given)
        return print_json(facts) if as_json else typer.echo(merged_as_toml(facts), nl=False)
    if source is None:
        raise UsageError("there is no input to compile", hint="onnxslim-yolo compile INPUT; see --help")
    options = compile_options(given)
    if (note := told(context)) and not (quiet or as_json):
        err.print(note, markup=False, highlight=False, soft_wrap=True, style="dim")
    from onnxslim_yolo.ci.job import Job, compile_job

    with stages(quiet or as_json) as progress:
        outcome = compile_job(Job(source, options, cache, summary), progress)
    settings.summarised = True
    if as_json:
        print_json(outcome.report)
    elif not quiet:
        from onnxslim_yolo.report.terminal import show_report

        show_report(outcome.report, out, verbose=verbose, timings=outcome.timings)
        kept = " (unchanged, from the cache)" if outcome.cached else ""
        out.print(f"written to {outcome.folder}{kept}", highlight=False, soft_wrap=True)
    outcome.require()
    return say_verdict(outcome.report["verdict"], source)


@app.command(cls=Command, epilog=examples("passes"))
def passes(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the passes with their options, as `--passes` spells them."""
    settle(debug)
    from onnxslim_yolo.files.spelling import options_of
    from onnxslim_yolo.pipeline import available_passes

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


# The other commands register themselves on `app`.
from onnxslim_yolo.cli import compare as _compare  # noqa: E402, F401
from onnxslim_yolo.cli import models as _models  # noqa: E402, F401
from onnxslim_yolo.cli import sweep as _sweep  # noqa: E402, F401
from onnxslim_yolo.cli import train as _train  # noqa: E402, F401
