"""The command that teaches a pruned network without labels, and compiles what came of it: distil."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxslim_yolo.cli.help import Command, examples
from onnxslim_yolo.cli.options import asked_for
from onnxslim_yolo.cli.progress import stages
from onnxslim_yolo.cli.shared import (
    AsJson,
    Debug,
    Device,
    ImageSize,
    LimitMemory,
    LimitWork,
    Quiet,
    app,
    out,
    print_json,
    settle,
)
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.files.atomic import private_folder
from onnxslim_yolo.options import EMITTERS, options_from, parse_size


@app.command("distil", cls=Command, epilog=examples("distil"))
def distil_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The pruned network: any file that opens here.")],
    teacher: Annotated[Path, typer.Option(metavar="SOURCE", help="What it was cut from.", show_default=False)],
    images: Annotated[Path, typer.Option(metavar="DIR|FILE", help="Unlabelled images, 8 or more.", show_default=False)],
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its plan.json (default: the one beside MODEL).")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder to write to (default: NAME-distilled).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Stem of the written files (default: MODEL's).")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the images.")] = 20,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 4,
    lr: Annotated[float, typer.Option(help="Largest learning rate.")] = 3e-5,
    maps: Annotated[float, typer.Option(help="Weight of feature maps beside the outputs; 0: outputs only.")] = 1.0,
    no_flip: Annotated[bool, typer.Option("--no-flip", help="Do not mirror images: digits, arrows.")] = False,
    seed: Annotated[int, typer.Option(help="Of the order and the variation of images.")] = 0,
    imgsz: ImageSize = None,
    device: Device = "host",
    emit: Annotated[str, typer.Option(metavar=",".join(EMITTERS[:3]), help="What to write.")] = "onnx,ncnn",
    limit_memory: LimitMemory = None,
    limit_work: LimitWork = None,
    as_json: AsJson = False,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Teach a pruned network by what it was cut from, on images without labels; write what came of it, verified."""
    settle(debug, quiet)
    from onnxslim_yolo.ci.job import Job, Outcome
    from onnxslim_yolo.compiler import build
    from onnxslim_yolo.files.atomic import require_folder, require_other
    from onnxslim_yolo.result import Taught
    from onnxslim_yolo.training.distil import DistilOptions, distil, require_torch

    stem = name or model.stem
    folder, size = output or Path(f"{stem}-distilled"), parse_size(imgsz)
    asked = asked_for(limit_memory, limit_work)
    limits = {"limit_memory": asked.memory, "limit_work": asked.work}
    how = {"prune": 0.0, "snap": "none", "device": device, "emit": emit, "imgsz": size}
    compiling = options_from({"out": folder, "name": stem, **how, **limits})
    require_other([folder / f"{stem}.onnx", folder / f"{stem}.pt"], model, teacher, hint="choose another -o or --name")
    require_folder(folder)
    if "ultralytics" in compiling.emit:
        raise UsageError("--emit: distil writes no checkpoint of Ultralytics'", hint="train that with `finetune`")
    chosen = DistilOptions(epochs, batch, lr, maps, not no_flip, seed, size, asked)
    require_torch()
    with stages(quiet or as_json) as progress, private_folder() as private:
        from onnxslim_yolo.emit.torch import save_module

        taught = distil(model, teacher, images, chosen, plan=plan, progress=progress)
        module = save_module(taught.module, private / f"{stem}.pt")
        lesson = Taught(taught.teacher, images, taught.facts, str(taught))
        result = build(module, compiling, progress, lesson)
    if as_json:
        print_json(result.report)
    elif not quiet:
        from onnxslim_yolo.report.terminal import show_report

        show_report(result.report, out)
        out.print(f"written to {result.folder}", highlight=False, soft_wrap=True)
    Outcome(Job(model, compiling), result.report, result.folder).require()
