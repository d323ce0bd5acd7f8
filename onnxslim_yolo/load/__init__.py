"""A file → Model. Only what a checkpoint needs imports torch, and only when a checkpoint is read."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import onnx
from onnx.helper import set_model_props

from onnxslim_yolo._version import install_line
from onnxslim_yolo.analysis.first_layers import format_of_first_layers
from onnxslim_yolo.analysis.limits import BY_WEIGHTS, Asked
from onnxslim_yolo.errors import InputError, OnnxSlimError
from onnxslim_yolo.files.atomic import require_file, sha256_of
from onnxslim_yolo.ir.input_format import INPUT_KEY, UNIT, InputFormat, input_format_of
from onnxslim_yolo.ir.model import Model, Source
from onnxslim_yolo.load.onnx import load_onnx, model_of, read_onnx, read_pair, refuse_unsupported
from onnxslim_yolo.load.other_size import fixed_size, made_for

__all__ = ["LoadOptions", "load", "load_onnx", "read_model", "read_onnx"]

Head = Literal["keep", "raw", "decoded"]
Towers = Literal["file", "one-to-one", "one-to-many"]


@dataclass(frozen=True)
class LoadOptions:
    """How a file is read.

    Attributes:
        imgsz: (height, width) in pixels; None: what the file says, else 640 for checkpoints.
        weights: Darknet weights, or the model yaml of a bare state_dict.
        towers: which of two sets runs, of a checkpoint that has two (YOLOv10, YOLO26); "file": as it is set.
        head: "raw" for the maps before decoding, of what is traced or built here; otherwise boxes.
        trust: load archives whose loading runs code (TorchScript, torch.export).
        input: what the network expects for a pixel; None: what the metadata or the first layers show, else [0, 1].
        asked: what a checkpoint's module may take, judged before it is run.
        referenced: the author's own export of the same weights is what everything is compared with.
    """

    imgsz: tuple[int, int] | None = None
    weights: Path | None = None
    head: Head = "keep"
    trust: bool = False
    input: InputFormat | None = None
    asked: Asked = BY_WEIGHTS
    referenced: bool = False
    towers: Towers = "file"


CHECKPOINTS = (".pt", ".pth", ".ckpt", ".safetensors", ".pt2", ".torchscript")


def load(
    path: str | Path,
    *,
    imgsz: int | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    trust: bool = False,
) -> Model:
    """Read a model (ONNX, PyTorch checkpoint, Darknet cfg) and bring it into canonical form.

    Args:
        path: the file.
        imgsz: the input's size in pixels, one number or (height, width), where the file leaves it open.
        weights: Darknet weights where they do not lie beside the cfg.
        trust: allow archives whose loading runs code.

    Raises:
        InputError: the file is broken, unsafe or of an unknown kind.
        UnsupportedError: the graph has something that cannot be compiled.
    """
    from onnxslim_yolo.passes import Canonicalise, ShuffleToGather

    size = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    options = LoadOptions(imgsz=size, weights=None if weights is None else Path(weights), trust=trust)
    model, _ = read_model(Path(path), options)
    try:
        for step in (Canonicalise(*(size or (0, 0))), ShuffleToGather(), Canonicalise()):
            step.run(model)
    except OnnxSlimError:
        raise
    except Exception as error:
        # Arithmetic on shapes and axes that no operator takes: what the readers' checks let through ends here.
        raise InputError(
            f"the graph contradicts itself: {type(error).__name__}: {error!s:.300}",
            file=path,
            hint="run it in onnxruntime first; if that works, this is a bug of ours: report it",
        ) from error
    return model


def read_model(path: Path, options: LoadOptions) -> tuple[Model, onnx.ModelProto]:
    """Read any supported file as it is: the Model, and the proto that is the reference for everything after.

    Where pixels are not fed as values in [0, 1], the metadata of both say how (`input_format.INPUT_KEY`).

    Raises:
        InputError, UnsupportedError: as `load`.
    """
    model, proto = _read_model(path, options)
    found = format_of(model, options.input)
    if found != UNIT:
        model.metadata[INPUT_KEY] = str(found)
        set_model_props(proto, model.metadata)
    return model, proto


def format_of(model: Model, given: InputFormat | None = None) -> InputFormat:
    """What a network is fed: as given, as its metadata say, as its first layers show (then a note says so), or
    values in [0, 1]."""
    known = given or input_format_of(model.metadata)
    if known is not None:
        return known
    shown = format_of_first_layers(model.graph)
    if shown is None:
        return UNIT
    if shown[0] != UNIT:
        model.note(f"input: {shown[0]}, for {shown[1]}; --input says otherwise")
    return shown[0]


def _read_model(path: Path, options: LoadOptions) -> tuple[Model, onnx.ModelProto]:
    if not path.exists():
        raise InputError("no such file", file=path)
    for each in (path, options.weights):
        if each is not None:
            require_file(each)
    suffix = path.suffix.lower()
    if options.weights is not None and suffix not in (".cfg", ".weights") and not options.weights.exists():
        raise InputError("no such file", file=options.weights, hint="--weights names what belongs to the model")
    if options.towers != "file" and suffix not in CHECKPOINTS:
        hint = "compile the checkpoint; here leave --towers out"
        raise InputError("--towers chooses of a checkpoint's; an exported file has those it has", file=path, hint=hint)
    if suffix == ".cfg" or suffix == ".weights":
        return _from_proto(_darknet(path, options), path)
    if suffix in CHECKPOINTS:
        proto, notes = _checkpoint(path, options)
        model, proto = _from_proto(proto, path)
        model.notes.extend(notes)
        return model, proto
    proto, reference = read_pair(path)
    source = Source(path.name, sha256_of(path), path.stat().st_size)
    model = model_of(proto, source, path)
    if options.imgsz is None or fixed_size(model.graph) in (None, options.imgsz):
        return model, reference
    made, note = made_for(model, options.imgsz, raw=options.head == "raw", path=path, asked=options.asked)
    model = model_of(made, source, path)
    model.note(note)
    return model, made


def _from_proto(proto: onnx.ModelProto, path: Path) -> tuple[Model, onnx.ModelProto]:
    refuse_unsupported(proto, path)
    source = Source(path.name, sha256_of(path), path.stat().st_size)
    return model_of(proto, source, path), proto


def _darknet(path: Path, options: LoadOptions) -> onnx.ModelProto:
    from onnxslim_yolo.load.darknet import load_darknet

    head = "raw" if options.head == "raw" else "decoded"
    if path.suffix.lower() == ".weights":
        cfg = path.with_suffix(".cfg")
        if not cfg.exists():
            raise InputError(
                "Darknet weights need their cfg", file=path, hint=f"give {cfg.name} beside it, or name the cfg"
            )
        return load_darknet(cfg, path, imgsz=options.imgsz, head=head)
    return load_darknet(path, options.weights, imgsz=options.imgsz, head=head)


def _checkpoint(path: Path, options: LoadOptions) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    if "torch" not in sys.modules and find_spec("torch") is None:
        raise InputError(
            "reading a PyTorch checkpoint needs torch, which is not installed",
            file=path,
            hint=f"{install_line('torch')}; or compile an ONNX export that keeps its BatchNorms",
        )
    from onnxslim_yolo.load.trace_apart import is_apart, trace_apart

    head = "raw" if options.head == "raw" else "decoded"
    if is_apart():
        trace = trace_apart
    else:
        from onnxslim_yolo.load.trace_checkpoint import trace_checkpoint as trace
    return trace(
        path,
        imgsz=options.imgsz,
        head=head,
        weights=options.weights,
        trust=options.trust,
        asked=options.asked,
        referenced=options.referenced,
        towers=options.towers,
    )


class _Callable(ModuleType):
    """`onnxslim_yolo.load` is this package once imported, and the public function before that: be both."""

    def __call__(self, *arguments: Any, **options: Any) -> Model:
        return load(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
