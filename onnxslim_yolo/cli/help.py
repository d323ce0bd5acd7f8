"""What helps whoever types a command: examples below each `--help`, and values that the shell completes."""

from __future__ import annotations

from typing import Any

import typer

EXAMPLES = {
    "compile": (
        "onnxslim-yolo compile yolov8n.onnx --prune 0.5",
        "onnxslim-yolo compile best.pt --prune 0.7 --snap pow2 -o out",
        "onnxslim-yolo compile yolov4-tiny.cfg --emit ncnn --head raw",
        "onnxslim-yolo compile model.onnx --target-macs 0.8x --calib images --compensate reconstruct",
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
        "onnxslim-yolo profile yolov5n.onnx yolov8n.onnx --target onnxruntime -o board.json",
    ),
    "diff": (
        "onnxslim-yolo diff old.report.json new.report.json",
        'onnxslim-yolo diff old.report.json new.report.json >> "$GITHUB_STEP_SUMMARY"',
    ),
    "apply-plan": ("onnxslim-yolo apply-plan best-slim/best.plan.json best.pt -o slim-weights.pt",),
    "sweep": (
        "onnxslim-yolo sweep best.pt --prune 0.2,0.4,0.6 --snap none,auto",
        "onnxslim-yolo sweep best.pt --data data.yaml --measure --against yolov5n.pt --jobs 4",
    ),
}
"""Command → what one may type. Lines are printed as they are: none may look like rich's markup."""


def examples(command: str) -> str:
    """A command's examples, as the text below its help."""
    return "\n\n".join(("[bold]Examples[/]", *EXAMPLES[command]))


def choice(values: str, text: str) -> Any:
    """An option of one of several words, which the shell completes.

    Args:
        values: as shown, "none|pow2|N": what is in capitals stands for something else, and is not offered.
        text: its help.
    """
    words = [word for word in values.split("|") if not word.isupper()]

    def matching(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return typer.Option(metavar=values, help=text, autocompletion=matching)
