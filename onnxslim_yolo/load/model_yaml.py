"""A state_dict and a model yaml → a module: the yaml says how layers are wired, the state_dict how wide they are.

The layers are made from the yaml (`yaml_rows`), then every convolution, BatchNorm and linear layer is made again from
the state_dict's tensors. Every entry of the state_dict has to be used, and every tensor of the model has to be there.
BatchNorm's ε is 1e-3, as YOLOv5 and Ultralytics train detectors, and 1e-5 in classifiers; a state_dict does not say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.yaml import read_yaml
from onnxslim_yolo.load.torch_leaves import LEAVES, build_leaf
from onnxslim_yolo.load.yaml_rows import HEADS, ROWS, STAGES, Row

if TYPE_CHECKING:
    from torch import Tensor, nn

_PROBE = 256
_LARGEST_MULTIPLE = 10
"""Of depth and width. The largest published ones are 1.5."""
_UNLIMITED = 1e9
"""A largest width that no network reaches."""
_EPSILON = {"Classify": 1e-5}
_USUAL_EPSILON = 1e-3
_ACTIVATIONS = {
    **dict.fromkeys(("SiLU", "ReLU", "ReLU6", "Hardswish", "Mish", "GELU", "Sigmoid"), ""),
    "LeakyReLU": "negative_slope",
    "ELU": "alpha",
}
"""Activations a yaml may ask for, and the attribute its number is."""
_NUMBER = r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_ACTIVATION = re.compile(rf"(?:torch\.)?nn\.(\w+)\(\s*({_NUMBER})?\s*,?\s*(?:inplace\s*=\s*\w+)?\s*\)")

_ATTRIBUTES = ("stride", "padding", "output_padding", "dilation", "groups", "padding_mode", "num_groups")


def build_from_yaml(path: Path, state: Mapping[str, Tensor]) -> nn.Module:
    """The module a yaml describes, with the state_dict's weights, in eval mode.

    Args:
        path: YOLOv5's or Ultralytics' model yaml. Of its `scales`, the one is taken that the file's name ends with
            (`yolov8n.yaml` → n), else the key `scale`, else the first.
        state: keys `model.<i>.…`, or `<i>.…`.

    Raises:
        InputError: the yaml is damaged, names unknown modules, or does not fit the state_dict.
    """
    document = read_yaml(path, "model yaml", "'backbone' and 'head'")
    rows = [*_rows(document, "backbone", path), *_rows(document, "head", path)]
    unknown = sorted({str(row[2]) for row in rows} - set(ROWS))
    if unknown:
        raise InputError(f"modules that cannot be built from a yaml: {', '.join(unknown)}", file=path)
    prefixed = any(key.startswith("model.") for key in state)
    tensors = {key.removeprefix("model.") if prefixed else key: value for key, value in state.items()}
    try:
        return _assemble(rows, document, tensors, *_scale(document, path))
    except InputError as error:
        raise InputError(error.message, file=path, node=error.node, hint=error.hint) from error


def _assemble(
    rows: Sequence[list[Any]],
    document: Mapping[str, Any],
    tensors: dict[str, Tensor],
    depth: float,
    width: float,
    limit: float,
) -> nn.Module:
    from onnxslim_yolo.models.container import LayeredModel

    def widen(c: int) -> int:
        return max(int(-(-min(c, limit) * width // 8)), 1) * 8

    epsilon = _EPSILON.get(rows[-1][2], _USUAL_EPSILON)
    layers: list[nn.Module] = []
    channels: list[int] = []
    unused = set(tensors)
    for index, (source, number, name, arguments) in enumerate(rows):
        sources = source if isinstance(source, list) else [source]
        prefix = f"{index}."
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        repeats = max(round(number * depth), 1) if number > 1 else 1
        if repeats > max(len(own), 1):
            message = f"a {name} is to be there {repeats} times, but the state_dict has {len(own)} entries for it"
            raise InputError(message, node=f"model.{index}", hint="is it the yaml of this model, and its scale?")
        row = Row(
            inputs=tuple(_channels_at(channels, each, document) for each in sources),
            args=[_argument(each, document) for each in arguments],
            repeats=repeats,
            width=widen,
            tensors=own,
            options=document,
            stride=_strides(layers, sources) if name in HEADS and name != "Classify" else (),
        )
        layer = _layer(name, row, index)
        _set_activation(layer, document.get("activation"))
        used = _fit(layer, own, index, epsilon)
        if used != set(own):
            extra = ", ".join(sorted(set(own) - used)[:5])
            raise InputError(f"the state_dict has entries that a {name} has not: {extra}", node=f"model.{index}")
        unused -= {f"{prefix}{key}" for key in used}
        layer.f = source
        layers.append(layer)
        channels.append(_channels_out(name, row))
    if unused:
        raise InputError(f"{len(unused)} entries of the state_dict fit no layer: {', '.join(sorted(unused)[:5])}")
    return LayeredModel(layers).eval()


def _layer(name: str, row: Row, index: int) -> nn.Module:
    from torch import nn

    try:
        if row.repeats == 1 or name in STAGES:
            return ROWS[name](row)
        from dataclasses import replace

        first = ROWS[name](row)
        rest = [ROWS[name](replace(row, inputs=(row.c2,))) for _ in range(row.repeats - 1)]
        return nn.Sequential(first, *rest)
    except (TypeError, ValueError, IndexError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{name}{row.args} cannot be built ({error})", node=f"model.{index}") from error


def _set_activation(layer: nn.Module, spelt: Any) -> None:
    """Put the yaml's `activation: nn.LeakyReLU(0.1)` in the place of SiLU."""
    from torch import nn

    if spelt is None:
        return
    text = str(spelt)
    match = _ACTIVATION.fullmatch(text) if len(text) <= 100 else None  # it takes the length's cube where none fits
    kind, number = match.groups() if match else (text[:40], None)
    if kind not in _ACTIVATIONS or (number is not None and not _ACTIVATIONS[kind]):
        raise InputError(f"'activation: {kind}' is not supported; known are {', '.join(sorted(_ACTIVATIONS))}")
    for path, module in list(layer.named_modules()):
        if isinstance(module, nn.SiLU):
            attributes = {} if number is None else {_ACTIVATIONS[kind]: float(number)}
            _replace(layer, path, build_leaf(kind, attributes, {}))


def _fit(layer: nn.Module, tensors: Mapping[str, Tensor], index: int, epsilon: float) -> set[str]:
    """Remake a layer's leaves from its tensors. Returns the tensors' names that were used."""
    from torch import nn

    used: set[str] = set()
    for path, module in list(layer.named_modules()):
        names = [*module._parameters, *module._buffers]
        if not names:
            continue
        held = {name: tensors.get(f"{path}.{name}".lstrip(".")) for name in names}
        missing = [name for name in names if held[name] is None and getattr(module, name) is not None]
        if set(missing) - {"num_batches_tracked"}:
            place = f"model.{index}.{path}.{missing[0]}".replace("..", ".")
            raise InputError(f"the state_dict lacks '{place}'", hint="is it the yaml of this model, and its scale?")
        used |= {f"{path}.{name}".lstrip(".") for name in names if held[name] is not None}
        kind = type(module).__name__
        if kind in LEAVES:
            _replace(layer, path, build_leaf(kind, _leaf_attributes(module, held, epsilon), held))
            continue
        for name, tensor in held.items():
            if tensor is not None:
                setattr(module, name, nn.Parameter(tensor) if name in module._parameters else tensor)
    for module in layer.modules():
        if callable(settle := getattr(module, "settle", None)):
            settle()
    return used


def _leaf_attributes(module: nn.Module, held: Mapping[str, Tensor | None], epsilon: float) -> dict[str, Any]:
    attributes = {name: getattr(module, name) for name in _ATTRIBUTES if hasattr(module, name)}
    weight = held.get("weight")
    size = getattr(module, "kernel_size", None)
    if weight is not None and size is not None and tuple(weight.shape[2:]) != tuple(size):
        raise InputError(f"a kernel should be {size} by the yaml and is {tuple(weight.shape[2:])} in the state_dict")
    depthwise = getattr(module, "groups", 1) == getattr(module, "out_channels", 0)
    if depthwise and weight is not None and weight.dim() == 4 and weight.shape[1] == 1:
        attributes["groups"] = int(weight.shape[0])
    if type(module).__name__ == "BatchNorm2d":
        attributes["eps"] = epsilon
    return attributes


def _replace(layer: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    layer.get_submodule(parent).register_module(name, module)


def _strides(layers: Sequence[nn.Module], sources: Sequence[int]) -> tuple[float, ...]:
    """Pixels per cell at the inputs of the next layer, measured on a blank image."""
    import torch

    from onnxslim_yolo.models.container import LayeredModel

    channels = next(p.shape[1] for p in layers[0].parameters() if p.dim() == 4)
    channels = 3 if channels == 12 else channels  # Focus stacks four pixels
    sizes: list[float] = []
    for source in sources:
        tap = torch.nn.Identity()
        tap.f = source if source >= 0 else len(layers) + source  # type: ignore[assignment]
        try:
            with torch.no_grad():
                y = LayeredModel([*layers, tap]).eval()(torch.zeros(1, channels, _PROBE, _PROBE))
        except (RuntimeError, IndexError, TypeError) as error:
            raise InputError(f"the layers' widths do not fit each other ({str(error).splitlines()[0]})") from error
        sizes.append(_PROBE / y.shape[-1])
    return tuple(sizes)


def _channels_at(channels: Sequence[int], source: Any, document: Mapping[str, Any]) -> int:
    if not isinstance(source, int) or not -len(channels) - 1 <= source < len(channels):
        raise InputError(f"a layer takes its input from {source!r}; {len(channels)} layers stand before it")
    index = source + len(channels) if source < 0 else source
    if index >= 0:
        return channels[index]
    given = document.get("ch", document.get("channels", 3))
    if type(given) is not int or not 0 < given <= 1 << 14:
        raise InputError(f"the image has {str(given)[:60]!r} channels")
    return given


def _channels_out(name: str, row: Row) -> int:
    if name == "Concat":
        return sum(row.inputs)
    if name in HEADS or name.startswith("nn."):
        return row.c1
    return row.c2


def _argument(value: Any, document: Mapping[str, Any]) -> Any:
    if not isinstance(value, str):
        return value
    named = {"None": None, "True": True, "False": False}
    return named[value] if value in named else document.get(value, value)


def _scale(document: Mapping[str, Any], path: Path) -> tuple[float, float, float]:
    """Depth, width and the largest nominal width."""
    scales = document.get("scales")
    if not isinstance(scales, dict) or not scales:
        multiples = (document.get("depth_multiple", 1.0), document.get("width_multiple", 1.0))
        return _multiple(multiples[0], path), _multiple(multiples[1], path), float("inf")
    stem = path.stem.split("-")[0]
    chosen = stem[-1:] if stem[-1:] in scales else str(document.get("scale", next(iter(scales))))
    values = scales.get(chosen)
    if not isinstance(values, list) or len(values) != 3:
        raise InputError(f"scale '{chosen}' is no [depth, width, largest]: {str(values)[:60]}", file=path)
    if not isinstance(values[2], (int, float)) or not values[2] > 0:
        raise InputError(f"scale '{chosen}': the largest width is {str(values[2])[:60]!r}", file=path)
    return _multiple(values[0], path), _multiple(values[1], path), float(min(values[2], _UNLIMITED))


def _multiple(value: Any, path: Path) -> float:
    if not isinstance(value, (int, float)) or not 0 < value <= _LARGEST_MULTIPLE:
        raise InputError(f"depth or width is multiplied by {str(value)[:60]!r}, which is no number above 0", file=path)
    return float(value)


def _rows(document: Mapping[str, Any], key: str, path: Path) -> list[list[Any]]:
    rows = document.get(key)
    well_formed: Callable[[Any], bool] = lambda row: (  # noqa: E731
        isinstance(row, list) and len(row) == 4 and type(row[1]) is int and row[1] <= 1000 and isinstance(row[3], list)
    )
    if not isinstance(rows, list) or len(rows) > 1000 or not all(map(well_formed, rows)):
        raise InputError(f"'{key}' is no list of [from, number, module, args]", file=path)
    return rows


def head_facts(module: nn.Module) -> tuple[str, int]:
    """The task of a built model's head, and its largest stride in pixels (a classifier's is 1)."""
    head: Any = list(module.get_submodule("model").children())[-1]
    tasks = {"Segment": "segment", "Pose": "pose", "OBB": "obb", "Classify": "classify"}
    task = tasks.get(type(head).__name__, "segment" if getattr(head, "nm", 0) else "detect")
    strides = getattr(head, "stride", ()) or (1,)
    return task, int(max(strides))
