"""What an Ultralytics checkpoint holds besides what runs: its yaml, its trainer's settings, and every tensor by name.

`read_checkpoint` rebuilds what is evaluated and leaves the rest out, the one-to-many towers of a YOLOv10 for one, which
only training uses. Whoever hands a network back to its trainer needs those, too. Nothing in the file is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.load.checkpoint import module_record
from onnxslim_yolo.load.rebuild_module import plain_value
from onnxslim_yolo.load.record_checks import is_module
from onnxslim_yolo.load.records import Record, TensorRecord
from onnxslim_yolo.load.tensors import TensorReader
from onnxslim_yolo.load.torch_archive import open_archive

if TYPE_CHECKING:
    from torch import Tensor

_MAX_MODULES = 50_000
_MAX_DEPTH = 64

HEAD_SETTINGS = ("_end2end", "max_det", "agnostic_nms")
"""What a head is told after it was built: which of two towers decides, and how many boxes it gives."""

HINT = "give a checkpoint that Ultralytics' trainer wrote"


@dataclass(frozen=True)
class RawModule:
    """A whole model as its checkpoint describes it.

    Attributes:
        name: its class, dotted: `ultralytics.nn.tasks.DetectionModel`.
        yaml: what it was built from.
        tensors: every parameter and buffer by its state_dict key, float32.
        attributes: further plain attributes of the model: names, nc, task …
        head: those of its last layer that its user may have set.
        heads: how many every attention in it has, by the module's path.
        settings: the trainer's arguments.
        facts: plain values of the file: date, version, license …
    """

    name: str
    yaml: dict[str, Any]
    tensors: dict[str, Tensor]
    attributes: dict[str, Any]
    head: dict[str, Any]
    heads: dict[str, int]
    settings: dict[str, Any]
    facts: dict[str, Any]


def read_raw_module(path: Path) -> RawModule:
    """Read a checkpoint of a whole model that was built from a yaml.

    Raises:
        InputError: unsafe, damaged, or of another kind.
    """
    archive = open_archive(path)
    record = module_record(archive.root)
    if record is None or not isinstance(record.attributes.get("yaml"), dict):
        raise InputError("holds no model with the yaml that it was built from", file=path, hint=HINT)
    root = archive.root if isinstance(archive.root, dict) else {}
    read = TensorReader(archive)
    try:
        return RawModule(
            name=record.name,
            yaml=plain_value(record.attributes["yaml"]),
            tensors={key: read(tensor) for key, tensor in _tensors(record)},
            attributes=_plain(record.attributes),
            head=_head(record),
            heads=_heads(record),
            settings=_plain(root.get("train_args")),
            facts=_plain({key: value for key, value in root.items() if not isinstance(value, dict)}),
        )
    except InputError as error:
        raise InputError(error.message, file=path, node=error.node, hint=error.hint) from error


def told_widths(path: Path) -> frozenset[str]:
    """The paths of a checkpoint's attentions that keep how wide their values are as an attribute (`all_head_dim`).

    They need not give back as many channels as they are given. Empty where the file holds no whole model.

    Raises:
        InputError: unsafe or damaged.
    """
    record = module_record(open_archive(path).root)
    parts = () if record is None else _modules(record)
    return frozenset(prefix.rstrip(".") for prefix, part in parts if type(part.attributes.get("all_head_dim")) is int)


def _tensors(root: Record) -> Iterator[tuple[str, TensorRecord]]:
    """Every tensor that a state_dict has, by its key."""
    for prefix, record in _modules(root):
        passing = record.attributes.get("_non_persistent_buffers_set")
        hidden = set(passing) if isinstance(passing, (set, list, tuple)) else set()
        for kind in ("_parameters", "_buffers"):
            held = record.attributes.get(kind)
            for name, tensor in held.items() if isinstance(held, dict) else ():
                if isinstance(tensor, TensorRecord) and isinstance(name, str) and name not in hidden:
                    yield f"{prefix}{name}", tensor


def _heads(root: Record) -> dict[str, int]:
    held = {prefix.rstrip("."): record.attributes.get("num_heads") for prefix, record in _modules(root)}
    return {path: heads for path, heads in held.items() if type(heads) is int and heads > 0}


def _modules(root: Record) -> Iterator[tuple[str, Record]]:
    """Every module with what its tensors' names begin with: nothing, or its path and a dot."""
    stack, seen = [("", root, 0)], 0
    while stack:
        prefix, record, depth = stack.pop()
        seen += 1
        if seen > _MAX_MODULES or depth > _MAX_DEPTH:
            raise InputError("the model is built to exhaust memory")
        yield prefix, record
        below = record.attributes.get("_modules")
        for name, child in below.items() if isinstance(below, dict) else ():
            if is_module(child):
                stack.append((f"{prefix}{name}.", child, depth + 1))


def _head(root: Record) -> dict[str, Any]:
    layers = root.attributes["_modules"].get("model")
    held = list(layers.attributes["_modules"].values()) if is_module(layers) else []
    own = held[-1].attributes if held and is_module(held[-1]) else {}
    return {name: own[name] for name in HEAD_SETTINGS if isinstance(own.get(name), (bool, int))}


def _plain(values: Any) -> dict[str, Any]:
    """The entries that are numbers, texts, and containers of such."""
    found: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        if not isinstance(key, str) or key.startswith("_") or key == "yaml" or isinstance(value, TensorRecord):
            continue
        try:
            found[key] = plain_value(value)
        except InputError:
            continue  # an object of the trainer's: no setting
    return found
