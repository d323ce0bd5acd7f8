"""The commands that train, in the Ultralytics that is installed: sparsify, finetune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxslim_yolo.cli.help import Command, examples
from onnxslim_yolo.cli.shared import Debug, app, out, settle

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
