"""What helps whoever types a command: examples below each `--help`, and values that the shell completes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from onnxslim_yolo.cli.plain_values import read_plainly
from onnxslim_yolo.options import PANELS, ROWS

EXAMPLES = {
    "compile": (
        "onnxslim-yolo compile yolov8n.onnx --prune 0.5",
        "onnxslim-yolo compile best.pt --prune 0.7 --snap pow2 -o out",
        "onnxslim-yolo compile best.pt --prune 0.5 --for pi5",
        "onnxslim-yolo compile yolov4-tiny.cfg --emit ncnn --head raw",
        "onnxslim-yolo compile model.onnx --target-macs 0.8x --calib images --compensate reconstruct",
        "onnxslim-yolo compile model.onnx --quantize int8 --calib images --emit onnx",
        "onnxslim-yolo compile model.onnx --prune 0.5 --budget budget.toml --json > report.json",
    ),
    "passes": ("onnxslim-yolo passes", "onnxslim-yolo passes --json"),
    "trace": (
        "onnxslim-yolo trace best.pt",
        "onnxslim-yolo trace best.pt --imgsz 480,640 --head raw -o maps.onnx",
        "onnxslim-yolo trace yolov4-tiny.cfg --weights yolov4-tiny.weights",
    ),
    "inspect": (
        "onnxslim-yolo inspect best.pt",
        "onnxslim-yolo inspect model.onnx --html gammas.html",
        "onnxslim-yolo inspect model_ncnn_model --json",
    ),
    "verify": (
        "onnxslim-yolo verify model.onnx exported-again.onnx",
        "onnxslim-yolo verify model.onnx model_ncnn_model --tolerance 0.02",
    ),
    "eval": (
        "onnxslim-yolo eval model-slim/model.onnx --data data.yaml",
        "onnxslim-yolo eval model-slim/model_ncnn_model --data data.yaml --json",
    ),
    "bench": (
        "onnxslim-yolo bench model.onnx model-slim/model.onnx",
        "onnxslim-yolo bench a_ncnn_model b_ncnn_model --threads 4 --rounds 41",
        "onnxslim-yolo bench model.onnx --layers",
    ),
    "profile": (
        "onnxslim-yolo profile model.onnx",
        "onnxslim-yolo profile model.onnx --int8 -o here.json",
        "onnxslim-yolo profile model.onnx --run-on 'ssh pi@raspberrypi.local python3 -' -o pi.json",
        "onnxslim-yolo profile yolov5n.onnx yolov8n.onnx --target onnxruntime -o board.json",
    ),
    "advise": (
        "onnxslim-yolo advise model.onnx --calib photographs --target-latency 0.7x",
        "onnxslim-yolo advise best.pt --imgsz 320 --calib photographs --data data.yaml --target-latency 0.6x --for pi5",
    ),
    "diff": (
        "onnxslim-yolo diff old.report.json new.report.json",
        'onnxslim-yolo diff old.report.json new.report.json >> "$GITHUB_STEP_SUMMARY"',
    ),
    "apply-plan": (
        "onnxslim-yolo apply-plan best-slim/best.plan.json best.pt -o slim-weights.pt",
        "onnxslim-yolo apply-plan best-slim/best.plan.json best.pt --as ultralytics -o slim.pt",
    ),
    "sparsify": (
        "onnxslim-yolo sparsify best.pt --data data.yaml --epochs 50 --target 0.6 imgsz=320 batch=8",
        "onnxslim-yolo sparsify runs/detect/train --resume",
    ),
    "finetune": (
        "onnxslim-yolo finetune best-slim/best-slim.pt --data data.yaml --epochs 50 lr0=0.001",
        "onnxslim-yolo finetune best-slim.pt --data data.yaml --teacher best.pt",
    ),
    "slim": (
        "onnxslim-yolo slim best.pt --data data.yaml --target-latency 0.6x --epochs 100 imgsz=320",
        "onnxslim-yolo slim best.pt --data data.yaml --target-latency 0.5x --for pi5 --max-drop 0.02 -o small",
    ),
    "distil": (
        "onnxslim-yolo distil best-slim/best.pt --teacher best.pt --images photographs",
        "onnxslim-yolo distil model-slim/model.onnx --teacher model.onnx --images data.yaml --epochs 30 -o out",
    ),
    "sweep": (
        "onnxslim-yolo sweep best.pt --prune 0.2,0.4,0.6 --snap none,auto",
        "onnxslim-yolo sweep best.pt --data data.yaml --measure --against yolov5n.pt --jobs 4",
    ),
}
"""Command → what one may type. Lines are printed as they are: none may look like rich's markup."""


WORDS = "Words of the output (group, wanted, kept, spread, blind, before slice …): docs/pages/glossary.md"

REST = "How it runs"


class Command(TyperCommand):
    """A command whose help names no type where a flag takes none, and shows `compile`'s options in groups."""

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        options = [each for each in self.params if isinstance(each, TyperOption)]
        _untyped(options)
        if self.name == "compile":
            panels = {row.parameter: row.told.panel or REST for row in ROWS}
            order = [*PANELS, REST]
            for option in options:
                option.rich_help_panel = panels.get(option.name or "", REST)
            self.params.sort(key=lambda each: order.index(getattr(each, "rich_help_panel", None) or order[0]))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what was typed."""
        read_plainly(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def get_help_option(self, ctx: Any) -> Any:
        """`--help`, which is a flag as well."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""
            if self.name == "compile":
                option.rich_help_panel = REST
        return option


class Group(TyperGroup):
    """The command of commands, whose flags name no type either."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what was typed before the command."""
        read_plainly(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """All of them, `--help` and those that install completion too."""
        found = super().get_params(ctx)
        _untyped(found)
        return found


def _untyped(parameters: Iterable[Any]) -> None:
    """A flag takes nothing, so no type stands behind it."""
    for option in parameters:
        if isinstance(option, TyperOption) and option.is_flag and option.metavar is None:
            option.metavar = ""


def examples(command: str) -> str:
    """Where words are explained, and a command's examples, as the text below its help."""
    return "\n\n".join((WORDS, "[bold]Examples[/]", *EXAMPLES[command]))


def choice(values: str | None, text: str, *flags: str) -> Any:
    """An option of one of several words, which the shell completes.

    Args:
        values: as shown, "none|pow2|N": what is in capitals stands for something else, and is not offered.
        text: its help. flags: how it is spelt, where the parameter's name does not say it.
    """
    words = [word for word in (values or "").split("|") if (word.islower() and word.isidentifier()) or "-" in word]

    def matching(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return typer.Option(*flags, metavar=values, help=text, autocompletion=matching)
