"""The command `advise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxslim_yolo.cli.help import Command, choice, examples
from onnxslim_yolo.cli.options import typed
from onnxslim_yolo.cli.progress import stages
from onnxslim_yolo.cli.shared import (
    AsJson,
    Debug,
    Device,
    ImageSize,
    LimitMemory,
    LimitWork,
    Pixels,
    Quiet,
    RunOn,
    Trust,
    Weights,
    app,
    out,
    print_json,
    settle,
)
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.options import parse_size


@app.command("advise", cls=Command, epilog=examples("advise"))
def advise_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="What is to be faster.")],
    calib: Annotated[Path | None, typed("calib")] = None,
    target_latency: Annotated[str | None, typed("target_latency")] = None,
    device: Device = "host",
    target: Annotated[str, choice("ncnn|onnxruntime", "The runtime to be fast on.")] = "ncnn",
    table: Annotated[Path | None, typed("table")] = None,
    threads: Annotated[int, typed("threads", "Its threads there: for the choice of the table, and timed with.")] = 1,
    data: Annotated[Path | None, typer.Option(metavar="YAML", help="Labelled images: mAP decides.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--out", help="Folder (default: MODEL-advice).")] = None,
    imgsz: ImageSize = None,
    pixels: Pixels = None,
    weights: Weights = None,
    trust: Trust = False,
    run_on: RunOn = None,
    limit_memory: LimitMemory = None,
    limit_work: LimitWork = None,
    no_measure: Annotated[bool, typer.Option("--no-measure", help="Predict only: time nothing.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Try what needs no training (input size, int8, pruning), and say which to take. Run again, it goes on."""
    settle(debug, quiet)
    if calib is None or target_latency is None:
        missing = "--calib DIR" if calib is None else "--target-latency 0.7x"
        raise UsageError(f"there is no {missing.split()[0]}", hint=f"give {missing}")
    from onnxslim_yolo.sweep.advise import AdviseOptions, advise, require_answer

    given = {
        "device": device,
        "target": target,
        "table": table,
        "threads": threads,
        "imgsz": parse_size(imgsz),
        "input": pixels,
        "weights": weights,
        "trust": trust,
        "limit_memory": limit_memory,
        "limit_work": limit_work,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    folder = output or Path(f"{model.stem}-advice")
    options = AdviseOptions(model, calib, target_latency, folder, data, chosen, run_on, not no_measure)
    with stages(quiet or as_json) as progress:
        advice = advise(options, progress)
    if as_json:
        print_json(advice.as_json())
    elif not quiet:
        from onnxslim_yolo.report.advice import show_advice

        show_advice(advice, folder, out)
    require_answer(advice, folder)
