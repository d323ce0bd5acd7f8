"""A channel plan applied to a state_dict: what was kept in the graph, kept in anyone's own checkpoint.

    state = apply_plan(json.loads(Path("best.plan.json").read_text()), torch.load("best-weights.pt"))

The user's module, built with the new widths, takes the result with `load_state_dict`. Works on whatever has `shape` and
`take`-like indexing: numpy arrays and torch tensors alike, without importing torch.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import require_file, write_atomically
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.pruning.plan import FORMAT, READABLE
from onnxslim_yolo.pruning.removed import module_of
from onnxslim_yolo.training.plan_fit import HINT, check_after, check_before, shapes_of

_FOLLOWERS = ("bias", "running_mean", "running_var")


def apply_plan(plan: Mapping[str, Any], state_dict: Mapping[str, Any], *, file: object = None) -> dict[str, Any]:
    """Cut a state_dict's tensors down to the channels that a plan keeps.

    Args:
        plan: the content of NAME.plan.json. Its `keep` names tensors, axes and the indices that stay; for the input
            axis of a grouped convolution there may be one list per group. Layers that it names under `removed` are
            left out: the module has `nn.Identity` in their place.
        state_dict: name → tensor (torch or numpy). Left alone.
        file: named in error messages.

    Returns:
        A new dictionary in the same order; tensors that the plan does not name are the same objects. A BatchNorm's
        bias and running statistics follow its weight where the graph does not know them.

    Raises:
        InputError: the plan is no plan, or does not fit: a tensor is missing, an axis or an index is out of range, or a
            width is not the graph's, before or after.
    """
    keep, shapes = _checked(plan, file), shapes_of(plan, file)
    check_before(shapes, state_dict, file)
    missing = [name for name in keep if _source(name, state_dict) not in state_dict]
    if missing:
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise InputError(f"the state_dict lacks {listed}, which the plan cuts", file=file, hint=HINT)
    removed, result = _removed(plan, state_dict, file), dict(state_dict)
    for name, axes in keep.items():
        source = _source(name, state_dict)
        flip = source != name
        for axis, indices in sorted(axes.items()):
            result[source] = _cut(result[source], 1 - axis if flip else axis, indices, source, file)
        if len(state_dict[source].shape) == 1 and source.endswith(".weight"):
            _follow(result, source[: -len("weight")], axes[0], {*keep, *shapes}, file)
    check_after(shapes, plan, state_dict, result, file)
    return _without(result, removed)


def _removed(plan: Mapping[str, Any], state_dict: Mapping[str, Any], file: object) -> list[str]:
    """The layers that went whole, by the state_dict's names.

    A layer whose initializers have lost their names in the export goes by its node's, `/model.2/cv1/conv/Conv`; a
    BatchNorm that the export had folded is left out with its convolution.

    Raises:
        InputError: the state_dict has none of such a name.
    """
    names = plan.get("removed", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InputError("the plan's 'removed' is no list of layers", file=file, hint="compile again")
    found = [name if _has(state_dict, name) else module_of(name) for name in names]
    # What has no module's name is a number of the export's own, which no state_dict holds.
    missing = [old for old, new in zip(names, found, strict=True) if not _has(state_dict, new) and "." in new]
    if missing:
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise InputError(f"the state_dict lacks {listed}, which the plan removes", file=file, hint=HINT)
    return [name for layer in found for name in (layer, *_folded_norms(layer, state_dict))]


def _has(state_dict: Mapping[str, Any], layer: str) -> bool:
    return any(_belongs(key, layer) for key in state_dict)


def _folded_norms(layer: str, state_dict: Mapping[str, Any]) -> list[str]:
    """The BatchNorm beside a removed convolution, where its module holds just these two."""
    parent, dot, _ = layer.rpartition(".")
    if not dot or f"{layer}.weight" not in state_dict:
        return []
    beside = {key[len(parent) + 1 :].split(".")[0] for key in state_dict if _belongs(key, parent) and key != parent}
    others = [f"{parent}.{name}" for name in sorted(beside) if f"{parent}.{name}" != layer]
    norms = [name for name in others if f"{name}.running_var" in state_dict]
    width = int(state_dict[f"{layer}.weight"].shape[0])
    same = len(norms) == 1 == len(others) and int(state_dict[f"{norms[0]}.running_var"].shape[0]) == width
    return norms if same else []


def _without(state: dict[str, Any], removed: list[str]) -> dict[str, Any]:
    return {key: tensor for key, tensor in state.items() if not any(_belongs(key, name) for name in removed)}


def _belongs(key: str, layer: str) -> bool:
    return key == layer or key.startswith(f"{layer}.")


def _follow(result: dict[str, Any], stem: str, indices: Any, known: set[str], file: object) -> None:
    """Cut what a BatchNorm has besides its weight, where the plan does not speak of it."""
    for leaf in _FOLLOWERS:
        name = stem + leaf
        if name in result and name not in known:
            result[name] = _cut(result[name], 0, indices, name, file)


def apply_plan_file(plan: Path, checkpoint: Path, out: Path) -> Path:
    """What `onnxslim-yolo apply-plan PLAN CKPT -o OUT` does: read both files, write the cut state_dict.

    A checkpoint of a whole model becomes a plain state_dict. The ending `.safetensors` writes that format.

    Raises:
        InputError: as `apply_plan`, or a file cannot be read.
    """
    content = read_plan(plan)
    result = apply_plan(content, read_state_dict(checkpoint), file=checkpoint)
    if out.suffix == ".safetensors":
        from safetensors.torch import save

        data = save({name: tensor.contiguous() for name, tensor in result.items()})
    else:
        import torch

        stream = io.BytesIO()
        torch.save(result, stream)
        data = stream.getvalue()
    return write_atomically(out, data)


def read_plan(path: Path) -> Any:
    """The content of a NAME.plan.json, not yet checked. Raises InputError where it is no JSON."""
    import json

    require_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError("no such file", file=path) from error
    except RecursionError as error:
        raise InputError("is nested too deeply for a plan", file=path) from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as JSON: {error}", file=path, hint="give a NAME.plan.json") from error


def read_state_dict(path: Path) -> dict[str, Any]:
    """A checkpoint's weights by name, whatever it is: a state_dict, safetensors, or a pickled model (read safely)."""
    from onnxslim_yolo.load.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path)
    return dict(checkpoint.state_dict if checkpoint.module is None else checkpoint.module.state_dict())


def _checked(plan: Mapping[str, Any], file: object) -> dict[str, dict[int, Any]]:
    """The plan's `keep`, axes as numbers."""
    if not isinstance(plan, Mapping) or plan.get("format") != FORMAT:
        raise InputError("the plan is none of this package's", file=file, hint="give the content of a NAME.plan.json")
    if plan.get("version") not in READABLE:
        expected = " or ".join(map(str, READABLE))
        raise InputError(
            f"the plan has version {plan.get('version')}, expected {expected}", file=file, hint="compile again"
        )
    try:
        return {
            str(name): {int(axis): indices for axis, indices in axes.items()} for name, axes in plan["keep"].items()
        }
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"the plan's 'keep' is damaged: {error!r}", file=file, hint="compile again") from error


def _source(name: str, state_dict: Mapping[str, Any]) -> str:
    """The state_dict's key: a transposed Linear's weight is called `KEY.T` in the graph of a traced module."""
    return name[:-2] if name.endswith(".T") and name not in state_dict else name


def _cut(tensor: Any, axis: int, indices: Any, name: str, file: object) -> Any:
    if not 0 <= axis < len(tensor.shape):
        raise InputError(f"'{name}' has {len(tensor.shape)} axes, the plan cuts axis {axis}", file=file, hint=HINT)
    nested = isinstance(indices, list) and bool(indices) and isinstance(indices[0], list)
    lists = indices if nested else [indices]
    length = int(tensor.shape[axis])
    for one in lists:
        _check_indices(one, length, name, axis, file)
    if not nested:
        return _take(tensor, np.asarray(indices, dtype=np.int64), axis)
    return _cut_groups(tensor, lists, name, file)


def _check_indices(indices: Any, length: int, name: str, axis: int, file: object) -> None:
    whole = isinstance(indices, list) and all(type(i) is int for i in indices)
    if not whole or not indices:
        raise InputError(f"the plan's indices for '{name}', axis {axis}, are no list of numbers", file=file)
    if indices[0] < 0 or indices[-1] >= length or any(a >= b for a, b in pairwise(indices)):
        raise InputError(
            f"'{name}' has {length} channels along axis {axis}; the plan's indices {indices[0]} … {indices[-1]} "
            "do not lie within them in ascending order",
            file=file,
            hint=HINT,
        )


def _cut_groups(tensor: Any, lists: list[list[int]], name: str, file: object) -> Any:
    """A grouped convolution's input axis: each group's rows keep channels of their own."""
    rows = int(tensor.shape[0])
    widths = {len(one) for one in lists}
    if rows % len(lists) or len(widths) != 1:
        raise InputError(
            f"'{name}' has {rows} rows, which {len(lists)} groups of {sorted(widths)} channels do not share evenly",
            file=file,
            hint=HINT,
        )
    per_row = np.repeat(np.asarray(lists, dtype=np.int64), rows // len(lists), axis=0)
    row = np.arange(rows)[:, None]
    return tensor[_index(tensor, row), _index(tensor, per_row)]


def _take(tensor: Any, indices: Array, axis: int) -> Any:
    return tensor[(slice(None),) * axis + (_index(tensor, indices),)]


def _index(tensor: Any, indices: Array) -> Any:
    """Indices of the tensor's own kind: torch refuses some numpy arrays."""
    if isinstance(tensor, np.ndarray):
        return indices
    import torch

    return torch.from_numpy(indices)
