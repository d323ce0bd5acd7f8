"""The command `sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from onnxslim_yolo.cli.help import Command, choice, examples
from onnxslim_yolo.cli.progress import bar
from onnxslim_yolo.cli.shared import AsJson, Calib, Debug, NoVerify, Quiet, Trust, Weights, app, out, print_json, settle
from onnxslim_yolo.options import parse_size


@app.command("sweep", cls=Command, epilog=examples("sweep"))
def sweep_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="What is pruned.")],
    output: Annotated[Path | None, typer.Option("-o", "--out", help="Folder (default: MODEL-sweep).")] = None,
    prune: Annotated[str, typer.Option(metavar="R,R,…", help="Ratios, or 'dead'.")] = "0.2,0.4,0.6",
    snap: Annotated[str, typer.Option(metavar="S,S,…", help="Grids for widths: none, pow2, N, auto.")] = "auto",
    importance: Annotated[str, typer.Option(metavar="I,I,…", help="Rankings.")] = "auto",
    compensate: Annotated[str, typer.Option(metavar="C,C,…", help="none, constant, reconstruct, distil.")] = "constant",
    imgsz: Annotated[
        str, typer.Option(metavar="N,HxW,…|auto", help="Input sizes (default: the file's); auto: all smaller ones.")
    ] = "",
    against: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Unpruned rival; repeatable.")] = None,
    target: Annotated[str, choice("ncnn|onnxruntime", "What files are written for.")] = "ncnn",
    data: Annotated[Path | None, typer.Option(metavar="YAML", help="Labelled images, for mAP.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Time all results against the unpruned one.")] = False,
    jobs: Annotated[int, typer.Option(help="Trials at a time; -1: one a core.")] = 1,
    backend: Annotated[str, choice("local|dask", "Where trials run in parallel.")] = "local",
    scheduler: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The dask scheduler.")] = None,
    calib: Calib = None,
    weights: Weights = None,
    trust: Trust = False,
    no_verify: NoVerify = False,
    as_json: AsJson = False,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Compile a grid of options, and draw accuracy against cost. Run again, it goes on where it was."""
    settle(debug, quiet)
    from onnxslim_yolo.sweep.run import Grid, SweepOptions, grid_value, require_some, sweep

    grid = Grid(
        prune=tuple(grid_value("prune", word) for word in _words(prune)),
        snap=tuple(grid_value("snap", word) for word in _words(snap)),
        importance=tuple(_words(importance)),
        compensate=tuple(_words(compensate)),
        imgsz=tuple("auto" if word == "auto" else parse_size(word) for word in _words(imgsz)) or (None,),
    )
    folder = output or Path(f"{model.stem}-sweep")
    options = SweepOptions(
        model=model,
        out=folder,
        grid=grid,
        against=tuple(against or ()),
        target=cast(Any, target),
        data=data,
        measure=measure,
        verify=not no_verify,
        jobs=jobs,
        backend=cast(Any, backend),
        scheduler=scheduler,
        calib=calib,
        weights=weights,
        trust=trust,
    )
    with bar("sweeping", quiet or as_json) as progress:
        rows = sweep(options, progress)
    if as_json:
        print_json(rows)
    elif not quiet:
        from onnxslim_yolo.report.sweep import show_sweep

        show_sweep(rows, folder, out)
    require_some(rows, folder / "sweep.csv")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
