"""The process in which the installed Ultralytics builds a network from its yaml, which is then narrowed and run.

A script of its own: it reads one line of JSON from stdin (see `slim_checkpoint.request_of`), and from its folder
`tensors.npz` (the narrow network's), `wide.npz` (the checkpoint's) and `images.npz`. It writes `slim.pt` and
`outputs.npz` there and answers with one line: `{"version": …}`, or `{"error": …}` with the parts of an error. The
checkpoint itself is never opened here: nothing that was pickled by somebody else is run.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Cuts = Mapping[str, Mapping[str, list[int]]]
"""Per layer and axis of its weight, the indices that stay."""

CLASSES = ("DetectionModel", "SegmentationModel", "PoseModel", "OBBModel", "ClassificationModel")
"""The models of `ultralytics.nn.tasks` that are built."""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Build, narrow, run, save."""
    from onnxslim_yolo.errors import OnnxSlimError

    try:
        return _build(request)
    except OnnxSlimError as error:
        parts = {key: getattr(error, key) for key in ("message", "node", "hint")}
        return {"error": {"kind": type(error).__name__, **parts}, "traceback": traceback.format_exc()}
    except Exception as error:
        parts = {"message": f"{type(error).__name__}: {str(error)[:300]}", "node": None, "hint": None}
        return {"error": {"kind": "Unexpected", **parts}, "traceback": traceback.format_exc()}


def _build(request: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    import torch
    import ultralytics

    from onnxslim_yolo.training.module_widths import heads_left, narrow

    torch.set_num_threads(1)
    wide, tensors = _tensors("wide.npz"), _tensors("tensors.npz")
    model = built(request, wide)
    pass_on(model, wide.keys() - tensors.keys(), request["removed"], request["bridged"])
    with np.load("images.npz") as held:
        images = [torch.from_numpy(held[name]) for name in held.files]
    found: dict[str, Any] = {}
    if request["mask"]:
        _keep(found, "masked", masked(model, request["cuts"]), images)
    heads = heads_left(model, request["cuts"])
    narrow(model, {**tensors, **followers(model, tensors, request["cuts"], images[0])}, heads=heads)
    try:
        _keep(found, "slim", model, images)
        copy.deepcopy(model).train()(torch.cat([images[0], images[0].flip(-1)]))  # what only training runs
    except RuntimeError as error:
        from onnxslim_yolo.errors import InputError
        from onnxslim_yolo.training.module_widths import HINT

        raise InputError(f"Ultralytics' code does not run with these widths: {str(error)[:200]}", hint=HINT) from error
    _keep(found, "spoiled", spoiled(model), images)
    _keep(found, "double", copy.deepcopy(model).double(), [image.double() for image in images])
    np.savez("outputs.npz", **found)
    torch.save(checkpoint(model, request), "slim.pt")
    return {"version": ultralytics.__version__, "parameters": sum(p.numel() for p in model.parameters())}


def _tensors(file: str) -> dict[str, Tensor]:
    import numpy as np
    import torch

    with np.load(file) as held:
        return {name: torch.from_numpy(held[name]) for name in held.files}


def built(request: Mapping[str, Any], wide: Mapping[str, Tensor]) -> nn.Module:
    """The full-width network that the installed Ultralytics builds.

    Raises:
        InputError: it does not build it, or builds another one than the checkpoint's.
    """
    import ultralytics
    from ultralytics.nn import tasks

    from onnxslim_yolo.errors import InputError
    from onnxslim_yolo.training.module_widths import narrow

    here = f"the installed Ultralytics {ultralytics.__version__}"
    hint = f"install the version that wrote the checkpoint ({request['written_by'] or 'not said'}), or a newer one"
    if request["class"] not in CLASSES or not hasattr(tasks, request["class"]):
        raise InputError(f"a {request['class']} is none of the models that {here} trains: {', '.join(CLASSES)}")
    yaml = unguarded(request["yaml"], request["guard"])
    try:
        model: nn.Module = getattr(tasks, request["class"])(yaml, ch=yaml.get("channels", 3), verbose=False)
    except Exception as error:  # whatever its parser meets
        what = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(f"{here} does not build the checkpoint's yaml ({what})", hint=hint) from error
    layers: Any = model.model
    for name, value in request["head"].items():
        setattr(layers[-1], name, value)
    own = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    theirs = {key: tuple(tensor.shape) for key, tensor in wide.items()}
    if yaml != request["yaml"] and own.keys() >= theirs.keys():  # it has been pruned before
        gone = own.keys() - theirs.keys()
        pass_on(model, gone, [], sorted({name.rpartition(".")[0] for name in gone}))
        narrow(model, wide, heads=request["heads"], scaled=True)
        return model.eval()
    differing = sorted(key for key in own.keys() | theirs.keys() if own.get(key) != theirs.get(key))
    if differing:
        key = differing[0]
        shown = f"'{key}' is {theirs.get(key, 'missing')} in the file and {own.get(key, 'missing')} there"
        raise InputError(
            f"{here} builds another network from the checkpoint's yaml: {len(differing)} tensors differ ({shown})",
            hint=hint,
        )
    model.load_state_dict(wide)
    return model.eval()


def pass_on(model: nn.Module, gone: Set[str], layers: Sequence[str], bridged: Sequence[str] = ()) -> None:
    """Put an identity where all of a module went, in place.

    Args:
        gone: the tensors that are no longer there. layers: what the plan calls them. bridged: those of them in whose
            place stands what they were given.

    Raises:
        UnsupportedError: a layer went whose module's code calls it.
    """
    from torch import nn

    from onnxslim_yolo.errors import UnsupportedError
    from onnxslim_yolo.pruning.module_blocks import gone_modules

    parts = dict(model.named_modules())
    lists = frozenset(path for path, part in parts.items() if isinstance(part, (nn.ModuleList, nn.Sequential)))
    paths, rest = gone_modules(sorted(gone), model.state_dict().keys() - gone, list(parts), lists)
    within = {path: [name for name in sorted(gone) if name.startswith(f"{path}.")] for path in paths}
    rest += [name for path in paths for name in within[path] if not (_adds(parts[path]) or _lies_in(name, bridged))]
    if rest:
        name = next((layer for layer in layers if rest[0].startswith(f"{layer}.")), rest[0])
        raise UnsupportedError(
            f"the plan removes whole layers ({name}), which Ultralytics' code calls",
            hint="compile the checkpoint with --emit ultralytics, which takes out only what its code can do without",
        )
    for path in paths:
        holder, _, name = path.rpartition(".")
        identity = nn.Identity()
        for own in ("i", "f", "type", "np"):  # what Ultralytics notes on the modules of its list
            if own in vars(parts[path]):
                setattr(identity, own, vars(parts[path])[own])
        parts[holder]._modules[name] = identity


def _lies_in(name: str, layers: Sequence[str]) -> bool:
    """Whether a tensor is of one of these layers."""
    return any(name.startswith(f"{layer}.") for layer in layers)


def _adds(part: nn.Module) -> bool:
    """Whether a module without its branch gives back what it takes: a switch of its own says so."""
    return getattr(part, "add", False) is True


def followers(model: nn.Module, tensors: Mapping[str, Tensor], cuts: Cuts, image: Tensor) -> dict[str, Tensor]:
    """Weights of layers that only training runs, cut as those of the layers that read the very same tensor.

    The plan does not know them: they are not in the graph that it was made of. Told by running the full-width network
    as for training.

    Args:
        tensors: what the plan leaves. cuts: see `slim_checkpoint.cuts_of`.
    """
    import torch
    from torch import nn

    copied = copy.deepcopy(model).train()
    read: dict[str, Tensor] = {}
    for path, part in copied.named_modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            part.register_forward_pre_hook(lambda _m, x, path=path: read.__setitem__(path, x[0]))
    with torch.no_grad():
        copied(torch.cat([image, image.flip(-1)]))
    parts: dict[str, Any] = dict(copied.named_modules())
    kept = {_place(read[path]): axes["1"] for path, axes in cuts.items() if path in read and "1" in axes}
    found: dict[str, Tensor] = {}
    for path, value in read.items():
        indices, key = kept.get(_place(value)), f"{path}.weight"
        whole = getattr(parts[path], "groups", 1) == 1 and tensors[key].shape[1] == parts[path].weight.shape[1]
        if indices is not None and whole and "1" not in cuts.get(path, {}):
            found[key] = tensors[key][:, torch.tensor(indices)]
    return found


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    """Where a tensor lies: a detached one lies where its source does."""
    return tensor.data_ptr(), tuple(tensor.shape)


def masked(model: nn.Module, cuts: Cuts) -> nn.Module:
    """A copy in which removed channels are zero wherever a layer reads them or a norm gives them."""
    import torch
    from torch import nn

    copied = copy.deepcopy(model)
    parts: dict[str, Any] = dict(copied.named_modules())
    for path, axes in cuts.items():
        part = parts[path]
        norm = isinstance(part, nn.modules.batchnorm._NormBase)
        kept = axes.get("0" if norm or isinstance(part, nn.ConvTranspose2d) else "1")
        if kept is None:
            continue
        mask = torch.zeros(part.num_features if norm else getattr(part, "in_features", None) or part.in_channels)
        mask[torch.tensor(kept)] = 1
        mask = mask if isinstance(part, nn.Linear) else mask.view(-1, 1, 1)
        if norm:
            part.register_forward_hook(lambda _m, _i, y, mask=mask: y * mask)
        else:
            part.register_forward_pre_hook(lambda _m, x, mask=mask: (x[0] * mask,))
    return copied


def spoiled(model: nn.Module) -> nn.Module:
    """A copy with one layer in the middle 1 % off, up or down at random: what a comparison has to notice."""
    import torch
    from torch import nn

    copied = copy.deepcopy(model)
    layers = [part for part in copied.modules() if isinstance(part, nn.Conv2d)]
    weight = layers[len(layers) // 2].weight
    signs = torch.randint(0, 2, weight.shape, generator=torch.Generator().manual_seed(0)) * 0.02 - 0.01
    with torch.no_grad():
        weight *= 1 + signs
    return copied


def _keep(found: dict[str, Any], name: str, model: nn.Module, images: list[Tensor]) -> None:
    for i, image in enumerate(images):
        for j, output in enumerate(outputs(model, image)):
            found[f"{name}.{i}.{j}"] = output.float().numpy()


def outputs(model: nn.Module, image: Tensor) -> list[Tensor]:
    """What an exported file of the model would compute, tensor by tensor."""
    import torch

    exported = copy.deepcopy(model).eval()
    for part in exported.modules():
        if hasattr(part, "export"):
            part.export, part.format = True, "onnx"  # type: ignore[assignment]
        if getattr(part, "one2one_cv2", None) is not None:
            part.end2end = getattr(part, "_end2end", True)  # type: ignore[assignment]
    with torch.no_grad():
        return list(_flat(exported(image)))


def _flat(value: Any) -> Iterator[Tensor]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for item in items:
        yield from _flat(item)


def checkpoint(model: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """What is saved: a checkpoint as Ultralytics' trainer leaves one, with where it came from beside it."""
    import ultralytics

    if request["names"]:
        model.names = {int(number): str(name) for number, name in request["names"]}
    model.args, model.task = request["settings"], request["task"]
    model.pruned_from = request["pruned_from"]
    model.yaml = guarded(model.yaml, request["guard"])
    for parameter in model.parameters():
        parameter.requires_grad = True
    return {
        "epoch": -1,
        "best_fitness": None,
        "model": model.eval(),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": request["settings"],
        "onnxslim_yolo": request["pruned_from"],
        "version": ultralytics.__version__,
        **request["facts"],
    }


def guarded(yaml: dict[str, Any], message: str) -> dict[str, Any]:
    """A yaml of which nothing can be built: whoever tries is shown the message instead of a wide, untrained network."""
    return {**yaml, "backbone": [[-1, 1, message, []], *yaml["backbone"]]}


def unguarded(yaml: Mapping[str, Any], message: str) -> dict[str, Any]:
    """A yaml without its guard, as a copy."""
    rows = [row for row in yaml["backbone"] if row[2] != message]
    return copy.deepcopy({**yaml, "backbone": rows})


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever Ultralytics prints goes to stderr, not between our replies
    reply = answer(json.loads(sys.stdin.buffer.readline()))
    channel.write(json.dumps(reply).encode() + b"\n")
    channel.flush()
