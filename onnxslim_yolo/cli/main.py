"""argv → options; prints. No logic of its own.

Exit status: 0 done · 2 bad input or usage · 3 a verification failed · 4 a budget was not met · 5 no longer detects ·
130 interrupted, 128 + the number of another signal that ends it.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxslim_yolo._version import __version__
from onnxslim_yolo.cli.defaults import merged, merged_as_toml, told, use_config, use_no_config
from onnxslim_yolo.cli.failure import fail, say_failed
from onnxslim_yolo.cli.help import Command, examples
from onnxslim_yolo.cli.options import compile_options, with_options
from onnxslim_yolo.cli.progress import stages
from onnxslim_yolo.cli.shared import (
    AsJson,
    Debug,
    OutputFormat,
    Quiet,
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


def main() -> None:
    """Entry point of the `onnxslim-yolo` command."""
    warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, on NaN weights: the report has a note on them
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
@with_options
def compile_command(
    context: typer.Context,
    source: Annotated[
        Path | None, typer.Argument(metavar="INPUT", help="An .onnx, .pt, or Darknet .cfg file.", show_default=False)
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep results here; the same input and options return at once.")
    ] = None,
    summary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append a Markdown summary, as for $GITHUB_STEP_SUMMARY.")
    ] = None,
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
    **given: Any,
) -> None:
    """Compile a detector: prune, snap, fuse, emit, verify."""
    settle(debug, quiet, verbose)
    settings.source, settings.summary = source, summary
    as_json = wants_json(as_json, output_format)
    if print_config:
        facts = merged(context, context.params)
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
from onnxslim_yolo.cli import advise as _advise  # noqa: E402, F401
from onnxslim_yolo.cli import compare as _compare  # noqa: E402, F401
from onnxslim_yolo.cli import distil as _distil  # noqa: E402, F401
from onnxslim_yolo.cli import models as _models  # noqa: E402, F401
from onnxslim_yolo.cli import sweep as _sweep  # noqa: E402, F401
from onnxslim_yolo.cli import train as _train  # noqa: E402, F401
