"""What a checkpoint holds: a module rebuilt from our own blocks, or a state_dict, and what is known about it.

YOLOv5 and its descendants, YOLOv6, YOLOv7 and Ultralytics save `{'model': …, 'ema': …}` with pickled modules; the
averaged weights (`ema`) are what they evaluate and export, so they come first. Nothing of the training repository is
imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.load.own_activations import own_activations
from onnxslim_yolo.load.pickle_names import warning
from onnxslim_yolo.load.rebuild_module import EXPORT_CALL, plain_value, rebuild_module, unwrapped
from onnxslim_yolo.load.record_checks import is_module, training_parts
from onnxslim_yolo.load.records import Record, TensorRecord
from onnxslim_yolo.load.tensors import TensorReader
from onnxslim_yolo.load.torch_archive import Archive, open_archive, zip_kind

if TYPE_CHECKING:
    from torch import Tensor, nn

_MODULE_KEYS = ("ema", "model", "net", "module")
_STATE_KEYS = ("state_dict", "model_state_dict", "ema_state_dict", "ema", "model", "net")
_MAX_STRIDE = 1 << 14
_TASKS = (("Segment", "segment"), ("Pose", "pose"), ("OBB", "obb"), ("Classify", "classify"))


@dataclass(frozen=True)
class Checkpoint:
    """What was read.

    Attributes:
        module: the model in eval mode and float32, or None if the file holds a state_dict only.
        state_dict: the file's tensors by name; the module's if there is one.
        names: class number → name; empty if the file does not say.
        stride: the largest stride in pixels, or None.
        imgsz: (height, width) it was trained at, or None.
        task: "detect", "segment", "pose", "obb" or "classify"; None for a bare state_dict.
        licence: what the file says about its licence, or None.
        metadata: small plain values of the file (epoch, date, version …).
        notes: what its user should know, a fused model for one.
        own: activations of its author's code, as `own_activations` finds them.
    """

    module: nn.Module | None
    state_dict: Mapping[str, Tensor]
    names: dict[int, str] = field(default_factory=dict)
    stride: int | None = None
    imgsz: tuple[int, int] | None = None
    task: str | None = None
    licence: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    own: Mapping[str, list[str]] = field(default_factory=dict)

    def onnx_metadata(self) -> dict[str, str]:
        """What Ultralytics' runtimes expect in an ONNX file's `metadata_props`, as far as it is known."""
        found = {
            "task": self.task,
            "stride": self.stride,
            "imgsz": None if self.imgsz is None else list(self.imgsz),
            "names": self.names or None,
            "license": self.licence,
            **{key: self.metadata.get(key) for key in ("version", "date", "author", "docs", "kpt_shape")},
        }
        return {key: str(value) for key, value in found.items() if value is not None}


def read_checkpoint(path: Path, *, model_yaml: Path | None = None, trust: bool = False) -> Checkpoint:
    """Read a `.pt`/`.pth` of any of the known families, or a `.safetensors` file. Nothing in it is run.

    Args:
        path: the file.
        model_yaml: how the layers of a bare state_dict are wired. Not needed, and not read, where the file holds a
            model; without it a state_dict's `module` is None.
        trust: also open TorchScript and `torch.export` archives, with torch's own loaders, which can run code.

    Raises:
        InputError: unsafe, damaged, of an unknown format, or with classes that are not known.
    """
    if path.suffix == ".safetensors":
        from onnxslim_yolo.load.state_dict import read_safetensors

        return _with_yaml(Checkpoint(module=None, state_dict=read_safetensors(path)), model_yaml)
    kind = zip_kind(path) if path.is_file() else "other"
    if kind in ("torchscript", "export"):
        return _read_program(path, kind, trust=trust)
    archive = open_archive(path)
    try:
        checkpoint = _from_tree(archive)
    except (InputError, UnsupportedError) as error:
        raise type(error)(error.message, file=path, node=error.node, hint=error.hint) from error
    except (MemoryError, RecursionError) as error:
        raise InputError("is built to exhaust memory", file=path) from error
    checkpoint = _with_yaml(checkpoint, model_yaml)
    return replace(checkpoint, notes=(*warning(archive.names), *checkpoint.notes))


def _with_yaml(checkpoint: Checkpoint, model_yaml: Path | None) -> Checkpoint:
    """A state_dict's module, built as the yaml says."""
    if checkpoint.module is not None or model_yaml is None:
        return checkpoint
    from onnxslim_yolo.load.model_yaml import build_from_yaml, head_facts

    module = build_from_yaml(model_yaml, checkpoint.state_dict)
    task, stride = head_facts(module)
    return replace(
        checkpoint, module=module, state_dict=module.state_dict(), task=task, stride=stride, notes=_notes(module)
    )


def _from_tree(archive: Archive) -> Checkpoint:
    root = archive.root
    record = module_record(root)
    read = TensorReader(archive)
    if record is not None:
        return _from_module(record, root if isinstance(root, dict) else {}, read)
    state = _state_dict(root)
    if state is None:
        held = sorted(str(key)[:80] for key in root)[:12] if isinstance(root, dict) else type(root).__name__
        raise InputError(
            f"holds neither a model nor a state_dict: {held}",
            hint="expected {'model': …}, {'state_dict': …} or a dictionary of tensors",
        )
    plain = root if isinstance(root, dict) else {}
    from onnxslim_yolo.load.state_dict import tidy_state_dict

    tensors = tidy_state_dict({name: read(tensor) for name, tensor in state.items()})
    return Checkpoint(module=None, state_dict=tensors, names=_names(plain.get("names")), metadata=_small(plain))


def module_record(root: Any) -> Record | None:
    """The whole model among what a checkpoint holds; the averaged one where there are two."""
    if is_module(root):
        return unwrapped(root)
    if not isinstance(root, dict):
        return None
    for key in _MODULE_KEYS:
        value = root.get(key)
        if isinstance(value, Record) and not is_module(value):
            value = value.attributes.get("ema")  # a pickled ModelEMA
        if isinstance(value, Record) and is_module(value):
            return unwrapped(value)
    return None


def _state_dict(root: Any) -> dict[str, TensorRecord] | None:
    if not isinstance(root, dict):
        return None
    for candidate in [root, *(root.get(key) for key in _STATE_KEYS)]:
        if isinstance(candidate, dict):
            tensors = {k: v for k, v in candidate.items() if isinstance(k, str) and isinstance(v, TensorRecord)}
            if tensors and len(tensors) == len(candidate):
                return tensors
    return None


def _from_module(record: Record, root: Mapping[Any, Any], read: TensorReader) -> Checkpoint:
    attributes = record.attributes
    module = rebuild_module(record, read)
    arguments = attributes.get("args")
    if isinstance(arguments, Record):
        arguments = arguments.attributes
    options = [each for each in (root.get("train_args"), arguments, root.get("opt")) if isinstance(each, dict)]
    sizes = [value for each in options for value in (each.get("imgsz"), each.get("img_size")) if value is not None]
    licence = root.get("license")
    return Checkpoint(
        module=module,
        state_dict=module.state_dict(),
        names=_names(attributes.get("names")),
        stride=_stride(attributes.get("stride"), read),
        imgsz=_image_size(sizes[0]) if sizes else None,
        task=_task(record),
        licence=licence if isinstance(licence, str) else None,
        metadata={**_small(root), **_small({"kpt_shape": attributes.get("kpt_shape"), "nc": attributes.get("nc")})},
        notes=(*_notes(module), *_note_training(record)),
        own=own_activations(record),
    )


def _note_training(record: Record) -> tuple[str, ...]:
    parts = training_parts(record)
    return (f"left out, since only training uses it: {', '.join(parts)}",) if parts else ()


def _notes(module: nn.Module) -> tuple[str, ...]:
    from torch import nn

    kinds = [type(part) for part in module.modules()]
    if nn.Conv2d in kinds and not {nn.BatchNorm2d, nn.GroupNorm} & set(kinds):
        return (
            "the checkpoint is fused: its BatchNorms were folded into the convolutions, so there is no γ to rank "
            "channels by; take the file the training wrote, not one that was fused or exported",
        )
    return ()


def _task(record: Record) -> str:
    layers = record.attributes["_modules"].get("model")
    held = list(layers.attributes["_modules"].values()) if is_module(layers) else []
    head = held[-1].short if held and isinstance(held[-1], Record) else ""
    return next((task for part, task in _TASKS if part in head), "detect")


def _names(value: Any) -> dict[int, str]:
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or len(value) > 100_000:
        return {}
    return {key: str(name)[:200] for key, name in value.items() if type(key) is int and isinstance(name, (str, int))}


def _stride(value: Any, read: TensorReader) -> int | None:
    if isinstance(value, TensorRecord):
        tensor = read(value)
        value = float(tensor.max()) if tensor.numel() and not tensor.is_complex() else 0.0
        return int(value) if 1 <= value <= _MAX_STRIDE else None
    return value if type(value) is int and 1 <= value <= _MAX_STRIDE else None


def _image_size(value: Any) -> tuple[int, int] | None:
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    if not sides or not all(type(side) is int and 0 < side <= 1 << 14 for side in sides):
        return None
    return (sides[0], sides[-1])


def _small(values: Mapping[Any, Any]) -> dict[str, Any]:
    """The entries that are short plain values; the rest of a checkpoint (optimiser, results) is of no interest."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str) or isinstance(value, (TensorRecord, dict)) or value is None:
            continue
        try:
            plain = plain_value(value)
        except InputError:
            continue
        if len(str(plain)) <= 500:
            found[key] = plain
    return found


def _read_program(path: Path, kind: str, *, trust: bool) -> Checkpoint:
    """A TorchScript or `torch.export` archive through torch's own loader."""
    if not trust:
        raise InputError(
            f"is a {'TorchScript' if kind == 'torchscript' else 'torch.export'} archive, and torch's loader for those "
            "can run code",
            file=path,
            hint=f"give --trust if you know where it comes from, or, from the original model: {EXPORT_CALL}",
        )
    try:
        module: Any = _scripted(path) if kind == "torchscript" else _exported(path)
    except Exception as error:  # both loaders raise anything
        raise InputError(f"torch cannot load it ({str(error).splitlines()[0][:200]})", file=path) from error
    module = module.float().eval() if kind == "torchscript" else module
    return Checkpoint(module=module, state_dict=module.state_dict())


def _scripted(path: Path) -> Any:
    import torch

    return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]


def _exported(path: Path) -> Any:
    import torch

    return torch.export.load(str(path)).module()
