"""A checkpoint → an ONNX graph: read it, choose the head, trace it, and put its metadata in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from onnxslim_yolo.analysis.limits import BY_WEIGHTS, Asked
from onnxslim_yolo.errors import InputError, OnnxSlimError
from onnxslim_yolo.heads.spec import RANKED_KEY
from onnxslim_yolo.load.account import account
from onnxslim_yolo.load.checkpoint import Checkpoint, read_checkpoint
from onnxslim_yolo.load.dry_run import check_sizes
from onnxslim_yolo.load.own_activations import note_or_refuse
from onnxslim_yolo.load.saved_module import is_saved_module
from onnxslim_yolo.load.trace import Traced, run_exporter
from onnxslim_yolo.runtime.progress import tell

if TYPE_CHECKING:
    from torch import nn

DEFAULT_SIZE = 640

STEPS = 5
"""Of tracing, as they are told to whoever looks: the last, running the graph, is the caller's."""


def trace_checkpoint(
    path: Path,
    *,
    imgsz: tuple[int, int] | None = None,
    head: str = "decoded",
    weights: Path | None = None,
    trust: bool = False,
    dynamic: bool = False,
    asked: Asked = BY_WEIGHTS,
    referenced: bool = False,
    towers: str = "file",
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Trace a checkpoint with its BatchNorms kept. Returns the graph and what its user should know.

    Args:
        path: the checkpoint.
        imgsz: (height, width) in pixels; None: what the checkpoint says, else 640.
        head: "decoded" or "raw".
        weights: the model yaml of a bare state_dict.
        trust: open archives whose loading runs code.
        dynamic: keep batch, height and width symbolic.
        asked: what running it may take, judged before it is run.
        referenced: the result is compared with the author's own export, so activations of unknown code may be guessed.
        towers: "one-to-one" or "one-to-many" of a head that has both; "file": as it is set.

    Raises:
        InputError: the checkpoint is unsafe, broken, or of unknown classes.
        VerificationError: the traced graph does not compute what the module computes.
    """
    if is_saved_module(path):
        from onnxslim_yolo.load.graph_module import load_module, module_to_onnx

        with _about(path):
            module = load_module(path)
            _set_towers(module, towers)
            return module_to_onnx(module), ()
    traced, notes = trace_unchecked(
        path,
        imgsz=imgsz,
        head=head,
        weights=weights,
        trust=trust,
        dynamic=dynamic,
        asked=asked,
        referenced=referenced,
        towers=towers,
    )
    with _about(path):
        traced.check()
    return traced.proto, notes


def trace_unchecked(
    path: Path,
    *,
    imgsz: tuple[int, int] | None = None,
    head: str = "decoded",
    weights: Path | None = None,
    trust: bool = False,
    dynamic: bool = False,
    asked: Asked = BY_WEIGHTS,
    referenced: bool = False,
    towers: str = "file",
) -> tuple[Traced, tuple[str, ...]]:
    """As `trace_checkpoint`, but what the module computes is handed on, to be compared by somebody without torch."""
    tell("the file", 0, STEPS)
    import torch

    checkpoint = read_checkpoint(path, model_yaml=weights, trust=trust)
    if checkpoint.module is None:
        raise InputError(
            "holds a state_dict only: it does not say how the layers are wired",
            file=path,
            hint="give the model's yaml with --weights MODEL.yaml",
        )
    module = checkpoint.module
    with _about(path):
        guessed = note_or_refuse(checkpoint.own, referenced=referenced)
    _set_head(module, head, path)
    with _about(path):
        _set_towers(module, towers)
    height, width = imgsz or checkpoint.imgsz or (DEFAULT_SIZE, DEFAULT_SIZE)
    _check_stride(checkpoint, height, width, path)
    ours = not isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule))  # they take no other device
    tell("its sizes", 1, STEPS)
    with _about(path):
        called = check_sizes(module, (1, 3, height, width), asked) if ours else frozenset()
    example = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    tell("its graph", 2, STEPS)
    with _about(path):
        traced = run_exporter(module, example, dynamic=dynamic)
        proto = traced.proto
        tell("its parts", 3, STEPS)
        notes = account(module, proto, called, (1, 3, height, width)) if ours else ()
    metadata = {entry.key: entry.value for entry in proto.metadata_props} | checkpoint.onnx_metadata()
    if head != "raw" and any(getattr(part, "one_to_one", False) for part in module.modules()):
        metadata[RANKED_KEY] = "True"
    onnx.helper.set_model_props(proto, metadata | {"imgsz": str([height, width])})
    tell("its outputs", 4, STEPS)
    return traced, (*checkpoint.notes, *guessed, *notes)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Errors name the file."""
    try:
        yield
    except OnnxSlimError as error:
        raise type(error)(error.message, file=path, node=error.node, hint=error.hint) from error


def _check_stride(checkpoint: Checkpoint, height: int, width: int, path: Path) -> None:
    stride = checkpoint.stride or 1
    if height % stride or width % stride:
        up = [-(-side // stride) * stride for side in (height, width)]
        raise InputError(
            f"the image size {height}x{width} is no multiple of the largest stride, {stride}",
            file=path,
            hint=f"--imgsz {up[0]},{up[1]}",
        )


def _set_head(module: object, head: str, path: Path) -> None:
    """Tell a detection head whether to decode; other tasks have no such choice."""
    import torch

    layers = getattr(module, "model", None)
    last = layers[-1] if isinstance(layers, torch.nn.Sequential) and len(layers) else None
    if last is not None and isinstance(getattr(last, "output", None), str):
        last.output = head  # type: ignore[assignment]
    elif head == "raw":
        raise InputError("its last layer is no detection head, so there are no raw maps", file=path)


def _set_towers(module: nn.Module, towers: str) -> None:
    """Tell a detection head which of its two sets of towers runs. Raises InputError where it has not two."""
    if towers == "file":
        return
    heads = [part for part in module.modules() if getattr(part, "one2one_cv2", None) is not None]
    if not heads or any(head.cv2 is None for head in heads):
        held = "its head has the one-to-one towers alone" if heads else "its head has no one-to-one towers"
        hint = "leave --towers out; YOLOv10 and YOLO26 have both, as long as they are not fused"
        raise InputError(f"--towers {towers} chooses of two sets, and {held}", hint=hint)
    for head in heads:
        head._end2end = towers == "one-to-one"  # type: ignore[assignment]
        head.settle()  # type: ignore[operator]
