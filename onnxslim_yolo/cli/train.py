"""The commands that train, in the Ultralytics that is installed: sparsify, finetune, slim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxslim_yolo.cli.help import Command, examples
from onnxslim_yolo.cli.shared import AsJson, Debug, Device, app, err, out, print_json, settle
from onnxslim_yolo.errors import UsageError

Data = Annotated[str | None, typer.Option(metavar="YAML", help="Ultralytics' data.yaml.")]
Epochs = Annotated[int, typer.Option(min=1, help="How many epochs.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped; CKPT is its folder.")]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME=VALUE…]", help="Any of Ultralytics' train arguments.")
]


@app.command("sparsify", cls=Command, epilog=examples("sparsify"))
def sparsify_command(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="A checkpoint of Ultralytics.")],
    settings: Settings = None,
    data: Data = None,
    epochs: Epochs = 50,
    target: Annotated[float, typer.Option(help="Share of the γ to bring to zero, in (0, 1).")] = 0.6,
    resume: Resume = False,
    debug: Debug = False,
) -> None:
    """Train a checkpoint in Ultralytics so that channels die; writes weights/sparse.pt in its run folder."""
    settle(debug)
    from onnxslim_yolo.training.run_ultralytics import run_sparsify, train_settings

    folder = run_sparsify(checkpoint, data, epochs, target, train_settings(settings or []), resume=resume)
    out.print(f"{folder / 'weights' / 'sparse.pt'} written", highlight=False, soft_wrap=True)


@app.command("finetune", cls=Command, epilog=examples("finetune"))
def finetune_command(
    checkpoint: Annotated[Path, typer.Argument(metavar="SLIM", help="NAME-slim.pt of `compile --emit ultralytics`.")],
    settings: Settings = None,
    data: Data = None,
    epochs: Epochs = 50,
    teacher: Annotated[
        Path | None, typer.Option(metavar="CKPT", help="The unpruned network, to learn from besides the labels.")
    ] = None,
    resume: Resume = False,
    debug: Debug = False,
) -> None:
    """Train a pruned network on in Ultralytics, at its widths."""
    settle(debug)
    from onnxslim_yolo.training.run_ultralytics import run_finetune, train_settings

    folder = run_finetune(checkpoint, data, epochs, teacher, train_settings(settings or []), resume=resume)
    out.print(f"{folder / 'weights' / 'best.pt'} written", highlight=False, soft_wrap=True)


@app.command("slim", cls=Command, epilog=examples("slim"))
def slim_command(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="A checkpoint of Ultralytics.")],
    settings: Settings = None,
    data: Annotated[Path | None, typer.Option(metavar="YAML", help="Ultralytics' data.yaml, with a val split.")] = None,
    target_latency: Annotated[
        str | None, typer.Option(metavar="0.6x|12ms", help="Come down to this predicted latency on --for.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Of both trainings together.")] = 100,
    target: Annotated[
        float | None, typer.Option(help="Share of the γ to bring to zero (default: 0.4 for 0.6x …).")
    ] = None,
    device: Device = "host",
    max_drop: Annotated[float | None, typer.Option(help="Largest loss of mAP50, else exit 4.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--out", help="Folder of the run (default: NAME-loop).")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Sparsify, compile to a latency, fine-tune and compile again. The same command once more goes on where it was."""
    settle(debug)
    if data is None or target_latency is None:
        missing = "--data data.yaml" if data is None else "--target-latency 0.6x"
        raise UsageError(f"there is no {missing.split()[0]}", hint=f"give {missing}")
    from onnxslim_yolo.sweep.slim_loop import LoopOptions, run_loop
    from onnxslim_yolo.sweep.slim_work import Commands
    from onnxslim_yolo.training.run_ultralytics import train_settings
    from onnxslim_yolo.training.slim_checkpoint import require_ultralytics

    folder = output or Path(f"{checkpoint.stem}-loop")
    options = LoopOptions(
        checkpoint, data, folder, target_latency, epochs, target, device, max_drop, train_settings(settings or [])
    )
    require_ultralytics()
    options.asked()  # a checkpoint that is not there is said before the data are read

    def say(stage: str) -> None:
        err.print(f"slim: {stage}", highlight=False, markup=False, soft_wrap=True)

    try:
        rows = run_loop(options, Commands(data, folder, lambda stage: None), say)
    finally:
        note = folder / "stages.csv"
        if note.is_file() and not as_json:
            out.print(note.read_text(encoding="utf-8"), highlight=False, markup=False, soft_wrap=True)
    if as_json:
        print_json(rows)
