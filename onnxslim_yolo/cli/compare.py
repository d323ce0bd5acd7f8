"""The commands that hold one thing against another: verify, bench, diff."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from onnxslim_yolo.cli.help import Command, examples
from onnxslim_yolo.cli.options import asked_for
from onnxslim_yolo.cli.progress import bar, spinner
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
    app,
    form_of,
    out,
    print_json,
    say_verdict,
    settle,
    wants_json,
)
from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.options import parse_size


@app.command(cls=Command, epilog=examples("verify"))
def verify(
    first: Annotated[Path, typer.Argument(metavar="A", help="The reference.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="What has to agree with it.")],
    imgsz: ImageSize = None,
    pixels: Pixels = None,
    tolerance: Annotated[float, typer.Option(help="Worst |difference| / spread allowed.")] = 1e-4,
    run_on: RunOn = None,
    limit_memory: LimitMemory = None,
    limit_work: LimitWork = None,
    output_format: OutputFormat = "text",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run two models on the same inputs and compare every output. Exit 3 if they disagree.

    With --run-on, B is an NCNN pair that runs there: compared in fp32, and then, as detections, in what ncnn computes
    in there by itself.
    """
    settle(debug)
    as_json = wants_json(as_json, output_format)
    from onnxslim_yolo.verify.compare import told_apart, unseen
    from onnxslim_yolo.verify.on_device import check_there, require_sound
    from onnxslim_yolo.verify.pair import compare_models, worst

    with spinner("comparing", as_json):
        asked = asked_for(limit_memory, limit_work)
        size, form = parse_size(imgsz), form_of(pixels)
        check = compare_models(first, second, size=size, tolerance=tolerance, form=form, asked=asked, run_on=run_on)
        there = check_there(first, second, run_on, size=size, form=form, asked=asked) if run_on else None
    if as_json:
        print_json(check.as_json() | ({} if there is None else {"there": there.as_json()}))
    else:
        table = Table("output", "worst / spread", "worst", "at", box=None)
        for d in check.differences:
            table.add_row(d.output, f"{d.worst:.2e}", f"{d.absolute:.3g}", f"{d.column} {d.at}".strip())
        out.print(table)
        if there is not None:
            where = "" if there.board is None else f"on {there.board.cpu} (ncnn {there.board.ncnn})"
            style = {"the same": "green", "off": "yellow", "broken": "red"}[there.state]
            out.print(
                f"as computed {where}: {there.state}: {there.sentence}", style=style, highlight=False, markup=False
            )
            for note in () if there.board is None else there.board.notes:
                out.print(f"note: {note}", style="yellow", highlight=False, markup=False)
        for line in (*unseen(check.differences), *(f"not seen: {text}" for text in check.unseen)):
            out.print(line, style="yellow", highlight=False, markup=False)
    if not check.passed:
        culprit = worst(check)
        names = _told_apart((first, second))
        found, allowed = told_apart(culprit.worst, tolerance)
        raise VerificationError(
            f"{names[1]} disagrees with {names[0]}: {culprit.place()} differs by {found} of its "
            f"spread, allowed {allowed}{f' ({culprit.note})' if culprit.note else ''}",
            hint="a pruned model differs from its source by what was pruned, an int8 one by its rounding, which "
            "`compile` checks apart; --tolerance sets the limit",
        )
    if there is not None:
        require_sound(there, second)


@app.command(cls=Command, epilog=examples("bench"))
def bench(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL…", help="ONNX or NCNN; the first is the base.")],
    threads: Annotated[int, typer.Option(help="Threads of the runtime.")] = 1,
    rounds: Annotated[int, typer.Option(help="Rounds; every model once a round, in random order.")] = 21,
    imgsz: ImageSize = None,
    pixels: Pixels = None,
    layers: Annotated[bool, typer.Option("--layers", help="Also time every layer.")] = False,
    run_on: RunOn = None,
    limit_memory: LimitMemory = None,
    limit_work: LimitWork = None,
    as_json: AsJson = False,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Time models against each other: interleaved, pinned, with an A/A control."""
    settle(debug, quiet)
    from onnxslim_yolo.measure.benchmark import benchmark

    with bar("measuring", quiet or as_json) as progress:
        size = parse_size(imgsz)
        result = benchmark(
            models,
            threads=threads,
            rounds=rounds,
            size=size,
            form=form_of(pixels),
            layers=layers,
            asked=asked_for(limit_memory, limit_work),
            names=_told_apart(models),
            run_on=run_on,
            progress=progress,
        )
    if as_json:
        return print_json(result.to_dict())
    table = Table("model", "runtime", "ms", "quartiles", "ratio", "quartiles", box=None)
    for m in result.models:
        spread, ratios = (f"{a:.2f}…{b:.2f}" for a, b in (m.ms_quartiles, m.ratio_quartiles))
        table.add_row(m.name, m.runtime, f"{m.ms:.2f}", spread, f"{m.ratio:.3f}", ratios)
    out.print(table)
    for m in result.models:
        for layer in sorted(m.layers, key=lambda item: -item.ms)[:15]:
            out.print(f"  {m.name}: {layer.ms:.3f} ms {layer.share:5.1%} {layer.type} {layer.name}", highlight=False)
    clock = f"{result.clock} time, {result.threads} thread(s), {result.rounds} rounds"
    return out.print(f"A/A control {result.control:.3f}; ratios within {result.resolution:.1%} mean nothing; {clock}")


@app.command(cls=Command, epilog=examples("diff"))
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="An earlier NAME.report.json.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A later one.")],
    output_format: OutputFormat = "text",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare two reports, as Markdown for a comment."""
    settle(debug)
    as_json = wants_json(as_json, output_format)
    from onnxslim_yolo.report.diff import diff_reports, markdown_diff, read_report

    found = diff_reports(read_report(old), read_report(new))
    if as_json:
        print_json(found)
    else:
        typer.echo(markdown_diff(found))
    say_verdict(found["verdict"]["new"], found["new"]["file"])


def _told_apart(files: Sequence[Path]) -> list[str]:
    """The files' names; their paths where two names are the same, as `model.onnx` and `model-slim/model.onnx` are."""
    names = [file.name for file in files]
    return names if len(set(names)) == len(names) else [str(file) for file in files]
